"""Two methods on the same cases: signed ranks, effect sizes, intervals, and many tests at once.

Source: Wilcoxon 1945, doi:10.2307/3001968, zeros as in Pratt 1959, doi:10.2307/2282543; Holm 1979,
Scand. J. Statist. 6:65; Kerby 2014, doi:10.2466/11.IT.3.1 (matched-pairs rank-biserial
correlation); Berger 1982, doi:10.1080/00401706.1982.10487790 (two tests that must both reject).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from jaxtyping import Float

from medseg.metrics.statistics import bootstrap_interval

FEWEST = 6
"""Pairs from which on a two-sided signed-rank test can fall below 0.05: 2 / 2^6 = 0.031."""

_DIGITS = 12


@dataclass(frozen=True)
class SignedRanks:
    """A two-sided signed-rank test: the smaller rank sum, its p, and why p is 1 where it is."""

    statistic: float
    p: float
    note: str = ""


@dataclass(frozen=True)
class Paired:
    """What two methods' scores on the same cases say; differences are ours minus theirs.

    Attributes:
        n: cases.
        units: clusters of cases (subjects), over which the test and the effect sizes go.
        mean: mean difference over cases.
        median: median difference over cases.
        low: lower end of the mean's bootstrap interval over units; None below two units.
        high: upper end.
        rank_biserial: from -1 (every unit worse) to 1 (every unit better).
        dz: mean difference over its standard deviation; None where that is 0 or unknown.
        p: of the signed-rank test.
        note: why p is 1, where there were too few units to test.
    """

    n: int
    units: int
    mean: float
    median: float
    low: float | None
    high: float | None
    rank_biserial: float
    dz: float | None
    p: float
    note: str


def compare(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> Paired:
    """Everything about the difference; cases of one cluster count as one unit with their mean."""
    difference = _difference(ours, theirs)
    if not len(difference):
        raise ValueError("no case was scored by both; give scores of the same cases")
    low, high = (
        bootstrap_interval(difference.tolist(), clusters=clusters, level=level) or (None,) * 2
    )
    units = _units(difference, clusters)
    zeros = [0.0] * len(units)
    tested = wilcoxon(units, zeros)
    return Paired(
        n=len(difference),
        units=len(units),
        mean=float(difference.mean()),
        median=float(np.median(difference)),
        low=low,
        high=high,
        rank_biserial=rank_biserial(units, zeros),
        dz=cohens_dz(units, zeros),
        p=tested.p,
        note=tested.note,
    )


def wilcoxon(ours: Sequence[float], theirs: Sequence[float]) -> SignedRanks:
    """Two-sided signed-rank test of pairs; zero differences are ranked and dropped after (Pratt).

    Exact up to 50 pairs without ties and zeros and up to 13 with them; beyond, the normal
    approximation with corrections for ties and continuity. Below `FEWEST` pairs, or where all
    differences are zero, p is 1.
    """
    from scipy.stats import wilcoxon as signed_ranks

    difference = _difference(ours, theirs)
    if not difference.any():
        return SignedRanks(0.0, 1.0, "no pair differs")
    plus, minus, _ = _rank_sums(difference)
    if len(difference) < FEWEST:
        note = f"{len(difference)} pairs are too few for a test, which needs {FEWEST}"
        return SignedRanks(min(plus, minus), 1.0, note)
    found = signed_ranks(difference, zero_method="pratt", correction=True, method="auto")
    return SignedRanks(min(plus, minus), min(1.0, float(found.pvalue)))


def rank_biserial(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Rank sum of the pairs that ours wins minus that of those it loses, over the sum of all.

    From -1 to 1; a zero difference keeps its rank in the sum of all and so draws towards 0.
    """
    plus, minus, total = _rank_sums(_difference(ours, theirs))
    return (plus - minus) / total if total else 0.0


def cohens_dz(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Mean difference over the differences' standard deviation (n - 1); None where that is 0."""
    difference = _difference(ours, theirs)
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    return float(difference.mean()) / spread if spread > 10.0**-_DIGITS else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p in the order given, so that p < alpha keeps the family's error below alpha."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted = [1.0] * len(p_values)
    reached = 0.0
    for rank, place in enumerate(order):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = reached
    return adjusted


def p_over_trainings(
    ours: Sequence[float], theirs: Sequence[float], *, every: Sequence[Sequence[float]]
) -> float | None:
    """Whether two methods' means differ by more than trainings of one method do among themselves.

    Two-sided t-test of the means over trainings (a value a training, its mean over cases), with
    the variance pooled over the trainings of `every` method, ours and theirs among them; None
    where no method was trained twice, so that nothing is known of chance in training.
    """
    from scipy.stats import t

    freedom = sum(len(values) - 1 for values in every if values)
    if not (freedom and ours and theirs):
        return None
    pooled = sum((len(v) - 1) * stdev(v) ** 2 for v in every if len(v) > 1) / freedom
    error = (pooled * (1 / len(ours) + 1 / len(theirs))) ** 0.5
    size = abs(fmean(ours) - fmean(theirs))
    if error <= 10.0**-_DIGITS:
        return 1.0 if size <= 10.0**-_DIGITS else 0.0
    return float(2 * t.sf(size / error, freedom))


def superiority(found: Paired, p: float, *, alpha: float = 0.05) -> int:
    """1 where ours is shown to be larger, -1 where theirs is, 0 where no difference is shown.

    Shown is what has p < `alpha` (after whatever correction it needs), an interval without 0,
    and signed ranks that point the same way as the mean.
    """
    if found.low is None or found.high is None or not p < alpha:
        return 0
    if found.low > 0 and found.rank_biserial > 0:
        return 1
    return -1 if found.high < 0 and found.rank_biserial < 0 else 0


def _difference(ours: Sequence[float], theirs: Sequence[float]) -> Float[np.ndarray, " n"]:
    """Ours minus theirs, rounded so that binary fractions do not undo ties."""
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} scores against {len(theirs)}; give pairs of the same cases")
    return np.round(np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float), _DIGITS)


def _units(difference: Float[np.ndarray, " n"], clusters: Sequence[Hashable] | None) -> list[float]:
    """The mean difference of each cluster, in the order of their first cases."""
    if clusters is None:
        return [float(value) for value in difference]
    groups: dict[Hashable, list[float]] = {}
    for cluster, value in zip(clusters, difference, strict=True):
        groups.setdefault(cluster, []).append(float(value))
    return [fmean(values) for values in groups.values()]


def _rank_sums(difference: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Sums of the ranks of positive, of negative and of all differences, ties at their mean."""
    from scipy.stats import rankdata

    ranks = rankdata(np.abs(difference))
    plus, minus = ranks[difference > 0].sum(), ranks[difference < 0].sum()
    return float(plus), float(minus), float(ranks.sum())
