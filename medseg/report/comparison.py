"""Tables of runs and pools that were scored on the same cases, the best first."""

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.metrics.landmarks import LANDMARKS_ALONE
from medseg.metrics.sky import MASKS
from medseg.metrics.statistics import paired_p_value
from medseg.report.charts import interval
from medseg.report.summary import case_means, mean_interval

View = Mapping[str, Any]
OF_CLASSES = ("balanced_accuracy", "macro_f1", "auc", "correct", "probability")
SHARES = ("dice", "iou", "nsd", *OF_CLASSES)
COMPARED = ("nsd", "hd95_mm", "volume_error_ml", "macro_f1", "auc", "brier", "ece")
OF_CONTOURS = ("dice", "hd_mm")
ERROR = "mse_px2"
FEWEST = 6


def tables(views: Sequence[View]) -> list[dict[str, Any]]:
    """A table for views of the same structures and cases; pools need only share some cases.

    Contours need only share some organs: their main score is then the mean over those.
    Each one's difference to the first row is told with a paired test over the cases they share,
    where there are enough; over seeds, a case's score is its mean.
    """
    together: list[list[View]] = []
    for view in views:
        home = next((members for members in together if _belongs(view, members[0])), None)
        if home is None:
            together.append([view])
        else:
            home.append(view)
    return [_table(members) for members in together]


def goodness(view: View) -> float:
    """Smaller is better: the main score itself, or its negative where it is a share."""
    mean = view["headline"]["mean"] or 0.0
    return float(-mean if view["headline"]["metric"] in SHARES else mean)


def columns(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a table shows beside the main score: a metric, of a structure or pooled, a cell a view.

    Contours are compared structure by structure, as their literature does.
    """
    views = table["views"]
    pooled = [(m, "") for m in COMPARED]
    if any(of_contours(view) for view in views):
        pooled = [(m, name) for m in OF_CONTOURS for name in table["every"]]
        totals = [n for v in views for n, s in v["structures"].items() if _is_total(n, s)]
        pooled += [(ERROR, totals[0] if totals else "")]
    if all(view["run"].metrics == MASKS for view in views):
        pooled = [("iou", ""), *pooled]
    found = []
    for metric, name in pooled:
        cells = {view["anchor"]: _value(view, metric, name) for view in views}
        if any(cell is not None for cell in cells.values()):
            found.append({"metric": metric, "structure": name, "cells": cells})
    return found


def _is_total(name: str, told: Mapping[str, Any]) -> bool:
    return name in LANDMARKS_ALONE and ERROR in told["metrics"]


def _value(view: View, metric: str, structure: str) -> float | None:
    """The mean over cases of a structure's scores, or pooled over structures."""
    if not structure:
        found: float | None = view["pooled"].get(metric)
        return found
    told = view["structures"].get(structure, {}).get("metrics", {}).get(metric)
    return float(told["mean"]) if told else None


def _belongs(view: View, first: View) -> bool:
    kind = [(set(v["wholes"]), v["headline"]["metric"]) for v in (view, first)]
    alike = kind[0] == kind[1]
    if of_contours(view) and of_contours(first):
        alike = not kind[0][0].isdisjoint(kind[1][0])
    one, other = set(view["means"]), set(first["means"])
    both = bool(view["members"] and first["members"])
    return alike and (one == other or (both and not one.isdisjoint(other)))


def of_contours(view: View) -> bool:
    """Whether a view scores contours of organs."""
    return "self_intersections" in view["run"].metrics


def _narrowed(view: View, shared: Sequence[str]) -> View:
    """A view whose main score is the mean over these structures alone."""
    if set(shared) == set(view["wholes"]):
        return view
    means = case_means(row for row in view["run"].rows if row["structure"] in shared)
    if not means:
        return view
    subjects = view["summary"].get("subjects") or {}
    told = mean_interval([*means.values()], [*means], subjects=subjects)
    mean, low, high = (told[name] for name in ("mean", "low", "high"))
    bar = "" if mean is None else interval(mean, low=low, high=high)
    span = None if low is None else [low, high]
    headline = {**view["headline"], "mean": mean, "interval": span, "bar": bar}
    return {**view, "headline": headline, "means": means, "sd": None}


def _table(members: Sequence[View]) -> dict[str, Any]:
    first = members[0]["wholes"]
    shared = [name for name in first if all(name in view["wholes"] for view in members)]
    ranked = sorted((_narrowed(view, shared) for view in members), key=goodness)
    lead = ranked[0]["means"]
    return {
        "views": ranked,
        "structures": shared,
        "every": list(dict.fromkeys(name for view in members for name in view["wholes"])),
        "n_cases": len({case for view in ranked for case in view["means"]}),
        "uneven": any(set(view["means"]) != set(lead) for view in ranked),
        "p": {v["anchor"]: _p_value(lead, v["means"]) for v in ranked[1:]},
        "instances": any(v["summary"].get("detection_rate") for v in ranked),
        "spread": any(v["sd"] is not None for v in ranked),
    }


def _p_value(one: Mapping[str, float], other: Mapping[str, float]) -> float | None:
    shared = sorted(set(one) & set(other))
    if len(shared) < FEWEST:
        return None
    return paired_p_value([one[c] for c in shared], [other[c] for c in shared])
