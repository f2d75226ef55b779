"""The U-Net, with any block, in two or three dimensions.

Source: Ronneberger, Fischer, Brox 2015, arXiv:1505.04597. Differs, after Isensee et al. 2021,
doi:10.1038/s41592-020-01008-z: zero padding, instance normalisation, leaky ReLU, strided
convolutions down and up, a stride an axis and level. No code followed.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.conv import activation, check_ndim, conv, norm, sizes, stride_of, transposed

Block = Callable[..., nn.Module]


def _unit(i: int, o: int, ndim: int, stride: Sequence[int] | int = 1) -> nn.Sequential:
    """Convolution, instance normalisation, leaky ReLU."""
    convolution = conv(i, o, kernel=3, ndim=ndim, stride=stride, bias=False)
    return nn.Sequential(convolution, norm(o, "instance", ndim=ndim), activation("leaky_relu"))


def _stage(
    i: int, o: int, ndim: int, block: Block | None, stride: Sequence[int] | int = 1
) -> nn.Sequential:
    """A convolution that changes width and size, then the block."""
    second = _unit(o, o, ndim) if block is None else block(o, ndim=ndim)
    return nn.Sequential(_unit(i, o, ndim, stride), second)


class UNet(nn.Module):
    """Encoder and decoder with a skip at every level; all contrasts enter stacked.

    Args:
        in_channels: stacked contrasts.
        n_classes: background included.
        block: makes the second half of every stage from its channels and `ndim`; a convolution,
            instance normalisation and leaky ReLU if none is given.
        width: features of the first level; they double with each level, up to `max_width`.
        depth: number of times the size is reduced.
        ndim: 2 (slices) or 3 (volumes).
        strides: each reduction, a number or one an axis; 2 everywhere by default.
        max_width: most features of any level.
    """

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        *,
        block: Block | None = None,
        width: int = 32,
        depth: int = 4,
        ndim: int = 2,
        strides: Sequence[int | Sequence[int]] | None = None,
        max_width: int = 512,
    ) -> None:
        super().__init__()
        _check(in_channels, n_classes, width, depth)
        steps = [2] * depth if strides is None else list(strides)
        if len(steps) != depth:
            raise ValueError(f"strides has {len(steps)} entries for depth {depth}; give as many")
        self.ndim = check_ndim(ndim)
        self.stride = stride_of(steps, ndim)
        widths = [min(width * 2**level, max_width) for level in range(depth + 1)]
        pairs = list(zip(widths, widths[1:], (sizes(s, ndim) for s in steps), strict=False))
        self.enter = _stage(in_channels, width, ndim, block)
        self.encoder = nn.ModuleList(_stage(i, o, ndim, block, s) for i, o, s in pairs)
        self.up = nn.ModuleList(
            transposed(o, i, stride=s, ndim=ndim) for i, o, s in reversed(pairs)
        )
        self.decoder = nn.ModuleList(_stage(2 * i, i, ndim, block) for i, _, _ in reversed(pairs))
        self.head = conv(width, n_classes, kernel=1, ndim=ndim)

    def forward(self, image: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        """Logits; every spatial size is a multiple of `stride`."""
        x = self.enter(image)
        skips = []
        for stage in self.encoder:
            skips.append(x)
            x = stage(x)
        for up, stage, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            x = stage(torch.cat([skip, up(x)], 1))
        return self.head(x)


def _check(in_channels: int, n_classes: int, width: int, depth: int) -> None:
    numbers = {"in_channels": in_channels, "n_classes": n_classes, "width": width, "depth": depth}
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be at least 1")
