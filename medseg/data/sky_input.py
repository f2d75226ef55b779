"""What becomes of a map of the sphere on the way to a network: NESTED, of one nside, scaled."""

import numpy as np
from jaxtyping import Float, Num

from medseg.data import intensity
from medseg.geometry.sphere import Regrid


def working(
    image: Num[np.ndarray, "c n"], passage: Regrid, *, method: str
) -> tuple[Float[np.ndarray, "c m"], list[dict[str, float]]]:
    """A map as a network sees it, and each channel's numbers before scaling.

    With `none` values keep their unit, and NaN stands where nothing is known; the other methods
    scale by the pixels that are known and put 0 elsewhere.
    """
    if np.iscomplexobj(image):
        raise ValueError("a map of the sphere has complex values, and real ones are wanted")
    rows, numbers = [], []
    for row in passage.image(np.asarray(image, dtype=np.float32)):
        known = np.isfinite(row)
        if not known.any():
            raise ValueError(
                "no pixel has a value (all are UNSEEN or NaN, or lie outside the footprint); give "
                "a map of this part of the sky"
            )
        values = row[known][:, None, None]
        found = intensity.statistics(values)
        out = np.full_like(row, np.nan if method == "none" else 0)
        out[known] = intensity.scale(values, found, method=method)[:, 0, 0]
        rows.append(out)
        numbers.append(found)
    return np.stack(rows), numbers
