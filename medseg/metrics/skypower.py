"""Angular power of filled skies beside that of the true ones, in bands, with cosmic variance.

Spectra are C_l of whole skies in the map's unit squared; monopole and dipole are left out by the
bands, which begin at l = 2. Sums are kept apart from ratios, so that a ratio is one of sums over
all cases and not a mean of ratios.

Source: Gorski et al. 2005, ApJ 622, 759 (anafast); Knox 1995, doi:10.1103/PhysRevD.52.4307
(cosmic variance); Efron & Tibshirani 1993, ch. 13 (percentile interval).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from medseg.geometry.spectrum import bins
from medseg.geometry.sphere import nest_numbers, nside_of

BANDS = ("low", "middle", "high")
OF = ("truth", "filled", "sample", "residual", "hidden")
POWERS = tuple(f"{what}_{band}" for what in OF for band in BANDS)
"""Columns of sums of C_l over a band: of the true map, the filled one, the mean over samples, the
error in the holes, and the truth in the holes."""

RATIOS = {
    "power_ratio": ("filled", "truth"),
    "sample_ratio": ("sample", "truth"),
    "residual_ratio": ("residual", "hidden"),
}


@dataclass(frozen=True, eq=False)
class Power:
    """Spectra of one kind (TT, EE, BB) of one case, by what they are of, l from 0."""

    nside: int
    of: dict[str, Float[np.ndarray, " l"]]

    def banded(self) -> dict[str, float | None]:
        """The sum of C_l over each band; None for a band that is empty at this nside."""
        return {
            f"{what}_{band}": float(cl[first : last + 1].sum()) if last >= first else None
            for what, cl in self.of.items()
            for band, (first, last) in zip(BANDS, bins(self.nside), strict=True)
        }


Spectra = dict[str, Power]


def spectra(
    values: Float[np.ndarray, "c n"],
    truth: Float[np.ndarray, "c n"],
    *,
    hidden: Bool[np.ndarray, " n"],
    samples: Float[np.ndarray, "s c n"] | None = None,
) -> Spectra:
    """Spectra of the filled and the true sky, of samples, and of error and truth in the holes.

    Fields are T, or Q and U, or all three. Pixels that the truth does not know are 0 in all.
    """
    known = np.isfinite(truth).all(0)
    whole = np.where(known, truth, 0.0)
    filled = np.where(known, values, 0.0)
    kinds = {
        "truth": power(whole),
        "filled": power(filled),
        "residual": power(np.where(hidden, filled - whole, 0.0)),
        "hidden": power(np.where(hidden, whole, 0.0)),
    }
    if samples is not None and len(samples):
        drawn = [power(np.where(known, sample, 0.0)) for sample in samples]
        kinds["sample"] = {kind: np.mean([one[kind] for one in drawn], 0) for kind in drawn[0]}
    nside = nside_of(truth.shape[1])
    return {
        kind: Power(nside, {what: told[kind] for what, told in kinds.items()})
        for kind in kinds["truth"]
    }


def power(sky: Float[np.ndarray, "c n"]) -> dict[str, Float[np.ndarray, " l"]]:
    """C_l of a whole NESTED sky up to 3 nside - 1: TT of one field, EE and BB of two, or all."""
    import healpy

    about = {"iter": 3, "use_pixel_weights": False}
    ring = np.asarray(sky, dtype=np.float64)[:, nest_numbers(nside_of(sky.shape[1]))]
    if len(ring) == 1:
        return {"TT": healpy.anafast(ring[0], **about)}
    whole = ring if len(ring) == 3 else np.concatenate([np.zeros_like(ring[:1]), ring])
    tt, ee, bb, *_ = healpy.anafast(whole, pol=True, **about)
    return {"TT": tt, "EE": ee, "BB": bb} if len(ring) == 3 else {"EE": ee, "BB": bb}


def cosmic_variance(lmax: int, skies: int) -> Float[np.ndarray, " l"]:
    """Standard deviation of the mean of so many skies' C_l over C_l, at each l from 0."""
    return np.sqrt(2 / ((2 * np.arange(lmax + 1) + 1) * skies))


def ratio_of_sums(
    parts: Sequence[float],
    wholes: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    root: bool = False,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, float | None]:
    """Sum over sum (its square root if asked) with a bootstrap interval over whole clusters.

    Nothing is known (None) where the whole is 0; no interval below two clusters.
    """
    above, below = (np.asarray(m, dtype=np.float64) for m in (parts, wholes))
    nothing: dict[str, float | None] = {"mean": None, "low": None, "high": None}
    if not len(below) or not below.sum() > 0:
        return nothing
    power_of = 0.5 if root else 1.0
    found = nothing | {"mean": float((above.sum() / below.sum()) ** power_of)}
    keys = list(range(len(above))) if clusters is None else list(clusters)
    units = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    if len(units) < 2:
        return found
    member = [units[key] for key in keys]
    sums = [np.bincount(member, weights=m) for m in (above, below)]
    picks = np.random.default_rng(seed).integers(len(units), size=(draws, len(units)))
    top, foot = (m[picks].sum(1) for m in sums)
    drawn = (top[foot > 0] / foot[foot > 0]) ** power_of
    tail = 50 * (1 - level)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return found | {"low": float(low), "high": float(high)}
