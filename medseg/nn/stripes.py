"""A residual block without gradients, a stripe of rows at a time: large maps never go to memory.

Source: none; the values are those of `medseg.nn.pyramid.Block`. Half of the time of a plain block
goes to memory: each layer writes a whole map that the next one reads. Here a map is passed over
twice, for the statistics of the second norm and for the output, and the few stripes alive at a time
fit the processor's cache. Both passes make the first convolution, which is cheaper than memory for
its result; a small map is one stripe, made once. A norm is an affine function, once its statistics
are known, and becomes one with the convolution before it; those of the skip follow from the input.
"""

import math
from collections.abc import Iterable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

STRIPE = 2**20  # numbers in a stripe of a map
_WIDE = 256  # numbers in a row of a flat map: enough for vector instructions

_Line = Float[Tensor, " c"]


def striped(
    block: nn.Sequential,
    skip: nn.Module,
    *,
    x: Float[Tensor, "b c h w"],
    channels: int,
    keep: bool,
) -> tuple[Float[Tensor, "b d h w"] | None, Float[Tensor, "b d h2 w2"]]:
    """ReLU(block(x) + skip(x)), unless it is not to be kept, and its maximum of 2 x 2 pixels."""
    if len(x) > 1 and isinstance(block[0], nn.GroupNorm):
        single = [striped(block, skip, x=image[None], channels=channels, keep=keep) for image in x]
        full = torch.cat([one for one, _ in single if one is not None]) if keep else None
        return full, torch.cat([one for _, one in single])
    first, _, conv1, second, _, conv2 = block
    b, c, height, width = x.shape
    rows = _rows((b, max(c, channels), height, width))
    spans = [(start, min(start + rows, height)) for start in range(0, height, rows)]
    moments = _moments([x], joint=True)
    a = _activated(x, *_affine(first, moments[0], moments[1].diagonal(dim1=1, dim2=2)))
    plain = conv1.get_parameter("weight"), conv1.get_parameter("bias")
    only = [_convolved(a, *plain, 0, height)] if len(spans) == 1 else []
    hidden = only or (_convolved(a, *plain, *span) for span in spans)
    scale, shift = _affine(second, *_moments(hidden))
    normed = plain[0] * scale[:, None, None, None], plain[1] * scale + shift
    matrix, offset = _folded(skip, *moments)
    last = conv2.get_parameter("weight"), conv2.get_parameter("bias") + offset

    full = _empty(x, channels, height, width) if keep else None
    half = _empty(x, channels, height // 2, width // 2)
    for start, end in spans:
        above, below = max(start - 1, 0), min(end + 1, height)
        if only:
            y = _activated(only[0], scale, shift)
        else:
            y = _convolved(a, *normed, above, below).relu_()
        y = _convolved(y, *last, start - above, end - above)
        y = _plus(y, x[:, :, start:end], matrix).relu_()
        if full is not None:
            full[:, :, start:end] = y
        _halve(y, half[:, :, start // 2 : end // 2])
    return full, half


def _rows(shape: tuple[int, int, int, int]) -> int:
    """Rows of a stripe for a map of this shape (b, c, h, w): even, or all if it is small."""
    b, c, h, w = shape
    rows = max(STRIPE // (b * c * w) // 2 * 2, 2)
    return rows if 2 * rows < h else h


def _halve(x: Float[Tensor, "b c h w"], out: Float[Tensor, "b c h2 w2"]) -> None:
    """Maximum of every 2 x 2 pixels; an odd last row or column is left out."""
    h, w = (side // 2 * 2 for side in x.shape[2:])
    x = torch.maximum(x[:, :, 0:h:2], x[:, :, 1:h:2])
    torch.maximum(x[..., 0:w:2], x[..., 1:w:2], out=out)


def _convolved(
    x: Float[Tensor, "b c h w"], weight: Tensor, bias: Tensor, start: int, end: int
) -> Float[Tensor, "b d rows w"]:
    """Rows of a convolution of size 3, from the rows of its input that it reaches."""
    first, last = max(start - 1, 0), min(end + 1, x.shape[2])
    y = functional.conv2d(x[:, :, first:last], weight, bias, padding=1)
    return y.contiguous(memory_format=torch.channels_last)[:, :, start - first : end - first]


def _activated(x: Tensor, scale: _Line, shift: _Line) -> Tensor:
    """ReLU(scale · x + shift)."""
    out, k = _empty(x, *x.shape[1:]), _tiles(*x.shape[1::2])
    torch.addcmul(shift.repeat(k), _flat(x), scale.repeat(k), out=_flat(out)).relu_()
    return out


def _plus(y: Tensor, x: Tensor, matrix: Tensor | None) -> Tensor:
    """Add x, by way of the matrix if there is one, to y in place."""
    if matrix is None:
        return y.add_(x)
    for pixels, source in zip(y, x, strict=True):
        rows = pixels.permute(1, 2, 0).view(-1, len(pixels))
        rows.addmm_(rearrange(source, "c h w -> (h w) c"), matrix)
    return y


def _folded(skip: nn.Module, mean: Tensor, covariance: Tensor) -> tuple[Tensor | None, Tensor]:
    """The skip's convolution and norm as matrix and offset, from the moments of x."""
    if not isinstance(skip, nn.Sequential):
        return None, mean.new_zeros(())
    conv, norm = skip
    weight = rearrange(conv.get_parameter("weight"), "d c 1 1 -> d c")
    spread = ((weight @ covariance) * weight).sum(-1)
    scale, shift = _affine(norm, mean @ weight.T, spread)
    return weight.T * scale, shift


def _affine(
    norm: nn.Module, mean: Float[Tensor, "b c"], variance: Float[Tensor, "b c"]
) -> tuple[_Line, _Line]:
    """Scale and shift of a norm from its input's moments, those of one image if it needs them."""
    if not isinstance(norm, nn.GroupNorm | nn.BatchNorm2d):
        raise TypeError(f"{type(norm).__name__} is no norm of known statistics")
    if isinstance(norm, nn.GroupNorm):
        size = norm.num_channels // norm.num_groups
        found = _merged(mean.view(-1, size), variance.view(-1, size), 1)
        centre, spread = (moment.repeat_interleave(size) for moment in found)
    elif norm.running_mean is not None and norm.running_var is not None:
        centre, spread = norm.running_mean, norm.running_var
    else:
        centre, spread = _merged(mean, variance, 0)
    scale = norm.weight * (spread + norm.eps).rsqrt()
    return scale, norm.bias - centre * scale


def _merged(mean: Tensor, variance: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of equally large parts together, of which each has its own."""
    return mean.mean(axis), variance.mean(axis) + mean.var(axis, correction=0)


def _moments(
    stripes: Iterable[Tensor], *, joint: bool = False
) -> tuple[Float[Tensor, "b c"], Tensor]:
    """Means of the channels over all stripes, and their variances or (joint) covariances."""
    found = [_stripe_moments(stripe, joint) for stripe in stripes]
    counts, means, spreads = zip(*found, strict=True)
    share = torch.tensor(counts, dtype=means[0].dtype) / sum(counts)
    mean = torch.einsum("s,sbc->bc", share, torch.stack(means))
    off = torch.stack(means) - mean
    between = off[..., None] * off[..., None, :] if joint else off.square()
    return mean, torch.einsum("s,s...->...", share, torch.stack(spreads) + between)


def _stripe_moments(x: Tensor, joint: bool) -> tuple[int, Tensor, Tensor]:
    b, c, h, w = x.shape
    flat = _flat(x)
    mean = flat.sum(1).view(b, -1, c).sum(1) / (h * w)
    centred = flat - mean.repeat(1, _tiles(c, w))[:, None]
    if joint:
        lines = centred.view(b, h, w, c)  # a sum of short sums is more exact
        return h * w, mean, (lines.mT @ lines).mean(1) / w
    return h * w, mean, centred.square_().sum(1).view(b, -1, c).sum(1) / (h * w)


def _flat(x: Tensor) -> Float[Tensor, "b n kc"]:
    """The numbers of each image in the order of memory, some pixels a row."""
    b, c, _, w = x.shape
    return x.permute(0, 2, 3, 1).view(b, -1, _tiles(c, w) * c)


def _tiles(channels: int, width: int) -> int:
    """Pixels in a row of a flat map: the largest power of two that fits."""
    return math.gcd(width, 1 << max(_WIDE // channels, 1).bit_length() - 1)


def _empty(like: Tensor, *shape: int) -> Tensor:
    """Unwritten maps (c, h, w) for a batch, channels last."""
    c, h, w = shape
    return like.new_empty(like.shape[0], h, w, c).permute(0, 3, 1, 2)
