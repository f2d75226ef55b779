"""A residual block without gradients, a stripe of rows at a time: large maps never go to memory.

Source: none; the values are those of `medseg.nn.pyramid.Block`. Half of the time of a plain block
goes to memory: each layer writes a whole map that the next one reads. Here a map is passed over
twice, for the statistics of the second norm and for the output, and the few stripes alive at a time
fit the processor's cache. Both passes make the first convolution, which is cheaper than memory for
its result. A norm is an affine function, once its statistics are known; that of the skip, which
follow from the input's, becomes one with the skip's convolution.
"""

import math
from collections.abc import Callable, Iterable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

STRIPE = 2**20  # numbers in a stripe of a map
_WIDE = 256  # numbers in a row of a flat map: enough for vector instructions

_Rows = Callable[[int, int], Tensor]
_Affine = tuple[Float[Tensor, "_ c"], Float[Tensor, "_ c"]]


def stripe_rows(shape: tuple[int, int, int, int]) -> int:
    """Rows of a stripe for a map of this shape (b, c, h, w): even; all of them if it is small."""
    b, c, h, w = shape
    rows = max(STRIPE // (b * c * w) // 2 * 2, 2)
    return rows if 2 * rows < h else h


def striped(
    block: nn.Sequential, skip: nn.Module, x: Float[Tensor, "b c h w"], *, rows: int, keep: bool
) -> tuple[Float[Tensor, "b d h w"] | None, Float[Tensor, "b d h2 w2"]]:
    """ReLU(block(x) + skip(x)), unless it is not to be kept, and its maximum of 2 x 2 pixels."""
    first, _, conv1, second, _, conv2 = block
    height, width = x.shape[2:]
    spans = [(start, min(start + rows, height)) for start in range(0, height, rows)]
    mean, covariance = _moments((x[:, :, a:z] for a, z in spans), joint=True)
    entry = _wide(_affine(first, mean, covariance.diagonal(dim1=1, dim2=2)), width)

    def hidden(start: int, end: int) -> Tensor:
        return _convolved(conv1, lambda a, z: _activated(x[:, :, a:z], entry), start, end, height)

    middle = _wide(_affine(second, *_moments(hidden(a, z) for a, z in spans)), width)

    def inner(start: int, end: int) -> Tensor:
        y = hidden(start, end)
        return _activated(y, middle, out=y)

    folded = _folded(skip, mean, covariance, width)
    full = _empty(x, conv2.out_channels, height, width) if keep else None
    half = _empty(x, conv2.out_channels, height // 2, width // 2)
    for start, end in spans:
        y = _convolved(conv2, inner, start, end, height)
        _add_skip(y, x[:, :, start:end], folded)
        y.relu_()
        if full is not None:
            full[:, :, start:end] = y
        half[:, :, start // 2 : end // 2] = halved(y)
    return full, half


def halved(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Maximum of every 2 x 2 pixels; an odd last row or column is left out."""
    h, w = (side // 2 * 2 for side in x.shape[2:])
    x = torch.maximum(x[:, :, 0:h:2], x[:, :, 1:h:2])
    return torch.maximum(x[..., 0:w:2], x[..., 1:w:2])


def _convolved(conv: nn.Module, rows: _Rows, start: int, end: int, height: int) -> Tensor:
    """Rows of a convolution of size 3, from the rows of its input that it reaches."""
    a, z = max(start - 1, 0), min(end + 1, height)
    y: Tensor = conv(rows(a, z))
    return y[:, :, start - a : end - a]


def _activated(x: Tensor, affine: _Affine, *, out: Tensor | None = None) -> Tensor:
    """ReLU(scale · x + shift) by a wide affine function, in place if `out` is x."""
    scale, shift = affine
    out = _empty(x, *x.shape[1:]) if out is None else out
    torch.addcmul(shift, _flat(x), scale, out=_flat(out)).relu_()
    return out


def _add_skip(y: Tensor, x: Tensor, folded: _Affine | None) -> None:
    """Add x itself, or a matrix times x and a wide offset, to y in place."""
    if folded is None:
        y.add_(x)
        return
    matrix, offset = folded
    b, d, h, w = y.shape
    pixels = y.permute(0, 2, 3, 1).view(b, h * w, d)
    pixels.baddbmm_(rearrange(x, "b c h w -> b (h w) c"), matrix.expand(b, -1, -1))
    _flat(y).add_(offset)


def _folded(skip: nn.Module, mean: Tensor, covariance: Tensor, width: int) -> _Affine | None:
    """The skip's convolution and norm as matrix and wide offset, from the moments of x."""
    if isinstance(skip, nn.Identity):
        return None
    weight = rearrange(skip[0].weight, "d c 1 1 -> d c")
    affine = _affine(skip[1], mean @ weight.T, ((weight @ covariance) * weight).sum(-1))
    return rearrange(affine[0][..., None] * weight, "b d c -> b c d"), _wide(affine, width)[1]


def _affine(norm: nn.Module, mean: Float[Tensor, "b c"], variance: Float[Tensor, "b c"]) -> _Affine:
    """Scale and shift of a norm, for each image or for all, from its input's moments."""
    if isinstance(norm, nn.GroupNorm):
        b, c = mean.shape
        parts = (m.view(b, norm.num_groups, -1) for m in (mean, variance))
        merged = (m[..., None] for m in _merged(*parts, 2))
        size = c // norm.num_groups
        mean, variance = (m.expand(-1, -1, size).reshape(b, c) for m in merged)
    elif norm.track_running_stats:
        mean, variance = norm.running_mean[None], norm.running_var[None]
    else:
        mean, variance = _merged(mean[None], variance[None], 1)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


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
        pixels = centred.view(b, h * w, c)
        return h * w, mean, pixels.mT @ pixels / (h * w)
    return h * w, mean, centred.square_().sum(1).view(b, -1, c).sum(1) / (h * w)


def _flat(x: Tensor) -> Float[Tensor, "b n kc"]:
    """The numbers of each image in the order of memory, some pixels a row."""
    b, c, _, w = x.shape
    return x.permute(0, 2, 3, 1).view(b, -1, _tiles(c, w) * c)


def _wide(affine: _Affine, width: int) -> tuple[Float[Tensor, "_ 1 kc"], Float[Tensor, "_ 1 kc"]]:
    """Scale and shift for flat maps of this width."""
    scale, shift = (line.repeat(1, _tiles(line.shape[1], width))[:, None] for line in affine)
    return scale, shift


def _tiles(channels: int, width: int) -> int:
    """Pixels in a row of a flat map: the largest power of two that fits."""
    return math.gcd(width, 1 << max(_WIDE // channels, 1).bit_length() - 1)


def _empty(like: Tensor, *shape: int) -> Tensor:
    """Unwritten maps (c, h, w) for a batch, channels last."""
    c, h, w = shape
    return like.new_empty(like.shape[0], h, w, c).permute(0, 3, 1, 2)
