"""Predicted classes of cases against those that a sheet names, a row a case."""

import csv
import difflib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.pairs import Job, Result, broken_off, listed
from medseg.data.sheet import Record
from medseg.metrics.classification import OF_CLASS, Cases, brier, nll
from medseg.provenance import read_json


@dataclass(frozen=True)
class ClassJob(Job):
    """One case to score by its class; the sidecar is the prediction."""

    classes: tuple[str, ...] = ()


def predictions(folder: Path, task: str = "classify") -> dict[str, dict[str, Any]]:
    """The sidecars of a task's predictions in a folder, by case, stale ones too; others are not."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_json(path)
        except (OSError, ValueError):
            continue
        told = content.get("earlier") or content if isinstance(content, dict) else {}
        if told.get("task") == task:
            found[path.stem] = content
    return found


def table(sidecars: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Predicted classes as text for spreadsheets: case, class, a probability a class."""
    rows = [(case, told) for case, told in sidecars if told.get("probabilities")]
    names = list(dict.fromkeys(name for _, told in rows for name in told["probabilities"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "class", *(OF_CLASS + name for name in names)])
    for case, told in rows:
        shares = [told["probabilities"].get(name) for name in names]
        cells = ["" if share is None else f"{share:.6g}" for share in shares]
        writer.writerow([case, told["class"], *cells])
    return text.getvalue()


def alone(records: Sequence[Record]) -> bool:
    """Whether classes are all that a reference says of its cases."""
    drawn = any(record.label or record.landmarks for record in records)
    return not drawn and any(record.category for record in records)


def jobs_of(
    records: Sequence[Record],
    sidecars: Mapping[str, Mapping[str, Any]],
    *,
    classes: tuple[str, ...],
) -> tuple[ClassJob, ...]:
    """What is to be scored, a job a record."""
    jobs = []
    for record in records:
        told = sidecars.get(record.case, {})
        about: dict[str, Any] = {"reason": broken_off(told), "sidecar": told, "classes": classes}
        jobs.append(ClassJob(record, None, None, 0.0, None, **about))
    return tuple(jobs)


def classes_of(
    records: Sequence[Record],
    sidecars: Mapping[str, Mapping[str, Any]],
    *,
    recipe: Mapping[str, Any],
) -> tuple[str, ...]:
    """The classes' names: as the predictions say, else the prepared recipe, else the sheet.

    Every case's own class is among them.
    """
    if not records:
        raise ValueError(
            "the predictions are classes, and the reference names none for the cases asked for; "
            "give a sheet with a column `class`"
        )
    told = {case: tuple(one["classes"]) for case, one in sidecars.items() if one.get("classes")}
    own = list(dict.fromkeys(record.category for record in records))
    known = next(iter(told.values()), tuple(recipe.get("classes") or sorted(own)))
    odd = [case for case, names in told.items() if names != known]
    if odd:
        raise ValueError(
            f"the predictions come from models of different classes (case {next(iter(told))} and "
            f"case {odd[0]}); evaluate each model's folder apart"
        )
    for name in own:
        if name not in known:
            cases = [record.case for record in records if record.category == name]
            near = difflib.get_close_matches(name.lower(), {k.lower(): k for k in known}, n=1)
            hint = (
                f"did you mean '{next(k for k in known if k.lower() == near[0])}'? " if near else ""
            )
            raise ValueError(
                f"the reference says class '{name}' (case {listed(cases)}), and the model knows "
                f"{', '.join(known)}; {hint}mend the sheet's column `class`"
            )
    return known


def score(job: ClassJob) -> Result:
    """The row of one case; one without a prediction counts as certain and wrong, and says why."""
    true = job.classes.index(job.record.category)
    shares, found, reason = _read(job)
    case = Cases(np.array([true]), np.array([found]), shares[None])
    row = {
        "case": job.record.case,
        "structure": job.record.category,
        "correct": float(found == true),
        "probability": float(case.believed[0, true]),
        "brier": float(brier(case)[0]),
        "nll": float(nll(case)[0]),
        "status": "failed" if reason else "ok",
    }
    named = zip(job.classes, shares.tolist(), strict=True)
    return Result([row | {OF_CLASS + n: None if reason else p for n, p in named}], reason)


def _read(job: ClassJob) -> tuple[np.ndarray, int, str]:
    """Probabilities, the index of the predicted class (-1 for none), and why there is none."""
    nothing, told = np.zeros(len(job.classes)), job.sidecar
    if job.reason or not told:
        return nothing, -1, job.reason or "there is no prediction of this name"
    shares = told.get("probabilities")
    if not isinstance(shares, dict) or told.get("class") not in job.classes:
        return nothing, -1, "its sidecar names no class of the model; predict it again"
    found = np.array([shares.get(name, np.nan) for name in job.classes], dtype=float)
    if not np.isfinite(found).all() or found.min() < 0 or abs(found.sum() - 1) > 1e-3:
        return nothing, -1, "its probabilities are no shares that sum to 1; predict it again"
    return found, job.classes.index(told["class"]), ""
