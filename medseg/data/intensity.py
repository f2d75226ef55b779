"""Intensity: the numbers that describe a volume, and the scale that a network sees.

An MRI value has no unit, so every channel of every volume is scaled by its own foreground:
every voxel above 1e-4 of the volume's largest magnitude, as scanners and skull strippers write 0
where they measured nothing, and resampling turns such a 0 into a very small number.
`prepare` and `predict` both call `normalise` on the canonical volume at its working spacing, so
they agree bit for bit.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Inexact, Num

EMPTY = np.float32(1e-4)
METHODS = ("zscore", "percentile", "scale", "rms", "none")
PHASE_KEEPING = ("scale", "rms", "none")
_PERCENTILES = {"p00_5": 0.5, "p01": 1.0, "p50": 50.0, "p99": 99.0, "p99_5": 99.5}


def statistics(volume: Num[np.ndarray, "x y z"]) -> dict[str, float]:
    """Mean, standard deviation, extremes and percentiles of the foreground, and its share.

    Of complex values the magnitude is described. Sums run in the canonical array's own order, so
    how the scan was stored cannot change them.
    """
    values = np.abs(volume) if np.iscomplexobj(volume) else volume
    flat = np.ascontiguousarray(values, dtype=np.float32).ravel()
    bad = flat.size - int(np.isfinite(flat).sum())
    if bad:
        raise ValueError(
            f"{bad} voxels are NaN or infinite where every voxel needs a finite value; "
            "replace them in the file (`medseg check` lists every such file)"
        )
    magnitude = np.abs(flat)
    values = flat[magnitude > EMPTY * magnitude.max()]
    foreground = values.size / flat.size
    if values.size == 0:
        values = flat
    levels = np.percentile(values, list(_PERCENTILES.values()))
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "std": float(values.std(dtype=np.float64)),
        "rms": float(np.sqrt(np.square(values, dtype=np.float64).mean())),
        "minimum": float(values.min()),
        "maximum": float(values.max()),
        **{name: float(level) for name, level in zip(_PERCENTILES, levels, strict=True)},
        "foreground": foreground,
    }


def scale(
    volume: Num[np.ndarray, "x y z"], found: Mapping[str, float], *, method: str
) -> Inexact[np.ndarray, "x y z"]:
    """Apply a method with statistics that are already known; a constant volume becomes zeros.

    A constant volume keeps its value where the method only divides. Complex values stay complex.
    """
    if method not in METHODS:
        raise ValueError(f"intensity is '{method}'; it must be one of {', '.join(METHODS)}")
    kind = np.complex64 if np.iscomplexobj(volume) else np.float32
    values = np.array(volume, dtype=kind, order="C")
    if method == "none":
        return values
    if method in PHASE_KEEPING:
        size = max(abs(found["p99"]), abs(found["p01"])) if method == "scale" else found["rms"]
        values /= np.float32(size if size > 0 else 1.0)
        return values
    if kind is np.complex64:
        raise ValueError(
            f"intensity {method} shifts values, which destroys the phase of complex ones; take "
            f"one of {', '.join(PHASE_KEEPING)}"
        )
    if method == "zscore":
        values -= np.float32(found["mean"])
        values /= np.float32(found["std"] if found["std"] > 0 else 1.0)
        return values
    low, high = np.float32(found["p00_5"]), np.float32(found["p99_5"])
    np.clip(values, low, high, out=values)
    values -= low
    values /= high - low if high > low else np.float32(1.0)
    return values


def normalise(
    image: Num[np.ndarray, "c x y z"], method: str
) -> tuple[Inexact[np.ndarray, "c x y z"], list[dict[str, float]]]:
    """Every channel on its own scale, and each one's statistics before that.

    Args:
        image: canonical axes, working spacing, the file's own values.
        method: `zscore` (zero mean, unit deviation of the foreground), `percentile` (the
            foreground's 0.5 % to 99.5 % become 0 to 1, values beyond are clipped), `scale`
            (divided by the foreground's 99th percentile), `rms` (divided by its root mean
            square) or `none`; complex values by one of the last three.
    """
    out = np.empty(image.shape, dtype=np.complex64 if np.iscomplexobj(image) else np.float32)
    found = []
    for index, volume in enumerate(image):
        found.append(statistics(volume))
        out[index] = scale(volume, found[-1], method=method)
    return out, found
