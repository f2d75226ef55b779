"""What a page says of classified cases: rates with intervals, confusions, and calibration."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medseg.metrics.classification import (
    BINS,
    LEAST,
    METRICS,
    OVERALL,
    PER_CLASS,
    cases_of,
    class_names,
    confusion,
    describe,
    once,
    reliability,
)
from medseg.report.charts import curves, interval

MAIN = "balanced_accuracy"
MOST_COLUMNS = 6
TITLES = {
    "macro_f1": "Macro-F1",
    "f1": "F1",
    "auc": "AUC",
    "class_auc": "AUC",
    "nll": "NLL",
    "ece": "ECE",
    "adaptive_ece": "ECE, adaptive",
    "probability": "Probability of the true class",
}
DEFINITIONS = {
    "balanced_accuracy": "mean over classes of the recall, so that a rare class counts as much as "
    "a common one",
    "accuracy": "share of the cases whose class is right",
    "precision": "share of the cases given a class that are of it; 0 for a class never given",
    "recall": "share of a class's cases that are given it",
    "f1": "harmonic mean of precision and recall",
    "macro_f1": "mean over classes of F1; a class that no case has or is given is left out",
    "auc": "probability that a case of a class gets more of it than a case of another, ties half; "
    "mean over classes, each against the rest",
    "brier": "squared distance of the probabilities from the truth, summed over classes: 0 to 2",
    "nll": "negative logarithm of the true class's probability, not below "
    f"{LEAST:g}; smaller is better",
    "ece": f"distance between confidence and accuracy in {BINS} bins of equal width, weighted by "
    "their cases; without an interval, as resampling makes it larger",
    "adaptive_ece": f"the same in {BINS} bins of equally many cases",
    "failed": "no readable prediction: counts as certain and wrong in every number",
    "interval": "95 % percentile bootstrap, 2000 draws of whole subjects (of cases where no "
    "subject is known) within each true class; none where a class has fewer than two of them",
}
"""What is said of classes in place of the definitions of masks."""


def summarised(
    rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], *, subjects: Mapping[str, str]
) -> dict[str, Any]:
    """The numbers over all cases and of each class, confusions and bins, from rows of scores."""
    names, cases = class_names(metrics), cases_of(rows, metrics)
    ids = [str(row["case"]) for row in rows]
    clusters = [("subject", subjects[c]) if subjects.get(c) else ("case", c) for c in ids]
    found = describe(cases, clusters)
    table = confusion(cases, once(cases))[0].astype(int)
    return {
        "classification": {
            "classes": list(names),
            "overall": {name: found[name][0] for name in OVERALL},
            "per_class": {
                name: {"n": int(table[k].sum()), **{m: found[m][k] for m in PER_CLASS}}
                for k, name in enumerate(names)
            },
            "confusion": table.tolist(),
            "reliability": reliability(cases),
        }
    }


def facts(classes: Sequence[str]) -> dict[str, Any]:
    """What a summary says of a task of classes; nothing where there are none."""
    if not classes:
        return {}
    return {"task": "classify", "classes": list(classes), "definitions": DEFINITIONS}


def headline(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The number on the card: balanced accuracy, with its interval and a bar."""
    found = summary["classification"]["overall"][MAIN]
    mean, low, high = (found[end] for end in ("mean", "low", "high"))
    bar = "" if mean is None else interval(mean, low=low, high=high)
    return {"metric": MAIN, "mean": mean, "interval": None if low is None else [low, high],
            "bar": bar}  # fmt: skip


def view(known: dict[str, Any]) -> dict[str, Any]:
    """A view of the page; where it is of classified cases, with what they are shown by."""
    told = known["summary"].get("classification")
    if not told:
        return known | {"classified": None}
    few = len(told["classes"]) <= MOST_COLUMNS
    shares = [name for name in known["metrics"] if name not in METRICS] if few else []
    return known | {
        "metrics": [*METRICS, *shares],
        "strips": [strip for strip in known["strips"] if strip["metric"] == "probability"],
        "pooled": {name: one["mean"] for name, one in told["overall"].items()},
        "classified": {
            "overall": told["overall"],
            "columns": PER_CLASS,
            "per_class": told["per_class"],
            "confusion": _shaded(told),
            "unanswered": any(row[-1] for row in told["confusion"]),
            "reliability": told["reliability"],
            "chart": chart(told["reliability"]),
        },
    }


def chart(bins: Sequence[Mapping[str, float]]) -> str:
    """Accuracy against confidence, bin by bin with 95 % intervals, and the line of agreement."""
    points = [(one["confidence"], one["accuracy"]) for one in bins]
    bands = [(one["confidence"], *wilson(one["accuracy"], n=one["n"])) for one in bins]
    lines = {"cases": points, "confidence = accuracy": [(0.0, 0.0), (1.0, 1.0)]}
    return curves(lines, "Accuracy", axis="confidence", bands={"cases": bands}) if points else ""


def wilson(share: float, *, n: float) -> tuple[float, float]:
    """95 % score interval of a share of `n` cases (Wilson 1927, doi:10.2307/2276774)."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _shaded(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a true class; each cell's count and its share of the row in per cent."""
    rows = []
    for name, counts in zip(told["classes"], told["confusion"], strict=True):
        total, given = sum(counts) or 1, [*told["classes"], None]
        cells = [
            {"n": n, "percent": round(100 * n / total), "right": other == name}
            for other, n in zip(given, counts, strict=True)
        ]
        rows.append({"name": name, "cells": cells})
    return rows
