"""Maps of one sky brought onto the same pixels: RING fits NESTED, a whole sky fits a part of it.

What would need interpolation is refused, with the line that does it.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from medseg.geometry.sphere import FRAMES, Sphere, nest_numbers, ring_numbers

Kind = Literal["map", "mask", "labels"]

_HEAD = (
    "import healpy as hp, numpy as np; m, h = hp.read_map(PATH, None, h=True); "
    "m, d = np.atleast_2d(m), dict(h)"
)
_KEEP = (
    "n = [k[5:] for k in d if k[:5] == 'TTYPE'][-len(m):]; "
    "hp.write_map('mended.fits', t, column_names=[d['TTYPE' + i] for i in n], "
    "column_units=[d.get('TUNIT' + i) for i in n], "
    "extra_header=[c for c in h if c[0] == 'POLCCONV']COORD)"
)


def fitted(
    values: Shaped[np.ndarray, "*c n"],
    own: Sphere,
    *,
    like: Sphere,
    name: str = "the map",
    path: Path | str | None = None,
    against: str = "the other",
    kind: Kind = "map",
) -> Shaped[np.ndarray, "*c m"]:
    """Values on `own`'s pixels, taken in the order of `like`'s; RING and NESTED fit each other.

    Args:
        values: the last axis counts pixels.
        own: their pixels.
        like: the pixels wanted; all must be among `own`'s.
        name: of the values, for errors.
        path: of their file, for errors and the cure.
        against: what else `like` is of, for errors.
        kind: what they are, for the cure.

    Raises:
        ValueError: nside or coordinate systems differ, or pixels are missing.
    """
    said = f"{name} ({path})" if path else name
    if own.nside != like.nside:
        raise ValueError(
            f"{said} has nside {own.nside} and {against} nside {like.nside}; bring it to the same: "
            + _cure(path or "map.fits", own, nside=like.nside, frame=own.frame, kind=kind)
        )
    if own.frame and like.frame and own.frame != like.frame:
        raise ValueError(
            f"{said} is in {FRAMES[own.frame]} coordinates and {against} in {FRAMES[like.frame]} "
            "ones; turn it: "
            + _cure(path or "map.fits", own, nside=own.nside, frame=like.frame, kind=kind)
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
        cure = ", or write the other for the same part" if kind == "map" else " (0 in holes)"
        raise ValueError(
            f"{said} lacks {lost} of the {len(wanted)} pixels of {against}; give it for all of "
            f"them{cure}"
        )
    return np.ascontiguousarray(values[..., place])


def _cure(path: Path | str, own: Sphere, *, nside: int, frame: str, kind: Kind) -> str:
    """A line for the shell that mends all columns of a map, a mask or labels.

    Units, names and the sign of U stay as they were; what an unseen pixel has a share in is unseen.
    """
    coord = f", coord='{frame}'" if frame else ""
    turn = f"hp.Rotator(coord=['{own.frame}', '{frame}'])" if nside == own.nside else ""
    made = f"{turn}.rotate_map_pixel(m)" if turn else f"hp.ud_grade(m, {nside})"
    head = f"import healpy as hp; m = hp.read_map({str(path)!r})"
    if kind == "mask":
        line = f"{head}; hp.write_map('mended.fits', ({made} > 0.5).astype('u1'){coord})"
    elif kind == "labels":
        place = f"hp.pix2vec({nside}, range({12 * nside**2}))"
        near = f"{turn}.I({place})" if turn else place
        line = f"{head}; hp.write_map('mended.fits', m[hp.vec2pix({own.nside}, *{near})]{coord})"
    else:
        lost = "t[abs(t) > 1e20] = hp.UNSEEN; " if turn else ""
        line = f"{_HEAD}; t = np.atleast_2d({made}); {lost}{_KEEP}"
        line = line.replace("PATH", repr(str(path))).replace("COORD", coord)
    return f'python -c "{line}"'
