"""A prediction and its reference: found by the case's name, laid on one grid, scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from medseg.data.labels import values_in
from medseg.data.sheet import Record
from medseg.data.table import MISALIGNED_MM, crop, read_labels
from medseg.geometry.grid import Grid
from medseg.metrics.structures import Structure, score_case
from medseg.provenance import read_json

SUFFIXES = (".nii.gz", ".nii")
Labels = Integer[np.ndarray, "i j k"]

EXTRAS = ("_entropy", "_probabilities")


@dataclass(frozen=True)
class Job:
    """One case to score; picklable, so that a worker can do it.

    Attributes:
        record: names the case and its reference.
        prediction: the predicted label map, where there is one.
        structures: what to score; None scores every value as `label_<value>`.
        tolerance_mm: of the normalised surface Dice.
        slice_axis: the axis along which the record's slices count.
        image: a scan on the same grid, for the picture.
        reason: why there is no prediction, if somebody said so.
    """

    record: Record
    prediction: Path | None
    structures: tuple[Structure, ...] | None
    tolerance_mm: float
    slice_axis: int | None
    image: Path | None = None
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """The rows of one case, why it failed (if it did), and what else must be said."""

    rows: list[dict[str, Any]]
    reason: str = ""
    warnings: tuple[str, ...] = ()


def predictions(folder: Path) -> dict[str, Path]:
    """Predicted label maps by case; maps of uncertainty are passed over."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
        case = path.name[: -len(suffix)] if suffix else ""
        if not case or case.startswith(".") or case.endswith(EXTRAS):
            continue
        if case in found:
            raise ValueError(f"{found[case]} and {path} are both the case '{case}'; remove one")
        found[case] = path
    return found


def sidecars(folder: Path, records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """What predict wrote beside the predictions of these records, where it did."""
    found = {}
    for record in records:
        path = folder / f"{record.case}.json"
        if path.is_file():
            content = read_json(path)
            if isinstance(content, dict):
                found[record.case] = content
    return found


def broken_off(sidecar: Mapping[str, Any]) -> str:
    """Why a prediction is not to be used, if its sidecar says that it was never finished."""
    if sidecar.get("status") == "incomplete":
        return "predict was killed while it wrote this case; run it again"
    return str(sidecar.get("error") or "")


def scan(record: Record, sidecar: Mapping[str, Any], sheet: Path | None) -> Path | None:
    """A scan to draw the case on: the model's first channel, else the sheet's first image."""
    inputs = sidecar.get("inputs") if isinstance(sidecar.get("inputs"), dict) else {}
    cells = [record.notes.get(channel, "") for channel in inputs or {}]
    cells += [cell for cell in record.notes.values() if cell.lower().endswith(SUFFIXES)]
    candidates = [sheet.parent / cell for cell in cells if cell] if sheet else []
    candidates += [Path(str(i.get("path"))) for i in (inputs or {}).values() if isinstance(i, dict)]
    return next((path for path in candidates if path.exists()), None)


def score(job: Job) -> Result:
    """Rows of one case; a prediction that cannot be used makes them `failed`, and says why."""
    reference, grid, prediction, reason = load(job)
    known = job.structures
    warnings: list[str] = []
    if known is None:
        values = {*values_in(reference), *([] if prediction is None else values_in(prediction))}
        known = tuple(Structure(f"label_{v}", (v,), (v,)) for v in sorted(values - {0}))
    else:
        for what, labels in (("reference", reference), ("prediction", prediction)):
            mine = {v for s in known for v in getattr(s, what)} | {0}
            odd = [] if labels is None else [v for v in values_in(labels) if v not in mine]
            if odd:
                shown = listed([str(value) for value in odd])
                warnings.append(f"case {job.record.case}: {what} values without a name: {shown}")
    rows = score_case(
        prediction, reference, grid=grid, structures=known, tolerance_mm=job.tolerance_mm
    )
    named = [{"case": job.record.case, **row} for row in rows]
    return Result(named, reason, tuple(warnings))


def load(job: Job) -> tuple[Labels, Grid, Labels | None, str]:
    """Reference, its grid, the prediction on it or None, and why; all cut to the record's slices.

    A prediction may cover the whole volume or the slices alone.
    """
    reference, native = read_labels(job.record)
    target, inside = _cut(job, reference, native)
    found, grid, reason = _read_prediction(job)
    if found is None or grid is None:
        return target, inside, None, reason
    if grid.misalignment_mm(native) <= MISALIGNED_MM:
        return target, inside, _cut(job, found, native)[0], ""
    if grid.misalignment_mm(inside) <= MISALIGNED_MM:
        return target, inside, found, ""
    where = (
        f"has shape {grid.shape}, the reference {native.shape}"
        if grid.shape != native.shape
        else f"lies up to {grid.misalignment_mm(native):.3g} mm away from the reference"
    )
    reason = f"the prediction {where}; predict the scan that the reference was drawn on"
    return target, inside, None, reason


def whole(labels: Labels, inside: Grid, native: Grid) -> Integer[np.ndarray, "x y z"]:
    """Labels of a part put back into the whole volume, 0 elsewhere."""
    start = np.rint(native.to_index(inside.to_world(np.zeros(3)))).astype(int)
    window = tuple(slice(s, s + n) for s, n in zip(start, inside.shape, strict=True))
    out = np.zeros(native.shape, dtype=labels.dtype)
    out[window] = labels
    return out


def _cut(job: Job, labels: Labels, grid: Grid) -> tuple[Integer[np.ndarray, "x y z"], Grid]:
    none = np.zeros((0, *grid.shape), dtype=np.float32)
    inside, _, part = crop(job.record, grid, none, labels, job.slice_axis)
    return (labels if part is None else part), inside


def _read_prediction(job: Job) -> tuple[Labels | None, Grid | None, str]:
    from medseg.io.formats import read_labels

    if job.prediction is None:
        return None, None, job.reason or "there is no prediction of this name"
    try:
        found, grid, _ = read_labels(job.prediction)
    except (ValueError, OSError, EOFError) as error:
        return None, None, str(error)
    return found, grid, ""


def files(record: Record) -> list[str]:
    """A record's files as its sheet spells them: the reference and every image column."""
    images = [cell for cell in record.notes.values() if cell.lower().endswith(SUFFIXES)]
    return [str(record.label), *images]


def listed(names: Sequence[str], most: int = 6) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
