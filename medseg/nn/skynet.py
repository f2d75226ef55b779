"""U-Nets of hybrid blocks on a grid of the sphere, linear ones gated by the mask, and plain ones.

Source: the ideas of arXiv:2501.06139's abstract (standard and dilated convolutions, scales
integrated); everything else is our design. Images are those of `medseg.nn.faces.to_planes`.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.faces import FaceConv
from medseg.nn.hybrid import GatedHybrid, Hybrid, keep_variance

Dilations = Sequence[Sequence[int]]

LOUD = 2.0
CELL = 2
"""A cell is 2 x 2 pixels: four siblings of the NESTED order, whose values become channels."""


class MaskBranch(nn.Module):
    """Features of what is hidden and of where, at every level of a U-Net of cells.

    Activations are odd and weights keep the variance, so that features start as large as what they
    gate, and differ with the mask: a gate that starts nearly constant is learned late.

    Args:
        in_channels: of the images of the mask and the place.
        channels: features at every level.
        levels: how many resolutions, the first that of cells.
        grid: of `medseg.nn.faces.GRIDS`.
    """

    def __init__(self, in_channels: int, channels: int, *, levels: int, grid: str) -> None:
        super().__init__()

        def row(wide: int, many: int) -> nn.ModuleList:
            return nn.ModuleList(FaceConv(wide, channels, grid=grid) for _ in range(many))

        self.entry = nn.Conv2d(in_channels, channels, 1)
        self.first, self.second = row(channels, levels), row(channels, levels)
        self.back = row(2 * channels, levels - 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                keep_variance(layer)

    def forward(self, x: Float[Tensor, "f c x y"]) -> list[Float[Tensor, "f g u v"]]:
        """Features from fine to coarse."""
        x, kept = self.entry(x), []
        for level, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            x = first(functional.avg_pool2d(x, 2) if level else x).tanh()
            x = x + second(x).tanh()
            kept.append(x)
        for level in reversed(range(len(self.back))):
            both = torch.cat([functional.interpolate(x, scale_factor=2), kept[level]], 1)
            x = kept[level] = self.back[level](both).tanh()
        return [LOUD * features for features in kept]


class GatedBody(nn.Module):
    """From images to images by a matrix that depends on the gates' features alone: linear, no bias.

    Args:
        in_channels: of the images.
        out_channels: of what comes out; it starts as zero.
        widths: channels of each level, the first that of cells.
        dilations: of the hybrid blocks of each level on the way down.
        decoder: the same on the way up, for all levels but the last.
        stem: channels at the resolution of pixels.
        gates: channels of the features.
        grid: of `medseg.nn.faces.GRIDS`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int],
        dilations: Dilations,
        decoder: Dilations,
        stem: int,
        gates: int,
        grid: str,
    ) -> None:
        super().__init__()

        def row(many: Dilations) -> nn.ModuleList:
            return nn.ModuleList(
                nn.ModuleList(GatedHybrid(c, gates=gates, dilation=d, grid=grid) for d in each)
                for c, each in zip(widths, many, strict=False)
            )

        def mix(i: int, o: int) -> nn.Conv2d:
            return nn.Conv2d(i, o, 1, bias=False)

        cells = stem * CELL**2
        self.stem = FaceConv(in_channels, stem, bias=False, grid=grid)
        self.entry, self.exit = mix(cells, widths[0]), mix(widths[0], cells)
        self.encoder, self.decoder = row(dilations), row(decoder)
        self.down = nn.ModuleList(mix(i, o) for i, o in pairwise(widths))
        self.up = nn.ModuleList(mix(i + o, i) for i, o in pairwise(widths))
        self.head = FaceConv(2 * stem, out_channels, bias=False, grid=grid)
        for layer in (self.stem, self.entry, self.exit, *self.down, *self.up):
            keep_variance(layer)
        nn.init.zeros_(self.head.weight)

    def forward(
        self, x: Float[Tensor, "f c x y"], features: Sequence[Tensor]
    ) -> Float[Tensor, "f o x y"]:
        """Images of the same size; features from fine to coarse, the finest that of cells."""
        pixels = self.stem(x)
        x, kept = self.entry(functional.pixel_unshuffle(pixels, CELL)), []
        for level, blocks in enumerate(self.encoder):
            if level:
                x = self.down[level - 1](functional.avg_pool2d(x, 2))
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, features[level])
            kept.append(x)
        for level in reversed(range(len(self.up))):
            both = torch.cat([kept[level], functional.interpolate(x, scale_factor=2)], 1)
            x = self.up[level](both)
            for block in self.decoder[level]:  # type: ignore[attr-defined]
                x = block(x, features[level])
        return self.head(torch.cat([functional.pixel_shuffle(self.exit(x), CELL), pixels], 1))


class PlainBody(nn.Module):
    """A nonlinear U-Net: hybrid blocks on the way down, plain convolutions on the way up.

    Args:
        in_channels: of the images.
        out_channels: of what comes out.
        widths: channels of each level, multiples of 8; the first level is that of pixels.
        dilations: of the hybrid blocks of each level.
        decoder: of the plain convolutions on the way up, for all levels but the last.
        grid: of `medseg.nn.faces.GRIDS`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int],
        dilations: Dilations,
        decoder: Dilations,
        grid: str,
    ) -> None:
        super().__init__()

        def blocks(c: int, each: Sequence[int]) -> nn.Sequential:
            return nn.Sequential(*(Hybrid(c, dilation=d, grid=grid) for d in each))

        def refine(c: int, each: Sequence[int]) -> nn.Sequential:
            made = ((FaceConv(c, c, dilation=d, grid=grid), nn.GELU()) for d in each)
            return nn.Sequential(*(layer for pair in made for layer in pair))

        self.stem = FaceConv(in_channels, widths[0], grid=grid)
        self.encoder = nn.ModuleList(map(blocks, widths, dilations))
        self.down = nn.ModuleList(FaceConv(i, o, grid=grid) for i, o in pairwise(widths))
        self.up = nn.ModuleList(FaceConv(i + o, i, grid=grid) for i, o in pairwise(widths))
        self.decoder = nn.ModuleList(map(refine, widths[:-1], decoder))
        self.head = nn.Conv2d(widths[0], out_channels, 1)

    def forward(self, x: Float[Tensor, "f c x y"]) -> Float[Tensor, "f o x y"]:
        """Images of the same size."""
        x, kept = functional.gelu(self.stem(x)), []
        for level, blocks in enumerate(self.encoder):
            if level:
                x = functional.gelu(self.down[level - 1](functional.avg_pool2d(x, 2)))
            x = blocks(x)
            kept.append(x)
        for level in reversed(range(len(self.up))):
            both = torch.cat([kept[level], functional.interpolate(x, scale_factor=2)], 1)
            x = self.decoder[level](functional.gelu(self.up[level](both)))
        return self.head(x)
