"""How well the holes of a sky were filled, pixel by pixel, and how far its uncertainty goes.

Everything is told of the hidden pixels whose truth is known; maps are NESTED, whole, in one unit.

Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861 (SSIM; its constants and Gaussian window).
Differs: taken over padded faces of the sphere, so that no window ends at a seam, with a fixed data
range of six standard deviations of the truth. Seam metric and edges are this project's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from medseg.geometry.faces import padded, raster
from medseg.geometry.neighbours import neighbours
from medseg.geometry.sphere import FACES, nside_of
from medseg.metrics.skypower import POWERS, Spectra, spectra

EDGE = 3
WINDOW = 11
SPREAD = 1.5
NEAR = 5
RANGE = 6.0
STABLE = (0.01, 0.03)
LEVELS = {"coverage_68": 0.68, "coverage_95": 0.95}
ADJACENT = (0, 2, 4, 6)

MAIN = ("nrmse", "nrmse_edge", "correlation", "ssim", *LEVELS, "seam")
SUMS = (
    "error_squares",
    "truth_squares",
    "edge_error_squares",
    "edge_truth_squares",
    "border_jump",
    "expected_jump",
)
METRICS = (*MAIN, *SUMS, *POWERS)
MASKS = ("dice", "iou", "precision", "recall")
"""The score columns of segmented skies."""

DEFINITIONS = {
    "nrmse": "root mean square error over root mean square truth, over the hidden pixels; "
    "filling with zeros gives 1. Pooled: sums of squares over all cases first",
    "nrmse_edge": f"the same over hidden pixels within {EDGE} pixels of a seen one (steps to "
    "any of the eight neighbours)",
    "correlation": "Pearson's, over the hidden pixels",
    "ssim": f"structural similarity, mean over Gaussian windows ({WINDOW} x {WINDOW}, sigma "
    f"{SPREAD} pixels) of padded faces whose centre is hidden or within {NEAR} pixels of a hidden "
    f"one; data range {RANGE:g} standard deviations of the truth; not below nside 8",
    "coverage_68": "share of the hidden pixels whose truth lies within 0.994 predicted standard "
    "deviations; 0.68 where these are right",
    "coverage_95": "the same within 1.960 standard deviations",
    "seam": "mean jump of the error between hidden neighbours across a border of base faces, over "
    "that inside faces, over the same ratio of the truth (pairs across a border lie farther "
    "apart); 1 without a seam, not to be above 1.1. Pooled: jumps of all cases first",
    "power_ratio": "C_l of the filled maps, summed over a band and all cases, over that of the "
    "true maps: whole skies, anafast with three iterations, no monopole or dipole; pixels that the "
    "reference does not know are 0 in both",
    "sample_ratio": "the same for drawn skies (mean over a case's samples)",
    "residual_ratio": "C_l of the error in the holes (0 elsewhere) over that of the truth there",
    "bands": "low: l 2 to 10, middle: 11 to nside, high: to 1.75 nside",
    "cosmic_variance": "sqrt(2 / ((2l + 1) n)) C_l: how far the mean spectrum of n skies strays "
    "by chance",
    "failed": "no usable prediction: scored as zeros in every hole (NRMSE 1, correlation 0), "
    "coverage 0 where others have one",
    "interval": "95 % percentile bootstrap, 2000 draws of whole subjects (of cases where no "
    "subject is known)",
}
"""What is said of filled skies in place of the definitions of masks."""

OF_MASKS = {
    "dice": "twice the shared pixels over the pixels of both; all pixels of a sky have one area",
    "iou": "shared pixels over pixels in either",
    "precision": "shared pixels over predicted ones; 0 where nothing was predicted",
    "recall": "shared pixels over the reference's",
    "mean_iou": "mean over cases of the mean IoU over a case's structures, absent ones left out",
    "missed": "in the reference, not in the prediction: every score 0",
    "spurious": "in the prediction, not in the reference: every score 0",
    "absent": "in neither: without scores, outside every mean, counted",
    "failed": "no readable prediction on the reference's pixels: every score 0",
    "interval": DEFINITIONS["interval"],
}

Row = dict[str, float | str | None]


@dataclass(frozen=True, eq=False)
class Filled:
    """A filled sky beside the truth; a row a field.

    Attributes:
        values: the filled map.
        truth: NaN where nothing is known.
        hidden: pixels that were not seen, the same in every field.
        deviation: the predicted standard deviation of each pixel, if there is one.
        samples: drawn skies, if there are some.
    """

    values: Float[np.ndarray, "c n"]
    truth: Float[np.ndarray, "c n"]
    hidden: Bool[np.ndarray, " n"]
    deviation: Float[np.ndarray, "c n"] | None = None
    samples: Float[np.ndarray, "s c n"] | None = None

    @property
    def scored(self) -> Bool[np.ndarray, " n"]:
        """The hidden pixels of which every field is known."""
        return self.hidden & np.isfinite(self.truth).all(0)


def score_sky(case: Filled, fields: Sequence[str]) -> tuple[list[Row], Spectra]:
    """A row a field and, of polarised skies, a row a spectrum; and the spectra themselves.

    A number without a meaning (coverage without a deviation, a seam that no hole crosses) is None.
    """
    found = spectra(case.values, case.truth, hidden=case.scored, samples=case.samples)
    rows: list[Row] = []
    for place, name in enumerate(fields):
        row = _pixels(case, place)
        own = "TT" if "TT" in found and place == 0 else ""
        rows.append({"structure": name, **row, **(found[own].banded() if own else {})})
    for kind, told in found.items():
        if kind != "TT":
            rows.append({"structure": kind, **told.banded()})
    nothing = dict.fromkeys(METRICS)
    return [{**nothing, **row, "status": "ok"} for row in rows], found


def _pixels(case: Filled, place: int) -> Row:
    scored = case.scored
    values, truth = case.values[place], case.truth[place]
    error = np.where(scored, values - np.nan_to_num(truth), 0.0)
    near = scored & near_edge(case.hidden)
    spread = float(np.nanstd(truth))
    border, expected = seam(error, truth, where=scored)
    row: dict[str, float] = {
        "nrmse": nrmse(values, truth, where=scored),
        "nrmse_edge": nrmse(values, truth, where=near),
        "correlation": correlation(values, truth, where=scored),
        "ssim": ssim(values, truth, hidden=scored, spread=spread),
        "seam": border / expected if expected else np.nan,
        "error_squares": _squares(error[scored]),
        "truth_squares": _squares(truth[scored]),
        "edge_error_squares": _squares(error[near]),
        "edge_truth_squares": _squares(truth[near]),
        "border_jump": border,
        "expected_jump": expected,
    }
    if case.deviation is not None:
        told = case.deviation[place][scored]
        row |= {name: coverage(error[scored], told, level=v) for name, v in LEVELS.items()}
    return {name: value if np.isfinite(value) else None for name, value in row.items()}


def nrmse(
    values: Float[np.ndarray, " n"],
    truth: Float[np.ndarray, " n"],
    *,
    where: Bool[np.ndarray, " n"],
) -> float:
    """Root mean square error over root mean square truth; NaN where there is no truth but 0."""
    whole = _squares(truth[where])
    return (_squares(values[where] - truth[where]) / whole) ** 0.5 if whole else np.nan


def _squares(values: Float[np.ndarray, " m"]) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def correlation(
    values: Float[np.ndarray, " n"],
    truth: Float[np.ndarray, " n"],
    *,
    where: Bool[np.ndarray, " n"],
) -> float:
    """Pearson's correlation over some pixels; 0 where either side is constant."""
    ours, theirs = (np.asarray(m[where], dtype=np.float64) for m in (values, truth))
    if not len(ours):
        return np.nan
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    size = float(np.sqrt((ours @ ours) * (theirs @ theirs)))
    return float(ours @ theirs) / size if size else 0.0


def near_edge(hidden: Bool[np.ndarray, " n"], steps: int = EDGE) -> Bool[np.ndarray, " n"]:
    """Hidden pixels from which some steps to any of eight neighbours lead to a seen one."""
    return hidden & grown(~hidden, steps)


def grown(pixels: Bool[np.ndarray, " n"], steps: int) -> Bool[np.ndarray, " n"]:
    """The pixels, and those that lie within some steps to any of eight neighbours."""
    around = neighbours(nside_of(len(pixels)))
    found = np.append(pixels, False)  # the last one stands for a neighbour that is not there
    for _ in range(steps):
        found[:-1] |= found[around].any(1)
    return found[:-1]


def ssim(
    values: Float[np.ndarray, " n"],
    truth: Float[np.ndarray, " n"],
    *,
    hidden: Bool[np.ndarray, " n"],
    spread: float,
) -> float:
    """Structural similarity around the holes: 1 where both are equal; NaN below nside 8.

    `spread` is the standard deviation of the truth, whose sixfold is the data range. Pixels of
    which either map knows nothing are 0 in both.
    """
    if nside_of(len(values)) < 8 or not spread > 0:
        return np.nan
    known = np.isfinite(values) & np.isfinite(truth)
    index = similarity(
        np.where(known, values, 0.0), np.where(known, truth, 0.0), data_range=RANGE * spread
    )
    return float(index[grown(hidden, NEAR) & known].mean())


def similarity(
    one: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"], *, data_range: float
) -> Float[np.ndarray, " n"]:
    """Structural similarity of the windows around every pixel, over borders of faces as well."""
    nside, pad = nside_of(len(one)), WINDOW // 2
    first, second = padded(nside, pad)
    squares = (FACES, nside + 2 * pad, nside + 2 * pad)

    def faces(sky: Float[np.ndarray, " n"]) -> Float[np.ndarray, "12 p q"]:
        return ((sky[first] + sky[second]) / 2).reshape(squares)

    a, b = faces(one.astype(np.float64)), faces(other.astype(np.float64))
    mean_a, mean_b, aa, bb, ab = (_blurred(m) for m in (a, b, a * a, b * b, a * b))
    low, high = ((share * data_range) ** 2 for share in STABLE)
    luminance = (2 * mean_a * mean_b + low) / (mean_a**2 + mean_b**2 + low)
    shared = 2 * (ab - mean_a * mean_b) + high
    both = aa - mean_a**2 + bb - mean_b**2 + high
    found = np.empty(len(one))
    found[raster(nside)] = (luminance * shared / both).ravel()
    return found


def _blurred(faces: Float[np.ndarray, "f p q"]) -> Float[np.ndarray, "f x y"]:
    """Weighted means over the Gaussian windows that lie in the padded faces."""
    from scipy.ndimage import correlate1d

    pad = WINDOW // 2
    weights = np.exp(-0.5 * (np.arange(-pad, pad + 1) / SPREAD) ** 2)
    weights /= weights.sum()
    found = correlate1d(correlate1d(faces, weights, axis=1), weights, axis=2)
    return found[:, pad:-pad, pad:-pad]


def coverage(
    error: Float[np.ndarray, " m"], deviation: Float[np.ndarray, " m"], *, level: float
) -> float:
    """Share of errors inside the central interval of a normal law that holds `level` of it."""
    from scipy.stats import norm

    if not len(error):
        return np.nan
    return float((np.abs(error) <= norm.ppf(0.5 + level / 2) * deviation).mean())


def seam(
    error: Float[np.ndarray, " n"],
    truth: Float[np.ndarray, " n"],
    *,
    where: Bool[np.ndarray, " n"],
) -> tuple[float, float]:
    """Mean jump of an error across borders of faces, and what it would be without a seam there.

    That is the jump inside faces times the truth's own ratio of the two, as neighbours across a
    border lie farther apart near the poles. Where no pair is, NaN.
    """
    border, interior = jumps(error, where)
    across, inside = jumps(truth, where)
    return border, interior * across / inside if inside else np.nan


def jumps(values: Float[np.ndarray, " n"], where: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """Mean difference of pixels that share a side: across borders of faces, and inside faces.

    NaN where there is no such pair.
    """
    nside = nside_of(len(values))
    around = neighbours(nside)[:, ADJACENT]
    own = np.arange(len(values))[:, None]
    pair = (around > own) & where[:, None] & where[around]
    apart = own // nside**2 != around // nside**2
    size = np.abs(values[around] - values[:, None])
    return _mean(size[pair & apart]), _mean(size[pair & ~apart])


def _mean(values: Float[np.ndarray, " m"]) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else np.nan


def score_masks(
    prediction: Bool[np.ndarray, " n"] | None, reference: Bool[np.ndarray, " n"]
) -> Mapping[str, float | str | None]:
    """Overlap of one structure on pixels of one area; the rules for empty masks are `structures`'.

    Without a prediction the row is `failed`, every score 0.
    """
    zeros = dict.fromkeys(MASKS, 0.0)
    if prediction is None:
        return {**zeros, "status": "failed"}
    ours, theirs, shared = (
        int(np.count_nonzero(m)) for m in (prediction, reference, prediction & reference)
    )
    if not ours and not theirs:
        return {**dict.fromkeys(MASKS), "status": "absent"}
    if not ours or not theirs:
        return {**zeros, "status": "missed" if theirs else "spurious"}
    return {
        "dice": 2 * shared / (ours + theirs),
        "iou": shared / (ours + theirs - shared),
        "precision": shared / ours,
        "recall": shared / theirs,
        "status": "ok",
    }
