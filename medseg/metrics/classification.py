"""How well cases are told apart, and how far their probabilities can be believed.

Every number is a function of how often each case counts, so one piece of code gives the estimate
(each case once) and its bootstrap (cases drawn with replacement within their true class).

Source: Mann & Whitney 1947, doi:10.1214/aoms/1177730491 (the area under the ROC curve as their U,
ties by midranks); Brier 1950, Monthly Weather Review 78:1 (the sum over classes, 0 to 2); Guo et
al. 2017, arXiv:1706.04599 (expected calibration error); Nixon et al. 2019, arXiv:1904.01685
(adaptive bins); Efron & Tibshirani 1993, ch. 13 (percentile interval).
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

BINS = 10
LEAST = 1e-6
"""Probabilities below this one count as this one in a logarithm."""

OVERALL = (
    "balanced_accuracy", "macro_f1", "accuracy", "auc", "brier", "nll", "ece", "adaptive_ece",
)  # fmt: skip
PER_CLASS = ("precision", "recall", "f1", "class_auc")
BIASED = ("ece", "adaptive_ece")
"""Resampling makes these larger than they are, so a percentile interval would mislead."""

METRICS = ("correct", "probability", "brier", "nll")
OF_CLASS = "p_"
"""What stands before a class's name over the column of its probability."""

_CELLS = 2_000_000


@dataclass(frozen=True, eq=False)
class Cases:
    """Cases with their true class, the class they were given, and the probability of each class.

    A `found` of -1 says that nothing was predicted; such a case counts as certain and wrong.
    """

    true: Integer[np.ndarray, " n"]
    found: Integer[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n k"]

    @property
    def n_classes(self) -> int:
        """How many classes there are, whether a case has them or not."""
        return int(self.probabilities.shape[1])

    @property
    def believed(self) -> Float[np.ndarray, "n k"]:
        """The probabilities; where nothing was predicted, 0 of the true class and 1 of others."""
        others = 1.0 - np.eye(self.n_classes)[self.true]
        return np.where((self.found < 0)[:, None], others, self.probabilities)

    @property
    def correct(self) -> Bool[np.ndarray, " n"]:
        """Whether the class is right."""
        return self.found == self.true

    @property
    def confidence(self) -> Float[np.ndarray, " n"]:
        """The probability of the class that was given."""
        return np.where(
            self.found < 0, 1.0, self.probabilities[np.arange(len(self.true)), self.found]
        )


def once(cases: Cases) -> Float[np.ndarray, "1 n"]:
    """Weights that count every case once."""
    return np.ones((1, len(cases.true)))


def confusion(cases: Cases, weights: Float[np.ndarray, "d n"]) -> Float[np.ndarray, "d k k+1"]:
    """How many cases of each class (first) were given which class; the last column is none."""
    k = cases.n_classes
    column = np.where(cases.found < 0, k, cases.found)
    cell = np.eye(k * (k + 1))[cases.true * (k + 1) + column]
    return (weights @ cell).reshape(len(weights), k, k + 1)


def rates(table: Float[np.ndarray, "d k k+1"]) -> dict[str, Float[np.ndarray, " d *k"]]:
    """What a confusion matrix says: accuracy, and precision, recall and F1 of every class.

    Recall is unknown (NaN) for a class without a case. Precision is 0 for one that no case was
    given, and as F1 unknown where there is no case of it either; means leave the unknown out.
    """
    hits = np.diagonal(table, axis1=1, axis2=2)
    there, given = table.sum(2), table[:, :, :-1].sum(1)
    seen = there + given > 0
    recall = _ratio(hits, there)
    f1 = _ratio(2 * hits, there + given)
    precision = np.where(seen, np.nan_to_num(_ratio(hits, given)), np.nan)
    return {
        "accuracy": hits.sum(1) / table.sum((1, 2)),
        "balanced_accuracy": _mean(recall),
        "macro_f1": _mean(f1),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


def auc(
    score: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    *,
    weights: Float[np.ndarray, "d n"],
) -> Float[np.ndarray, " d"]:
    """Probability that a positive case scores above a negative one, ties half; NaN if all alike."""
    _, place = np.unique(score, return_inverse=True)
    order = np.argsort(place, kind="stable")
    ends = np.flatnonzero(np.diff(place[order], append=place.max() + 1))
    up = np.cumsum((weights * positive)[:, order], 1)[:, ends]
    down = np.cumsum((weights * ~positive)[:, order], 1)[:, ends]
    below = down - np.diff(down, prepend=0.0, axis=1) / 2
    return _ratio((np.diff(up, prepend=0.0, axis=1) * below).sum(1), up[:, -1] * down[:, -1])


def brier(cases: Cases) -> Float[np.ndarray, " n"]:
    """Squared distance of each case's probabilities from the truth: 0 right, 2 certainly wrong."""
    distance = cases.believed - np.eye(cases.n_classes)[cases.true]
    return np.minimum(np.square(distance).sum(1), 2.0)


def nll(cases: Cases) -> Float[np.ndarray, " n"]:
    """Negative logarithm of the true class's probability, at most 13.8 (`LEAST`)."""
    own = cases.believed[np.arange(len(cases.true)), cases.true]
    return -np.log(np.clip(own, LEAST, None))


def equal_width(confidence: Float[np.ndarray, " n"], bins: int = BINS) -> Integer[np.ndarray, " n"]:
    """The bin of each confidence, all bins being 1 / `bins` wide and closed above."""
    return np.clip(np.ceil(confidence * bins - 1e-9).astype(int) - 1, 0, bins - 1)


def adaptive(confidence: Float[np.ndarray, " n"], bins: int = BINS) -> Integer[np.ndarray, " n"]:
    """The bin of each confidence, all bins holding as many cases as may be; ties stay together."""
    ordered = np.sort(confidence)
    first = np.searchsorted(ordered, confidence, side="left")
    last = np.searchsorted(ordered, confidence, side="right") - 1
    return ((first + last) * bins) // (2 * len(confidence))


def calibration_error(
    cases: Cases, place: Integer[np.ndarray, " n"], *, weights: Float[np.ndarray, "d n"]
) -> Float[np.ndarray, " d"]:
    """Distance between confidence and accuracy of each bin, weighted by the cases in it."""
    gap = cases.correct - cases.confidence
    sums = (weights * gap) @ np.eye(int(place.max()) + 1)[place]
    return np.abs(sums).sum(1) / weights.sum(1)


def measure(
    cases: Cases, weights: Float[np.ndarray, "d n"]
) -> dict[str, Float[np.ndarray, " d *k"]]:
    """All of `OVERALL` and `PER_CLASS`, a row a row of weights."""
    believed = cases.believed
    areas = [auc(believed[:, c], cases.true == c, weights=weights) for c in range(cases.n_classes)]
    total = weights.sum(1)
    found = rates(confusion(cases, weights))
    found["class_auc"] = np.stack(areas, 1)
    found["auc"] = _mean(found["class_auc"])
    found["brier"] = weights @ brier(cases) / total
    found["nll"] = weights @ nll(cases) / total
    for name, binned in (("ece", equal_width), ("adaptive_ece", adaptive)):
        found[name] = calibration_error(cases, binned(cases.confidence), weights=weights)
    return found


def resampled(
    cases: Cases,
    clusters: Sequence[Hashable] | None = None,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Iterator[Float[np.ndarray, "d n"]]:
    """How often each case is drawn: whole clusters (subjects) with replacement, in some pieces.

    Clusters are drawn among those whose cases have the same true classes, so that no class is
    lost; the only one of its kind is in every draw.
    """
    keys = list(range(len(cases.true))) if clusters is None else list(clusters)
    units: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        units.setdefault(key, []).append(number)
    strata: dict[tuple[int, ...], list[list[int]]] = {}
    for members in units.values():
        kind = tuple(sorted({int(cases.true[n]) for n in members}))
        strata.setdefault(kind, []).append(members)
    generator = np.random.default_rng(seed)
    step = max(1, _CELLS // max(1, len(keys)))
    for start in range(0, draws, step):
        weights = np.zeros((min(step, draws - start), len(keys)))
        for groups in strata.values():
            even = np.full(len(groups), 1 / len(groups))
            counts = generator.multinomial(len(groups), even, size=len(weights))
            for column, members in enumerate(groups):
                weights[:, members] = counts[:, column, None]
        yield weights


def describe(
    cases: Cases, clusters: Sequence[Hashable] | None = None, *, level: float = 0.95
) -> dict[str, list[dict[str, float | None]]]:
    """Every number with its bootstrap interval: one entry, or one a class; None is unknown.

    No interval where a class has fewer than two clusters, nor for what resampling biases.
    """
    estimate = measure(cases, once(cases))
    names = list(range(len(cases.true))) if clusters is None else list(clusters)
    known = [{names[n] for n in np.flatnonzero(cases.true == k)} for k in np.unique(cases.true)]
    alone = min(map(len, known), default=0) < 2  # draws within classes would never differ
    parts = [] if alone else [measure(cases, drawn) for drawn in resampled(cases, clusters)]
    found: dict[str, list[dict[str, float | None]]] = {}
    for name in (*OVERALL, *PER_CLASS):
        values = np.atleast_1d(estimate[name][0])
        low = high = np.full(len(values), np.nan)
        if parts and name not in BIASED:
            drawn = np.concatenate([part[name] for part in parts]).reshape(-1, len(values))
            low, high = _ends(drawn, level)
        found[name] = [
            {"mean": _plain(mean), "low": _plain(first), "high": _plain(last)}
            for mean, first, last in zip(values, low, high, strict=True)
        ]
    return found


def reliability(cases: Cases, bins: int = BINS) -> list[dict[str, float]]:
    """For each bin of confidence that holds cases: its bounds, mean confidence and accuracy."""
    place = equal_width(cases.confidence, bins)
    found = []
    for number in np.unique(place):
        inside = place == number
        found.append(
            {
                "from": float(number / bins),
                "to": float((number + 1) / bins),
                "n": int(inside.sum()),
                "confidence": float(cases.confidence[inside].mean()),
                "accuracy": float(cases.correct[inside].mean()),
            }
        )
    return found


def columns(classes: Sequence[str]) -> tuple[str, ...]:
    """The score columns: of the true class, then the probability of each class."""
    return (*METRICS, *(OF_CLASS + name for name in classes))


def cases_of(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> Cases:
    """Rows of scores as cases again; `metrics` are the score columns."""
    classes = class_names(metrics)
    true = np.array([classes.index(str(row["structure"])) for row in rows], dtype=int)
    shares = np.array([[row.get(OF_CLASS + name) or 0.0 for name in classes] for row in rows])
    shares = shares.reshape(len(rows), len(classes)).astype(float)
    others = np.where(np.eye(len(classes), dtype=bool)[true], -1.0, shares).argmax(1)
    right = np.array([bool(row.get("correct")) for row in rows], dtype=bool)
    failed = np.array([row["status"] == "failed" for row in rows], dtype=bool)
    return Cases(true, np.where(failed, -1, np.where(right, true, others)), shares)


def class_names(metrics: Sequence[str]) -> tuple[str, ...]:
    """The classes whose probabilities are among score columns; none for another task's scores."""
    if tuple(metrics[: len(METRICS)]) != METRICS:
        return ()
    return tuple(name.removeprefix(OF_CLASS) for name in metrics[len(METRICS) :])


def _ends(
    drawn: Float[np.ndarray, "d m"], level: float
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """The percentile interval of every column; NaN where no draw gave a number."""
    tail = 50 * (1 - level)
    known = [column[np.isfinite(column)] for column in drawn.T]
    ends = [np.percentile(c, [tail, 100 - tail]) if len(c) else [np.nan] * 2 for c in known]
    low, high = np.array(ends, dtype=float).T
    return low, high


def _ratio(part: np.ndarray, whole: np.ndarray) -> Float[np.ndarray, "*any"]:
    """The quotient, NaN where the whole is nothing."""
    some = whole > 0
    return np.where(some, part / np.where(some, whole, 1), np.nan)


def _mean(values: Float[np.ndarray, "d k"]) -> Float[np.ndarray, " d"]:
    """The mean over classes, those without a value left out."""
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0).sum(1), known.sum(1))


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
