"""Masks of the sky, drawn by a seed: a survey's own one, turned by chance, or cuts and discs.

Source: the temperature analysis mask of WMAP's seven years, brought to nside 32
(data/samples/sky/SOURCES.md). Maps of an isotropic sky have no direction of their own, so a mask
that is turned is as good as one more survey.
"""

from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Bool

from medseg.geometry.sphere import Regrid, Sphere, centres, ring_numbers
from medseg.geometry.symmetry import rotate_mask
from medseg.io import healpix
from medseg.provenance import shipped

KINDS = ("wmap", "rotated", "cuts", "rotated_cuts")
SHIPPED = "data/samples/sky/mask.fits.gz"
_LATITUDE_DEG = (5.0, 30.0)
_RADIUS_DEG = (0.5, 3.0)
_MOST_DISCS = 200


class Masks:
    """Draws masks at one nside, NESTED, True where the sky is seen; equal streams, equal masks.

    The kinds: "wmap" is the mask that all come from, as it is; "rotated" is that one turned by a
    rotation of which none is likelier than another; "cuts" is a band around the equator up to
    5 to 30 degrees of latitude with none to 200 discs of radius 0.5 to 3 degrees; "rotated_cuts"
    are those turned.

    Args:
        nside: of the maps.
        base: "wmap" for the shipped mask, or a HEALPix file; it is brought to `nside`, a pixel
            being seen if more than half of it is.
    """

    def __init__(self, nside: int, *, base: str | Path = "wmap") -> None:
        self.nside, self.base = nside, survey(nside, str(base))

    def draw(self, kind: str, dice: np.random.Generator) -> Bool[np.ndarray, " n"]:
        """One mask of a kind."""
        seen = cuts(self.nside, dice) if kind.endswith("cuts") else self.base
        if not kind.startswith("rotated"):
            return seen
        return rotate_mask(seen.astype(np.uint8), rotation(dice)) > 0


def check_kind(kind: str) -> str:
    """The kind, if there is such a one."""
    if kind not in KINDS:
        raise ValueError(f"a kind of mask is {kind!r}; it must be one of {', '.join(KINDS)}")
    return kind


def rotation(dice: np.random.Generator) -> np.ndarray:
    """A 3 x 3 rotation, none likelier than another: a quaternion of normal numbers."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(dice.standard_normal(4)).as_matrix()


def cuts(nside: int, dice: np.random.Generator) -> Bool[np.ndarray, " n"]:
    """A straight Galactic cut and point sources; a disc hides at least the pixel it lies in."""
    import healpy

    latitude = np.radians(dice.uniform(*_LATITUDE_DEG))
    radii = np.radians(dice.uniform(*_RADIUS_DEG, size=int(dice.integers(_MOST_DISCS + 1))))
    axes = dice.standard_normal((len(radii), 3))
    seen = np.abs(centres(nside, nest=False)[:, 2]) >= np.sin(latitude)
    for axis, radius in zip(axes, radii, strict=True):
        seen[healpy.query_disc(nside, axis, radius)] = False
        seen[healpy.vec2pix(nside, *axis)] = False
    return seen[ring_numbers(nside)]


@cache
def survey(nside: int, base: str) -> Bool[np.ndarray, " n"]:
    """The mask of a survey at an nside, read once.

    Raises:
        ValueError: it is not of the whole sky, or hides nothing or all of it.
    """
    path = shipped(SHIPPED) if base == "wmap" else Path(base)
    found = healpix.read(path, channel="mask")
    sphere = cast(Sphere, found.space)
    seen = Regrid.to(sphere, nside).image(np.nan_to_num(found.image))[0] > 0.5
    if not sphere.whole or seen.all() or not seen.any():
        raise ValueError(
            f"the mask {path} ({sphere}) leaves {seen.mean():.0%} to be seen; wanted a map of "
            "the whole sky, 1 where it is seen and 0 in holes, with some of both"
        )
    seen.setflags(write=False)
    return seen
