"""The sphere cut into HEALPix pixels: sizes, orderings, parts of the sky, and the way between them.

Source: Gorski et al. 2005, ApJ 622, 759 (doi 10.1086/427976). Maps travel in NESTED order, where
four neighbouring pixels have one parent and a base face is one run of pixels.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Num, Shaped

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

    @property
    def resolution_arcmin(self) -> float:
        """The side of a pixel: the root of its area, in arc minutes."""
        return float(np.degrees(np.sqrt(4 * np.pi / self.npix)) * 60)

    @property
    def area_deg2(self) -> float:
        """The area of a pixel; all have the same."""
        return float(4 * np.pi / self.npix * np.degrees(1) ** 2)

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
    def to(cls, native: Sphere, nside: int | None = None) -> "Regrid":
        """To NESTED order, at another nside if one is given.

        Raises:
            ValueError: at a coarser nside, a part of the sky that has no whole parents.
        """
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
        rows = [self._there(np.asarray(row, dtype=np.float32)) for row in values]
        return np.stack(rows) if rows else np.zeros((0, *self.working.shape), np.float32)

    def labels(self, values: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, " m"]:
        """Labels on the working pixels; a parent takes the commonest of its children's."""
        if self.native.nside == self.working.nside:
            return nested(values, self.native)
        kinds = np.unique(values)
        shares = self.image(np.stack([values == k for k in kinds]))
        found: Integer[np.ndarray, " m"] = kinds[np.nan_to_num(shares).argmax(0)]
        return found.astype(values.dtype)

    def back(self, values: Float[np.ndarray, "k m"]) -> Float[np.ndarray, "k n"]:
        """Values of working pixels on the map's own ones, in its own order."""
        fine, coarse = self.native.nside, self.working.nside
        if fine == coarse:
            return np.stack([native_order(row, self.native) for row in values])
        if fine < coarse:
            other = Regrid(self.working, self.native.nested())
            return np.stack([native_order(row, self.native) for row in other.image(values)])
        return self._between(values)

    def _there(self, row: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
        fine, coarse = self.native.nside, self.working.nside
        row = nested(row, self.native)
        own = self.native.nested()
        if fine == coarse:
            return row
        if fine < coarse:
            return np.repeat(row, (coarse // fine) ** 2)
        many = (fine // coarse) ** 2
        if own.pixels is None:
            with np.errstate(invalid="ignore"):
                return _mean(row.reshape(-1, many))
        place = np.searchsorted(self.working.numbers(), own.pixels // many)
        good = np.isfinite(row)
        sums = np.bincount(place[good], row[good], minlength=self.working.shape[0])
        counts = np.bincount(place[good], minlength=self.working.shape[0])
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)

    def _between(self, values: Float[np.ndarray, "k m"]) -> Float[np.ndarray, "k n"]:
        import healpy

        x, y, z = self.native.vectors().T
        theta, phi = np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)
        four, weights = healpy.get_interp_weights(self.working.nside, theta, phi, nest=True)
        if not self.working.whole:
            numbers = self.working.numbers()
            place = np.searchsorted(numbers, four).clip(max=len(numbers) - 1)
            weights = weights * (numbers[place] == four)
            weights /= np.maximum(weights.sum(0), 1e-12)
            four = place
        return (values[:, four] * weights).sum(1).astype(values.dtype)


def _mean(groups: Float[np.ndarray, "m g"]) -> Float[np.ndarray, " m"]:
    good = np.isfinite(groups)
    count = good.sum(1)
    sums = np.where(good, groups, 0).sum(1)
    return np.where(count > 0, sums / np.maximum(count, 1), np.nan).astype(groups.dtype)


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
    found.flags.writeable = False
    return found


def cap(
    sphere: Sphere, centre: Float[np.ndarray, " 3"], radius_deg: float
) -> Bool[np.ndarray, " n"]:
    """Whether each pixel's centre lies within an angle of a direction."""
    axis = np.asarray(centre, dtype=float) / np.linalg.norm(centre)
    found: Bool[np.ndarray, " n"] = sphere.vectors() @ axis >= np.cos(np.radians(radius_deg))
    return found
