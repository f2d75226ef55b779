"""How sure a mean is: bootstrap intervals over cases or subjects, and a paired test.

Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentile interval; by
cluster as Davison & Hinkley 1997, sec. 3.8, have it); Wilcoxon 1945, doi:10.2307/3001968.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float


def bootstrap_interval(
    values: Sequence[float],
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of the mean; None where fewer than two units leave nothing to draw from.

    Units are drawn with replacement: the values themselves, or whole clusters of them (all cases
    of a subject together), so that repeated scans of one person do not narrow the interval.
    """
    keys = list(range(len(values))) if clusters is None else list(clusters)
    units = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    if len(units) < 2:
        return None
    member = np.array([units[key] for key in keys])
    sums = np.bincount(member, weights=np.asarray(values, dtype=float))
    counts = np.bincount(member)
    means = _resampled_means(sums, counts, draws, np.random.default_rng(seed))
    tail = 50 * (1 - level)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _resampled_means(
    sums: Float[np.ndarray, " n"],
    counts: Float[np.ndarray, " n"] | np.ndarray,
    draws: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " draws"]:
    means = np.empty(draws)
    step = max(1, 2_000_000 // len(sums))
    for start in range(0, draws, step):
        size = (min(step, draws - start), len(sums))
        picks = generator.integers(len(sums), size=size)
        means[start : start + size[0]] = sums[picks].sum(1) / counts[picks].sum(1)
    return means


def paired_p_value(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Two-sided Wilcoxon signed-rank test on scores of the same cases; 1 where none differs."""
    from scipy.stats import wilcoxon

    difference = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    if not difference.any():
        return 1.0
    return float(wilcoxon(difference).pvalue)
