"""Reverse classification accuracy: does a prediction, carried to known cases, fit their masks.

The case is registered to each of the reference cases most like it, its predicted organs are
carried along, and their overlap with the reference's own organs tells how good they can be at all.
A mean above 0.7 is the usual mark of a prediction to keep.

Source: Valindria et al. 2017, doi:10.1109/TMI.2017.2665165; Gaggion et al. 2024 (CheXmask),
arXiv:2307.03293 (the five most similar cases by latent, affine then deformable registration).
Differs: similarity is the cosine of the latents; registration is at 128 pixels by mutual
information; the overlap is the mean over organs, so that no lung hides a wrong heart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Num

from medseg.geometry.frame import Frame
from medseg.geometry.grid import Grid
from medseg.geometry.registration import deformable

SIDE = 128
NEAREST = 5


@dataclass(frozen=True, eq=False)
class Known:
    """A reference case as it is compared: rows first, label flags with one bit an organ."""

    image: Num[np.ndarray, "h w"]
    flags: Integer[np.ndarray, "h w"]


@dataclass(frozen=True, eq=False)
class Reference:
    """A reference case in waiting; its pixels are read when it is among the nearest.

    Attributes:
        id: the case's name.
        latent: what the network that predicts makes of its image.
        load: reads the image and its label flags, whose bits mean the same organs everywhere.
    """

    id: str
    latent: Float[np.ndarray, " z"]
    load: Callable[[], Known]


def nearest(
    latent: Float[np.ndarray, " z"], references: Sequence[Reference], *, n: int = NEAREST
) -> list[tuple[Reference, float]]:
    """The `n` references of largest cosine similarity, the most similar first."""
    similar = [_cosine(latent, reference.latent, reference.id) for reference in references]
    order = np.argsort(-np.array(similar), kind="stable")[:n]
    return [(references[k], similar[k]) for k in order]


def _cosine(a: np.ndarray, b: np.ndarray, name: str) -> float:
    if a.shape != b.shape:
        message = f"reference {name} has a latent of shape {b.shape}, the case one of {a.shape}"
        raise ValueError(f"{message}: both must come from one model")
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def reverse_accuracy(
    image: Num[np.ndarray, "h w"],
    flags: Integer[np.ndarray, "h w"],
    *,
    latent: Float[np.ndarray, " z"],
    references: Sequence[Reference],
    n: int = NEAREST,
) -> dict[str, Any]:
    """Largest and mean overlap over the `n` references nearest to a case, and each one's own.

    One reference is in memory at a time. A pair that cannot be registered is listed with its
    `error` and left out of the mean; with none left, `mean` and `max` are None.
    """
    if not references:
        raise ValueError("no reference cases came; name a folder with images and their labels")
    if n < 1:
        raise ValueError(f"n={n}; at least one reference case must be compared with")
    own = _framed(Known(image, flags))
    rows: list[dict[str, Any]] = []
    for reference, similarity in nearest(latent, references, n=n):
        row: dict[str, Any] = {"id": reference.id, "similarity": similarity}
        known = _framed(reference.load())
        try:
            rows.append(row | carried(own, known))
        except ValueError as error:
            rows.append(row | {"dice": None, "error": str(error)})
    found = [row["dice"] for row in rows if row["dice"] is not None]
    mean, best = (float(np.mean(found)), max(found)) if found else (None, None)
    return {"mean": mean, "max": best, "per_reference": rows}


def carried(own: Known, known: Known) -> dict[str, Any]:
    """Dice of the case's flags, carried to a reference, with its known ones: mean and each bit.

    Only organs that the reference knows count; one that the case lacks counts as 0.
    """
    bits = [1 << k for k in range(known.flags.dtype.itemsize * 8) if ((known.flags >> k) & 1).any()]
    if not bits:
        raise ValueError("the reference case has no organ; give one with labels")
    flags = deformable(own.image, known.image).labels(own.flags)
    organs = {str(bit): _dice((flags & bit) > 0, (known.flags & bit) > 0) for bit in bits}
    return {"dice": float(np.mean(list(organs.values()))), "organs": organs}


def _dice(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    return float(2 * (a & b).sum() / max(int(a.sum() + b.sum()), 1))


def _framed(case: Known) -> Known:
    """Image and flags in the small square that is registered."""
    if case.image.shape != case.flags.shape:
        message = f"an image of {case.image.shape} and flags of {case.flags.shape} pixels came"
        raise ValueError(f"{message}; both must lie on one grid")
    rows, columns = case.image.shape
    frame = Frame.to(Grid((columns, rows, 1), np.eye(4)), SIDE)
    image = frame.image(case.image.T[..., None])[..., 0].T
    return Known(image, frame.labels(case.flags.T[..., None])[..., 0].T)
