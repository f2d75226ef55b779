"""Networks on the HEALPix sphere: a U-Net for maps of classes or of numbers, a classifier of skies.

Source: Defferrard, Milani, Gusset, Perraudin 2020, arXiv:2012.15000, appendix C; the residual
U-Net is that of its authors' weather code (deepsphere-weather, MIT), whose sizes are a preset.
Differs: logits always, no softmax in evaluation; the least-squares stencil is the graph unless
another is chosen; max-pooling may remember its places; one polynomial is enough. No code followed.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from medseg.geometry.sphere import check_nside
from medseg.nn.graph import Layer
from medseg.nn.publishedsphere import from_published as from_published
from medseg.nn.publishedsphere import published_arguments as published_arguments
from medseg.nn.publishedsphere import published_key as published_key
from medseg.nn.sphere import ChebConv, Footprint, SphereGraph
from medseg.nn.spherepool import Pool
from medseg.nn.sphereunits import (
    Convolve,
    Residual,
    Unit,
    WideConv,
    Widths,
    check_levels,
    footprint_of,
    joined,
    least_nside,
    stages,
    units,
)

_TOPOLOGIES = ("unet", "weather")
_HEADS = ("linear", "graph")


class SphereNet(nn.Module):
    """Maps to maps of the same pixels: logits of classes, or as many numbers for a regression.

    A NESTED map of any nside that can be halved at each level; tables are made when one
    first comes.

    Args:
        in_channels: maps that come stacked.
        n_classes: background included; of a regression, its outputs.
        topology: unet, units of convolution, normalisation and activation, one after each
            unpooling and others after the join with the encoder's map; or weather, ReZero blocks
            of such units, and none before the join.
        widths: of each encoder level's units, the finest level first: a number or several.
        up: the same of the decoder, from the coarsest level it reaches to the finest; None for
            the encoder's last width of the level.
        order: number of Chebyshev polynomials, K of the papers' code and one more than the
            degree P of their text: a unit sees order - 1 steps far.
        kind: of the graph: ls8, ls20, knn8, knn20, knn40, knn60 or healpix8.
        laplacian: of the graph; None for the one that goes with its kind.
        pool: max, mean, or max_places: a value goes back to where the largest was, which among
            equals, as ReLU's zeros, is the first and so depends on how the sky lies.
        norm: batch, instance, group or none.
        activation: relu, leaky_relu, gelu or silu.
        skip_finest: whether the finest level is joined too.
        plain_bottom: whether the coarsest level ends in a convolution alone.
        nside: of the maps it learns from: on finer ones its filters keep their angle, on coarser
            ones they span as many pixels. None: always as many pixels.
        footprint: a part of the sky as `[nside, [pixels]]`, whole coarse pixels; maps then hold
            their children alone, ascending. None for the whole sky.
        graph: another graph layer, made from its numbers of channels.
    """

    ndim = 1
    stride = 1
    not_exportable = "its tables of neighbours are made for the nside of each map on the way"

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        *,
        topology: str = "unet",
        widths: Widths = (16, 32, 64),
        up: Widths | None = None,
        order: int = 4,
        kind: str = "ls8",
        laplacian: str | None = None,
        pool: str = "max",
        norm: str = "batch",
        activation: str = "relu",
        skip_finest: bool = True,
        plain_bottom: bool = False,
        nside: int | None = None,
        footprint: Sequence[int | Sequence[int]] | None = None,
        graph: Layer | None = None,
    ) -> None:
        super().__init__()
        _check(in_channels=in_channels, n_classes=n_classes)
        plain = _chosen("topology", topology, _TOPOLOGIES) == "unet"
        down = stages(widths)
        rising = _rising(up, down, indices=pool == "max_places")
        self.depth, self.least = len(down) - 1, least_nside(kind)
        self.footprint, self.pool = footprint_of(footprint), Pool(pool)
        at = _convolutions(
            order, kind, laplacian, footprint=self.footprint, graph=graph, nside=nside
        )
        made: Callable[..., nn.Module] = units if plain else Residual
        block = functools.partial(made, norm=norm, act=activation)
        self.encoder = nn.ModuleList()
        for level, (i, ends) in enumerate(zip(_before(in_channels, down), down, strict=True)):
            bottom = {"plain_last": True} if plain_bottom and plain and level == self.depth else {}
            self.encoder.append(block(i, ends, convolve=at(level), **bottom))
        self.rise, self.join = nn.ModuleList(), nn.ModuleList()
        last = down[-1][-1]
        for level, ends in zip(reversed(range(self.depth)), rising, strict=True):
            unit = functools.partial(Unit, convolve=at(level), norm=norm, act=activation)
            self.rise.append(unit(last, ends[0]) if plain else nn.Identity())
            if level or skip_finest:
                entering = (ends[0] if plain else last) + down[level][-1]
                self.join.append(block(entering, ends, convolve=at(level)))
            last = ends[-1]
        self.head = at(0)(last, n_classes) if plain else block(last, [n_classes], convolve=at(0))

    def forward(self, image: Float[Tensor, "b c n"]) -> Float[Tensor, "b k n"]:
        """Logits, or a regression's numbers, of every pixel."""
        check_levels(image.shape[-1], self.depth, least=self.least, footprint=self.footprint)
        x, kept, places = image, [], []
        for level, stage in enumerate(self.encoder):
            if level:
                kept.append(x)
                x, place = self.pool(x)
                places.append(place)
            x = stage(x)
        for step, rise in enumerate(self.rise):
            x = rise(self.pool.back(x, places.pop()))
            if step < len(self.join):
                x = self.join[step](joined(x, kept.pop()))
        return self.head(x)


class SphereClassifier(nn.Module):
    """A logit of each class for a whole sky or a part of it; of a regression, its outputs.

    Every level is one or more units and a pooling; the pixels that remain are averaged.

    Args:
        in_channels: maps that come stacked.
        n_classes: of skies.
        widths: of each level's units, the finest level first: a number or several.
        order: number of Chebyshev polynomials, see `SphereNet`.
        kind: of the graph, see `SphereNet`.
        laplacian: of the graph; None for the one that goes with its kind.
        pool: max, mean, or none: all levels are then of one nside.
        norm: batch, instance, group or none.
        activation: relu, leaky_relu, gelu or silu.
        head: linear, of the averaged features; or graph, a convolution to the classes' maps, which
            are then averaged.
        dropout: probability, of the averaged features.
        nside: of the maps it learns from, see `SphereNet`.
        footprint: a part of the sky, see `SphereNet`.
        graph: another graph layer, made from its numbers of channels.
    """

    ndim = 1
    stride = 1
    not_exportable = "its tables of neighbours are made for the nside of each map on the way"
    of_cases = True

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        *,
        widths: Widths = (16, 32, 64, 128),
        order: int = 4,
        kind: str = "ls8",
        laplacian: str | None = None,
        pool: str = "max",
        norm: str = "batch",
        activation: str = "relu",
        head: str = "linear",
        dropout: float = 0.0,
        nside: int | None = None,
        footprint: Sequence[int | Sequence[int]] | None = None,
        graph: Layer | None = None,
    ) -> None:
        super().__init__()
        _check(in_channels=in_channels, n_classes=n_classes)
        linear = _chosen("head", head, _HEADS) == "linear"
        down = stages(widths)
        self.footprint = footprint_of(footprint)
        self.pool = None if pool == "none" else Pool(pool)
        self.depth, self.least = len(down) if self.pool else 0, least_nside(kind)
        self.spare = int(linear and self.pool is not None)  # no graph after the last pooling
        at = _convolutions(
            order, kind, laplacian, footprint=self.footprint, graph=graph, nside=nside
        )
        self.levels = nn.ModuleList(
            units(i, widths, convolve=at(level if self.pool else 0), norm=norm, act=activation)
            for level, (i, widths) in enumerate(zip(_before(in_channels, down), down, strict=True))
        )
        self.dropout = nn.Dropout(dropout)
        last = down[-1][-1]
        self.head = nn.Linear(last, n_classes) if linear else at(self.depth)(last, n_classes)

    def forward(self, image: Float[Tensor, "b c n"]) -> Float[Tensor, "b k"]:
        """Logits."""
        check_levels(
            image.shape[-1],
            self.depth,
            least=self.least,
            spare=self.spare,
            footprint=self.footprint,
        )
        x = image
        for level in self.levels:
            x = level(x)
            if self.pool is not None:
                x, _ = self.pool(x)
        if isinstance(self.head, nn.Linear):
            return self.head(self.dropout(x.mean(-1)))
        return self.head(self.dropout(x)).mean(-1)


def _convolutions(
    order: int,
    kind: str,
    laplacian: str | None,
    *,
    footprint: Footprint | None,
    graph: Layer | None,
    nside: int | None,
) -> Callable[[int], Convolve]:
    """What makes the layers of each level from their numbers of channels."""
    if nside is not None:
        check_nside(nside)
    given: dict[str, Any] = {"kind": kind, "footprint": footprint}

    def at(level: int) -> Convolve:
        if graph is not None:
            return functools.partial(SphereGraph, layer=graph, **given)
        own: dict[str, Any] = {"order": order, "laplacian": laplacian, **given}
        if nside is None:
            return functools.partial(ChebConv, **own)
        return functools.partial(WideConv, nside=max(nside >> level, 1), **own)

    return at


def _before(first: int, levels: Sequence[Sequence[int]]) -> list[int]:
    """The channels that enter each level."""
    return [first, *(level[-1] for level in levels)][: len(levels)]


def _rising(
    up: Widths | None, down: Sequence[Sequence[int]], *, indices: bool
) -> tuple[tuple[int, ...], ...]:
    """The decoder's widths, one level fewer than the encoder's.

    Raises:
        ValueError: there are more or fewer, or with `indices` a map comes back with other channels
            than were pooled.
    """
    mirrored = [level[-1] for level in reversed(down[:-1])]
    if up is None:
        return tuple((width,) for width in mirrored)
    found = stages(up, name="up") if up else ()
    if len(found) != len(mirrored):
        raise ValueError(
            f"up has {len(found)} levels and the encoder {len(down)}; give {len(mirrored)}"
        )
    coming = _before(down[-1][-1], found)
    if indices and coming != mirrored:
        raise ValueError(
            f"pool=max_places puts maxima back into maps of {mirrored} channels, and {coming} come "
            "up; mend widths and up, or take pool=max"
        )
    return found


def _chosen(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"{name} {value!r} is not known; choose one of {', '.join(known)}")
    return value


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be at least 1")
