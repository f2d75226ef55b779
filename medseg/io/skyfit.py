"""Maps of one sky brought onto the same pixels: RING fits NESTED, a whole sky fits a part of it.

What would need interpolation is refused, with the line that does it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from medseg.geometry.sphere import FRAMES, Sphere, nest_numbers, ring_numbers
from medseg.sample import Sample


def aligned(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The same samples, all on the pixels and in the order of the first.

    Raises:
        ValueError: they differ in nside or coordinate system, or pixels of the first are missing.
    """
    like = samples[0]
    against = " and ".join(like.sources.values()) or like.id
    return tuple(
        one.with_(
            image=fitted(
                one.image,
                _sphere(one),
                like=_sphere(like),
                name=" and ".join(one.sources.values()) or one.id,
                against=against,
                whole=one.channels == ("mask",),
            ),
            space=like.space,
        )
        for one in samples
    )


def fitted(
    values: Shaped[np.ndarray, "*c n"],
    own: Sphere,
    *,
    like: Sphere,
    name: str = "the map",
    against: str = "the other",
    whole: bool = False,
) -> Shaped[np.ndarray, "*c m"]:
    """Values on `own`'s pixels, taken in the order of `like`'s; RING and NESTED fit each other.

    Args:
        values: the last axis counts pixels.
        own: their pixels.
        like: the pixels wanted; all must be among `own`'s.
        name: of the values, for errors.
        against: what else `like` is of, for errors.
        whole: whether the values are a mask or labels, for the cure.

    Raises:
        ValueError: nside or coordinate systems differ, or pixels are missing.
    """
    if own.nside != like.nside:
        raise ValueError(
            f"{name} has nside {own.nside} and {against} nside {like.nside}; bring it to the same: "
            + _cure(name, f"healpy.ud_grade(m, {like.nside})", whole=whole, frame=own.frame)
        )
    if own.frame and like.frame and own.frame != like.frame:
        turn = f"healpy.Rotator(coord=['{own.frame}', '{like.frame}']).rotate_map_pixel(m)"
        raise ValueError(
            f"{name} is in {FRAMES[own.frame]} coordinates and {against} in {FRAMES[like.frame]} "
            f"ones; turn it: " + _cure(name, turn, whole=whole, frame=like.frame)
        )
    if own.same(like):
        return values
    wanted = like.numbers()
    if own.nest != like.nest:
        wanted = (nest_numbers if own.nest else ring_numbers)(own.nside)[wanted]
    if own.pixels is None:
        return np.ascontiguousarray(values[..., wanted])
    place = np.searchsorted(own.pixels, wanted).clip(max=len(own.pixels) - 1)
    lost = int((own.pixels[place] != wanted).sum())
    if lost:
        raise ValueError(
            f"{name} lacks {lost} of the {len(wanted)} pixels of {against}; give it for all of "
            "them" + (" (0 in holes)" if whole else ", or write the other for the same part")
        )
    return np.ascontiguousarray(values[..., place])


def _cure(name: str, call: str, *, whole: bool, frame: str) -> str:
    """A line for the shell that mends a map."""
    made = f"({call} > 0.5).astype('u1')" if whole else call
    coord = f", coord='{frame}'" if frame else ""
    return (
        f"python -c \"import healpy; m = healpy.read_map('{name}'); "
        f"healpy.write_map('mended.fits', {made}{coord})\""
    )


def _sphere(sample: Sample) -> Sphere:
    if not isinstance(sample.space, Sphere):
        raise ValueError(f"{sample.id} is no map of the sky; give HEALPix maps only")
    return sample.space
