"""Rows of scores brought down to means, intervals and counts, so that no failure gets lost."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from medseg.metrics.classification import class_names
from medseg.metrics.instances import DETECTION_MM, detection_rate
from medseg.metrics.sky import MASKS
from medseg.metrics.statistics import bootstrap_interval
from medseg.report import classes, regression, skies
from medseg.report.plausibility import plausibility

Row = Mapping[str, Any]
Subjects = Mapping[str, str]

DEFINITIONS = {
    "dice": "twice the shared voxels over the voxels of both masks",
    "iou": "shared voxels over voxels in either mask",
    "hd95_mm": "the larger of the two directed 95th percentiles of the distances between surface "
    "voxels' centres (a surface voxel has a face neighbour outside)",
    "assd_mm": "mean of these distances over the surface voxels of both masks, pooled",
    "nsd": "share of both surfaces' area within the tolerance of the other surface; elements are "
    "weighted by their marching-cubes area",
    "slices": "the masks of a case that is some slices of a volume go on past its first and last "
    "slice, so that the faces of the cut are no surface",
    "volume_ml": "volume of the prediction",
    "volume_error_ml": "predicted minus reference volume",
    "distance_mm": "distance between the centres of mass of prediction and reference",
    "missed": "in the reference, not in the prediction: Dice, IoU and NSD 0, every distance the "
    "scored volume's diagonal; an instance is missed below a Dice of 0.1 %",
    "spurious": "in the prediction, not in the reference: scored like a missed one",
    "absent": "in neither: without scores, outside every mean, counted",
    "failed": "no readable prediction on the reference's grid: scored like a missed one",
    "mean": "mean over cases of the mean over a case's structures, absent ones left out",
    "instance": "a prediction without instances gives each voxel to the reference instance that "
    "is nearest in mm",
    "interval": "95 % percentile bootstrap of the mean, 2000 draws of whole subjects (of cases "
    "where no subject is known); none for fewer than two of them",
    "detection_rate": "share of the reference's instances whose centre lies within 2, 4, 6 mm",
}
OF_CONTOURS = {
    "mean": "mean over cases of the mean over a case's lungs, heart and clavicles (a pair counts "
    "as one), absent ones left out",
    "lungs_heart": "all landmarks of lungs and heart, over whose coordinates the published squared "
    "error is taken",
    "interval": DEFINITIONS["interval"],
    "plausible": "every organ is one piece without a hole, and no contour crosses itself; the "
    "contours as they were predicted, nothing repaired",
    "rejected": "images that predict flagged as unlike those it learned from; they count in every "
    "mean, and the means without them are told as well",
    "robustness": "landmarks of disturbed images against the same reference: mean over cases of "
    "the mean over a case's repeats and groups, shaded the 95 % bootstrap interval",
}
"""What is said of contours beside the definitions of their scores."""


def summarise(
    rows: Sequence[Row],
    metrics: Sequence[str],
    *,
    subjects: Subjects,
    instances: Mapping[str, Sequence[str]],
    aside: Sequence[str] = (),
    rejected: Sequence[str] = (),
) -> dict[str, Any]:
    """Means with intervals and counts of every structure, and the numbers of the first line.

    Args:
        rows: `case`, `structure`, the metrics, `status`; a metric without a value is None.
        metrics: the metric columns, in order.
        subjects: case to subject; draws of the bootstrap keep a subject's cases together.
        instances: structure to the names of its instances' rows.
        aside: structures that others are made of or hold, left out of a case's mean.
        rejected: cases that predict did not trust; the same numbers without them are `accepted`.
    """
    cases = list(dict.fromkeys(str(row["case"]) for row in rows))
    owner = {part: whole for whole, parts in instances.items() for part in parts}
    names = list(dict.fromkeys(str(row["structure"]) for row in rows))
    outside = {*owner, *aside}
    wholes = [row for row in rows if row["structure"] not in outside]
    parts = [row for row in rows if row["structure"] in owner]
    people = [subjects.get(case, "") for case in cases]
    out: dict[str, Any] = {
        "n_cases": len(cases),
        "n_subjects": len(set(people)) if all(people) and people else None,
        "counts": count(wholes),
        "structures": {
            name: {
                "instance_of": owner.get(name),
                "aside": name in aside,
                **describe(
                    [row for row in rows if row["structure"] == name], metrics, subjects=subjects
                ),
            }
            for name in names
        },
    }
    if "dice" in metrics:
        out |= _headline("mean_dice", wholes, subjects)
    if parts:
        out["instance_counts"] = count(parts)
        out |= _headline("mean_instance_dice", parts, subjects) | _localisation(parts)
    if tuple(metrics) == MASKS:
        out |= _headline("mean_iou", wholes, subjects, "iou")
    if class_names(metrics):
        out |= classes.summarised(rows, metrics, subjects=subjects)
    out |= skies.summarised(rows, metrics, subjects=subjects)
    if "self_intersections" in metrics:
        out["plausibility"] = plausibility(rows, aside)
    if rejected:
        kept = [row for row in rows if row["case"] not in set(rejected)]
        said: dict[str, Any] = {"subjects": subjects, "instances": instances, "aside": aside}
        out["accepted"] = summarise(kept, metrics, **said)
    return out


def judged(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a summary says of its rows for `summarise`, so that joined rows are counted alike."""
    quality: Mapping[str, Mapping[str, Any]] = summary.get("quality") or {}
    return {
        "subjects": summary.get("subjects") or {},
        "instances": summary.get("instances") or {},
        "aside": summary.get("aside") or (),
        "rejected": [case for case, told in quality.items() if told.get("accepted") is False],
    }


def count(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows have each status."""
    found: dict[str, int] = {"ok": 0, "missed": 0, "spurious": 0, "absent": 0, "failed": 0}
    for row in rows:
        found[str(row["status"])] = found.get(str(row["status"]), 0) + 1
    return found


def describe(rows: Sequence[Row], metrics: Sequence[str], *, subjects: Subjects) -> dict[str, Any]:
    """One structure: counts, and each metric's mean, interval, spread and median."""
    scored = [row for row in rows if row["status"] != "absent"]
    numbers = {}
    for metric in metrics:
        have = [row for row in scored if row.get(metric) is not None]
        values = [float(row[metric]) for row in have]
        if values:
            numbers[metric] = {
                **mean_interval(values, [str(row["case"]) for row in have], subjects=subjects),
                "sd": stdev(values) if len(values) > 1 else None,
                "median": median(values),
            }
    return {"n": len(scored), "counts": count(rows), "metrics": numbers}


def mean_interval(
    values: Sequence[float], cases: Sequence[str], *, subjects: Subjects
) -> dict[str, float | None]:
    """Mean with its bootstrap interval over subjects, or over cases where subjects are unknown."""
    clusters = [("subject", subjects[c]) if subjects.get(c) else ("case", c) for c in cases]
    interval = bootstrap_interval(values, clusters=clusters) or (None, None)
    return {"mean": fmean(values), "low": interval[0], "high": interval[1]}


def case_means(rows: Iterable[Row], metric: str = "dice") -> dict[str, float]:
    """For each case the mean over its rows, absent ones left out."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row["status"] != "absent" and row.get(metric) is not None:
            groups.setdefault(str(row["case"]), []).append(float(row[metric]))
    return {case: fmean(values) for case, values in groups.items()}


def _headline(
    name: str, rows: Sequence[Row], subjects: Subjects, metric: str = "dice"
) -> dict[str, Any]:
    means = case_means(rows, metric)
    if not means:
        return {name: None, f"{name}_interval": None}
    found = mean_interval(list(means.values()), list(means), subjects=subjects)
    interval = None if found["low"] is None else [found["low"], found["high"]]
    return {name: found["mean"], f"{name}_interval": interval}


def _localisation(parts: Sequence[Row]) -> dict[str, Any]:
    """Centre distances over all instances of all cases that the reference holds."""
    real = [row for row in parts if row["status"] in {"ok", "missed", "failed"}]
    distances = [float(r["distance_mm"]) for r in real if r.get("distance_mm") is not None]
    rates = detection_rate(distances, DETECTION_MM)
    return {
        "detection_rate": {f"{limit:g}": rate for limit, rate in rates.items()},
        "localisation_mm": {
            "mean": fmean(distances) if distances else None,
            "sd": stdev(distances) if len(distances) > 1 else None,
            "n": len(distances),
        },
    }


def line(summary: Mapping[str, Any], path: Path) -> str:
    """One line that says how it went."""
    count = summary["n_cases"]
    bits = [f"{count} case{'' if count == 1 else 's'}"]
    for name, found in summary["structures"].items():
        score = found["metrics"].get("dice")
        if score and found["instance_of"] is None and not found["aside"]:
            bits.append(f"{name} Dice {score['mean']:.3f}")
    if summary.get("mean_instance_dice") is not None:
        bits.append(f"mean instance Dice {summary['mean_instance_dice']:.3f}")
    told = (summary.get("classification") or {}).get("overall") or {}
    for name in ("balanced_accuracy", "macro_f1") if told else ():
        bits.append(f"{name.replace('_', ' ')} {told[name]['mean']:.3f}")
    bits += [*skies.words(summary), *regression.words(summary)]
    error = summary["structures"].get("lungs_heart", {}).get("metrics", {}).get("mse_px2")
    bits += [f"error {error['mean']:.1f} px²"] if error else []
    bits += [summary["plausibility"]["text"]] if "plausibility" in summary else []
    bits += [f"{n} {status}" for status, n in summary["counts"].items() if n and status != "ok"]
    return f"{', '.join(bits[:12])}: {path}"
