"""The sphere cut into HEALPix pixels: sizes, orderings, parts of the sky, and the way between them.

Source: Gorski et al. 2005, ApJ 622, 759 (doi 10.1086/427976). Maps travel in NESTED order, where
four neighbouring pixels have one parent and a base face is one run of pixels.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num, Shaped

logging.getLogger("healpy").setLevel(logging.WARNING)  # it tells each smoothing's width

FACES = 12
FRAMES = {"G": "Galactic", "E": "ecliptic", "C": "celestial"}
MOST_NSIDE = 8192


@dataclass(frozen=True, eq=False)
class Sphere:
    """Where the pixels of a map lie: all of a HEALPix grid, or some of its pixels.

    Attributes:
        nside: pixels along a base face's side, a power of two.
        nest: whether pixels are numbered NESTED, else RING.
        pixels: the numbers of the pixels there are, ascending; None for the whole sky.
        frame: the coordinate system, a key of `FRAMES`; empty where nothing says it.
    """

    nside: int
    nest: bool = True
    pixels: Integer[np.ndarray, " n"] | None = None
    frame: str = ""

    def __post_init__(self) -> None:
        check_nside(self.nside)
        if self.pixels is None:
            return
        numbers = np.asarray(self.pixels)
        if not len(numbers) or numbers.min() < 0 or numbers.max() >= self.npix:
            raise ValueError(
                f"pixel numbers of nside {self.nside} lie in 0..{self.npix - 1}, and there are "
                + (f"{numbers.min()}..{numbers.max()}" if len(numbers) else "none")
            )
        if bool((np.diff(numbers) <= 0).any()):
            raise ValueError("pixel numbers must ascend and stand there once each; sort the map")

    @property
    def npix(self) -> int:
        """Pixels of the whole sky."""
        return FACES * self.nside**2

    @property
    def whole(self) -> bool:
        """Whether every pixel of the sky is there."""
        return self.pixels is None

    @property
    def shape(self) -> tuple[int]:
        """The pixels there are, as the one axis of a map."""
        return (self.npix if self.pixels is None else len(self.pixels),)

    def numbers(self) -> Integer[np.ndarray, " n"]:
        """The number of each pixel that is there."""
        return np.arange(self.npix) if self.pixels is None else np.asarray(self.pixels)

    def nested(self) -> "Sphere":
        """The same pixels, numbered NESTED and in that order."""
        if self.nest:
            return self
        if self.pixels is None:
            return replace(self, nest=True)
        return replace(self, nest=True, pixels=np.sort(nest_numbers(self.nside)[self.pixels]))

    def vectors(self) -> Float[np.ndarray, "n 3"]:
        """Unit vectors to the pixels' centres."""
        return np.ascontiguousarray(centres(self.nside, nest=self.nest)[self.numbers()])

    def same(self, other: Any) -> bool:  # noqa: ANN401 -- a grid, or whatever else a map lies on
        """Whether another space has the very same pixels in one order; frames may be unsaid."""
        return (
            isinstance(other, Sphere)
            and (self.nside, self.nest, self.shape) == (other.nside, other.nest, other.shape)
            and (not (self.frame and other.frame) or self.frame == other.frame)
            and bool(np.array_equal(self.numbers(), other.numbers()))
        )

    def __str__(self) -> str:
        part = "" if self.whole else f", {self.shape[0]} of {self.npix} pixels"
        return f"nside {self.nside} {'NESTED' if self.nest else 'RING'}{part}"


@dataclass(frozen=True)
class Regrid:
    """The way from a map's own pixels to the working ones (NESTED, of the working nside) and back.

    A coarser working grid takes the mean of the children that are there; a finer one repeats the
    parent. Back, a parent takes the mean of its children, and children are interpolated linearly
    between the centres of the coarser pixels.
    """

    native: Sphere
    working: Sphere

    @classmethod
    def to(
        cls,
        native: Sphere,
        nside: int | None = None,
        *,
        footprint: tuple[int, Sequence[int]] | None = None,
    ) -> "Regrid":
        """To NESTED order, at another nside and on another part of the sky if these are given.

        A footprint is whole coarse pixels: their nside and NESTED numbers.
        """
        if footprint is not None:
            fine = nside or native.nside
            pixels = whole_pixels(fine, footprint[0], pixels=footprint[1])
            return cls(native, Sphere(fine, pixels=pixels, frame=native.frame))
        own = native.nested()
        if nside is None or nside == native.nside:
            return cls(native, own)
        check_nside(nside)
        if own.pixels is None:
            return cls(native, replace(own, nside=nside))
        if nside > own.nside:
            many = (nside // own.nside) ** 2
            inner = (own.pixels[:, None] * many + np.arange(many)).ravel()
            return cls(native, replace(own, nside=nside, pixels=inner))
        parents = np.unique(own.pixels // (own.nside // nside) ** 2)
        return cls(native, replace(own, nside=nside, pixels=parents))

    def image(self, values: Num[np.ndarray, "c n"]) -> Float[np.ndarray, "c m"]:
        """Values on the working pixels; NaN where none is known."""
        rows = nested(np.asarray(values, dtype=np.float32), self.native)
        return carried(rows, self.native.nested(), onto=self.working)

    def labels(self, values: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, " m"]:
        """Labels on the working pixels; a parent takes the commonest of its children's, or 0."""
        kinds = np.unique(np.append(values, 0))
        shares = self.image(np.stack([values == k for k in kinds]).astype(np.float32))
        found: Integer[np.ndarray, " m"] = kinds[np.nan_to_num(shares).argmax(0)]
        return found.astype(values.dtype)

    def back(self, values: Float[np.ndarray, "k m"]) -> Float[np.ndarray, "k n"]:
        """Values of working pixels on the map's own ones, in its own order; NaN where none is."""
        own = self.native.nested()
        if own.nside <= self.working.nside:
            found = carried(values, self.working, onto=own)
        else:
            found = _between(values, self.working, onto=own)
            there = carried(np.ones_like(values[:1]), self.working, onto=own)
            found[:, ~np.isfinite(there[0])] = np.nan  # nothing beyond a footprint's edge
        return native_order(found, self.native)


def carried(
    values: Float[np.ndarray, "c n"], sphere: Sphere, *, onto: Sphere
) -> Float[np.ndarray, "c m"]:
    """Maps on other pixels, both NESTED: the mean of the children, or the parent's value.

    NaN counts as not known, and stands where nothing is known.
    """
    fine, coarse = sphere.nside, onto.nside
    if fine <= coarse:
        numbers = onto.numbers() // (coarse // fine) ** 2
        if sphere.whole:
            return values if fine == coarse and onto.whole else values[:, numbers]
        place = np.searchsorted(sphere.numbers(), numbers).clip(max=sphere.shape[0] - 1)
        there = sphere.numbers()[place] == numbers
        return np.where(there, values[:, place], np.nan).astype(values.dtype)
    parents = sphere.numbers() // (fine // coarse) ** 2
    place = np.searchsorted(onto.numbers(), parents).clip(max=onto.shape[0] - 1)
    known = np.isfinite(values) & (onto.numbers()[place] == parents)
    rows = []
    for row, good in zip(values, known, strict=True):
        count = np.bincount(place[good], minlength=onto.shape[0])
        total = np.bincount(place[good], row[good], minlength=onto.shape[0])
        rows.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    return np.array(rows, dtype=values.dtype).reshape(len(values), *onto.shape)


def _between(
    values: Float[np.ndarray, "c n"], sphere: Sphere, *, onto: Sphere
) -> Float[np.ndarray, "c m"]:
    """Linearly between the centres of coarser pixels; those that are not known do not count."""
    import healpy

    x, y, z = onto.vectors().T
    angles = np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)
    four, weights = healpy.get_interp_weights(sphere.nside, *angles, nest=True)
    place = np.searchsorted(sphere.numbers(), four).clip(max=sphere.shape[0] - 1)
    there = sphere.numbers()[place] == four
    rows = []
    for row in values:
        good = weights * (there & np.isfinite(row[place]))
        total = (np.nan_to_num(row[place]) * good).sum(0)
        rows.append(np.divide(total, good.sum(0), out=np.full(len(x), np.nan), where=good.any(0)))
    return np.array(rows, dtype=values.dtype).reshape(len(values), *onto.shape)


def whole_pixels(nside: int, coarse: int, *, pixels: Sequence[int]) -> Integer[np.ndarray, " n"]:
    """The fine pixels of coarse NESTED ones, ascending.

    Raises:
        ValueError: the coarse nside is finer than the fine one.
    """
    if coarse > nside:
        raise ValueError(
            f"a footprint of nside {coarse} pixels on a map of nside {nside}; give it in pixels of "
            f"nside {nside} or coarser"
        )
    many = (nside // coarse) ** 2
    return (np.sort(np.asarray(pixels))[:, None] * many + np.arange(many)).ravel()


def check_nside(nside: int) -> int:
    """The nside, if it is a power of two.

    Raises:
        ValueError: it is another number.
    """
    if isinstance(nside, bool) or int(nside) != nside or nside < 1 or nside & (int(nside) - 1):
        raise ValueError(f"nside is {nside}; it must be a power of two (1, 2, 4, … {MOST_NSIDE})")
    return int(nside)


def nside_of(pixels: int) -> int:
    """The nside of a whole sky of so many pixels.

    Raises:
        ValueError: no HEALPix map of the whole sky has so many.
    """
    nside = round((pixels / FACES) ** 0.5)
    if nside < 1 or FACES * nside**2 != pixels or nside & (nside - 1):
        raise ValueError(
            f"a whole sky has 12 nside² pixels, nside a power of two (192, 768, 3072, 12288, …), "
            f"and here are {pixels}"
        )
    return nside


@cache
def ring_numbers(nside: int) -> Integer[np.ndarray, " n"]:
    """RING numbers of the pixels in NESTED order."""
    import healpy

    return healpy.nest2ring(nside, np.arange(FACES * nside**2))


@cache
def nest_numbers(nside: int) -> Integer[np.ndarray, " n"]:
    """NESTED numbers of the pixels in RING order."""
    import healpy

    return healpy.ring2nest(nside, np.arange(FACES * nside**2))


def nested(values: Shaped[np.ndarray, "... n"], sphere: Sphere) -> Shaped[np.ndarray, "... n"]:
    """A map on `sphere`'s pixels, put into the order of `sphere.nested()`; the last axis counts."""
    if sphere.nest:
        return values
    if sphere.pixels is None:
        return np.ascontiguousarray(values[..., ring_numbers(sphere.nside)])
    return np.ascontiguousarray(values[..., np.argsort(nest_numbers(sphere.nside)[sphere.pixels])])


def native_order(
    values: Shaped[np.ndarray, "... n"], sphere: Sphere
) -> Shaped[np.ndarray, "... n"]:
    """A map in the order of `sphere.nested()`, put back into the order of `sphere`."""
    if sphere.nest:
        return values
    if sphere.pixels is None:
        return np.ascontiguousarray(values[..., nest_numbers(sphere.nside)])
    place = np.argsort(np.argsort(nest_numbers(sphere.nside)[sphere.pixels]))
    return np.ascontiguousarray(values[..., place])


@cache
def centres(nside: int, *, nest: bool = True) -> Float[np.ndarray, "n 3"]:
    """Unit vectors to the centres of all pixels."""
    import healpy

    found = np.stack(healpy.pix2vec(nside, np.arange(FACES * nside**2), nest=nest), 1)
    found.setflags(write=False)
    return found
