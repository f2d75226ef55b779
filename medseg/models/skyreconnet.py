"""SkyReconNet: the holes of a full-sky map filled by hybrid convolutions on the sphere's faces.

Source: arXiv:2501.06139, of which the abstract fixes: full-sky CMB maps with large irregular masks;
a hybrid of standard convolutions (detail) and dilated ones (large receptive field) whose scales are
integrated; a loss of SSIM and MSE. The abstract of its sequel (-P) adds Q and U, and regions of the
sphere that are processed on their own (`grid="regions"`). Everything else is our design: padded
faces, widths, depths, dilations, the fill to start from, the gates and the uncertainty.

With `gates="mask"` the network is linear in the map: its convolutions have no bias and no
activation, and features of the mask and of the place alone multiply what they find. For Gaussian
skies the best answer is of this kind. With `gates="none"` it is a plain nonlinear U-Net. Nothing
is built from a spectrum or a covariance.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.geometry.sphere import nside_of
from medseg.nn.faces import GRIDS, FaceConv, from_planes, position, to_planes
from medseg.nn.pyramidfill import pyramid_fill
from medseg.nn.skynet import CELL, Dilations, GatedBody, MaskBranch, PlainBody

PLACE = 4
MOST_FIELDS = 3
HEAD = 32
SEEN = 1.3
"""Twice the share of a sky that is seen, as a rule: the mask less this has about mean 0."""
RANGE = (-8.0, 3.0)
"""Natural logarithms of the smallest and largest deviation, in units of the scale."""


class SkyReconNet(nn.Module):
    """Mean and deviation of all pixels of a sky whose holes are hidden.

    The image is the fields in µK, 0 in holes, then the mask (1 seen, 0 hole), NESTED, of any nside
    from 16; with the same weights. Buffer `scale`: µK, one a field, the deviation of the training
    maps' seen pixels, set before training. What stands in the holes does not matter.

    Args:
        in_channels: fields (T; Q, U; or T, Q, U) and the mask.
        widths: channels of each level; the first is that of 2 x 2 cells with gates, else of pixels.
        dilations: of the dilated convolution in each hybrid block of each level on the way down.
        decoder: the same on the way up; without gates, of plain convolutions.
        stem: channels at the resolution of pixels, with gates.
        features: channels of the mask's features.
        gates: mask (linear in the map) or none (plain).
        fill: pyramid, what the network starts from and adds to, or none.
        grid: faces (padded by their neighbours), regions (faces on their own) or equirectangular.
        uncertainty: whether `both` gives a deviation, from the mask's features.
    """

    ndim = 1
    stride = 1
    of_maps = True
    not_exportable = "its tables of neighbours are made for the nside of each map on the way"
    scale: Tensor

    def __init__(
        self,
        in_channels: int = 2,
        *,
        widths: Sequence[int] = (32, 96, 128),
        dilations: Dilations = ((2, 4), (2, 4, 2), (2, 1, 2)),
        decoder: Dilations = ((2, 4), (2, 4, 2)),
        stem: int = 16,
        features: int = 16,
        gates: str = "mask",
        fill: str = "pyramid",
        grid: str = "faces",
        uncertainty: bool = True,
    ) -> None:
        super().__init__()
        fields = in_channels - 1
        _check(fields, widths=widths, dilations=dilations, decoder=decoder)
        _choose(gates=gates, fill=fill, grid=grid)
        self.in_channels, self.grid, self.fill = in_channels, grid, fill
        self.register_buffer("scale", torch.ones(fields))
        several = 2 * fields if fill == "pyramid" else fields
        plan = {"widths": widths, "dilations": dilations, "decoder": decoder, "grid": grid}
        if gates == "mask" or uncertainty:
            self.mask = MaskBranch(CELL**2 + PLACE, features, levels=len(widths), grid=grid)
        self.gated = gates == "mask"
        self.body: nn.Module = (
            GatedBody(several, fields, stem=stem, gates=features, **plan)  # type: ignore[arg-type]
            if self.gated
            else PlainBody(several + 1, fields, **plan)  # type: ignore[arg-type]
        )
        self.spread = _spread(features, fields, grid) if uncertainty else None

    def forward(self, image: Float[Tensor, "b m n"]) -> Float[Tensor, "b c n"]:
        """The mean of all pixels in µK; seen pixels are not put back."""
        return self._mean(image, self._features(image) if self.gated else [])

    def both(
        self, image: Float[Tensor, "b m n"]
    ) -> tuple[Float[Tensor, "b c n"], Float[Tensor, "b c n"] | None]:
        """The mean and its standard deviation in µK, or None without `uncertainty`.

        The deviation depends on the mask alone, and its gradient stays in its own layers.
        """
        if self.spread is None:
            return self(image), None
        features = self._features(image)
        own = functional.pixel_shuffle(self.spread(features[0].detach()), CELL)
        deviation = from_planes(own.clamp(*RANGE).exp(), self.grid)
        return self._mean(image, features), deviation * self.scale[:, None]

    def _features(self, image: Tensor) -> list[Tensor]:
        """Of mask and place, from fine to coarse."""
        place = torch.tensor(position(nside_of(image.shape[-1]))).to(image)
        cells = functional.avg_pool2d(to_planes(place[None], self.grid), CELL)
        seen = functional.pixel_unshuffle(to_planes(2 * image[:, -1:] - SEEN, self.grid), CELL)
        cells = cells.repeat(len(seen) // len(cells), 1, 1, 1)
        found: list[Tensor] = self.mask(torch.cat([seen, cells], 1))
        return found

    def _mean(self, image: Tensor, features: list[Tensor]) -> Tensor:
        scale, seen = self.scale[:, None], image[:, -1:]
        start = values = image[:, :-1] * seen / scale
        given = [values]
        if self.fill == "pyramid":
            start = pyramid_fill(values, seen)
            given.append(start)
        if self.gated:
            change = self.body(to_planes(torch.cat(given, 1), self.grid), features)
        else:
            change = self.body(to_planes(torch.cat([*given, seen], 1), self.grid))
        change = from_planes(change, self.grid)
        return (change if self.fill == "none" else start + change) * scale


def _spread(features: int, fields: int, grid: str) -> nn.Sequential:
    """From features of cells to the logarithms of the four siblings' deviations."""
    first = FaceConv(features, HEAD, grid=grid)
    return nn.Sequential(first, nn.GELU(), nn.Conv2d(HEAD, fields * CELL**2, 1))


def _check(
    fields: int,
    *,
    widths: Sequence[int],
    dilations: Dilations,
    decoder: Dilations,
) -> None:
    if not 1 <= fields <= MOST_FIELDS:
        raise ValueError(
            f"in_channels is {fields + 1}; it is 2 (T, mask), 3 (Q, U, mask) or 4 (T, Q, U, mask)"
        )
    if len(dilations) != len(widths) or len(decoder) != len(widths) - 1:
        raise ValueError(
            f"there are {len(widths)} widths, {len(dilations)} rows of dilations and "
            f"{len(decoder)} of decoder; give a row of dilations a width, one less of decoder"
        )
    if any(width % 8 or width < 1 for width in widths):
        raise ValueError(f"widths are {list(widths)}; each must be a multiple of 8")


def _choose(*, gates: str, fill: str, grid: str) -> None:
    choices = {"gates": ("mask", "none"), "fill": ("pyramid", "none"), "grid": GRIDS}
    for name, value in {"gates": gates, "fill": fill, "grid": grid}.items():
        if value not in choices[name]:
            known = ", ".join(choices[name])
            raise ValueError(f"{name} {value!r} is not known; choose one of {known}")
