"""A prediction and its reference: found by the case's name, laid on one grid, scored."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from medseg.data.align import onto, unaligned
from medseg.data.labels import values_in
from medseg.data.sheet import Record, read
from medseg.data.spaces import as_grid
from medseg.data.splits import MASK
from medseg.data.table import crop, cropped_axis, gather, read_labels, spaced
from medseg.geometry.grid import Grid
from medseg.io import formats
from medseg.metrics.structures import Structure, score_case
from medseg.provenance import read_json

Labels = Integer[np.ndarray, "i j k"]

EXTRAS = ("_entropy", "_probabilities", "_magnitude", "_phase")
OVERLAY = "_overlay"
SKY = "_sky"
POINTS = ("_landmarks.csv", "_landmarks.npy")


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
        sidecar: what predict wrote beside the prediction.
    """

    record: Record
    prediction: Path | None
    structures: tuple[Structure, ...] | None
    tolerance_mm: float
    slice_axis: int | None
    image: Path | None = None
    reason: str = ""
    sidecar: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """The rows of one case, why it failed (if it did), and what else must be said.

    `values` are those of the reference and of the prediction, where no structure is named;
    `perturbed` the scores under perturbations of the image; `unscaled` says that the size of its
    pixels is unknown; `ctr` is the reference's cardiothoracic ratio.
    """

    rows: list[dict[str, Any]]
    reason: str = ""
    warnings: tuple[str, ...] = ()
    values: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
    perturbed: tuple[dict[str, Any], ...] = ()
    unscaled: bool = False
    ctr: float | None = None


def sheet_of(reference: Path) -> Path | None:
    """The sample sheet that a reference is or holds."""
    inside = reference / "samples.csv"
    return reference if reference.is_file() else inside if inside.is_file() else None


def recipe_of(reference: Path) -> dict[str, Any]:
    """What prepared data were made by, where the reference is the sheet beside them."""
    sheet = sheet_of(reference)
    beside = sheet.parent / "prepared.json" if sheet else None
    return read_json(beside) if beside and beside.is_file() else {}


def records_of(reference: Path) -> list[Record]:
    """The reference's cases: rows of a sheet, or the label and landmark files of a folder."""
    if not reference.exists():
        raise FileNotFoundError(
            f"--reference {reference} does not exist; give a sheet or a folder of label files"
        )
    sheet = sheet_of(reference)
    if sheet is None:
        return _in_folder(reference)
    records, problems = read(sheet, [])
    if problems:
        shown = "\n  ".join(str(problem) for problem in problems[:10])
        raise ValueError(f"{sheet}: {len(problems)} rows need mending:\n  {shown}")
    return records


def _in_folder(folder: Path) -> list[Record]:
    points = {
        path.name.removesuffix(ending): path
        for ending in POINTS
        for path in sorted(folder.glob(f"*{ending}"))
    }
    found = gather(folder) if not points or any(map(formats.is_image, folder.iterdir())) else {}
    labels = {case: path for case, path in found.items() if not _is_overlay(case, found)}
    return [
        Record(case, "", "", {}, label=labels.get(case), landmarks=points.get(case))
        for case in dict.fromkeys([*labels, *points])
    ]


def _is_overlay(case: str, others: Mapping[str, Any]) -> bool:
    """Whether a picture is another case's, as predict draws it."""
    if case.endswith(SKY) and str(others[case]).endswith(".png"):
        return case.removesuffix(SKY) in others
    return case.endswith(OVERLAY) and case.removesuffix(OVERLAY) in others


def predictions(folder: Path) -> dict[str, Path]:
    """Predicted label maps by case; maps of uncertainty are passed over.

    A name with a map's ending is a case all the same if a sidecar of its own lies beside it.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_dir() or not formats.is_image(path):
            continue
        case = formats.stem(path)
        if case.endswith(EXTRAS) and not (folder / f"{case}.json").is_file():
            continue
        if case in found:
            raise ValueError(f"{found[case]} and {path} are both the case '{case}'; remove one")
        found[case] = path
    return {case: path for case, path in found.items() if not _is_overlay(case, found)}


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


def scan(record: Record, sidecar: Mapping[str, Any], *, sheet: Path | None) -> Path | None:
    """A scan to draw the case on: the model's first channel, else the sheet's first image."""
    inputs = sidecar.get("inputs") if isinstance(sidecar.get("inputs"), dict) else {}
    cells = [record.notes.get(channel, "") for channel in inputs or {}]
    cells += _images(record, sheet)
    candidates = [sheet.parent / cell for cell in cells if cell] if sheet else []
    candidates += [Path(str(i.get("path"))) for i in (inputs or {}).values() if isinstance(i, dict)]
    return next((path for path in candidates if path.exists()), None)


def score(job: Job) -> Result:
    """Rows of one case; a prediction that cannot be used makes them `failed`, and says why."""
    reference, grid, prediction, reason = load(job)
    known = job.structures
    warnings: list[str] = []
    values: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
    if known is None:
        of_prediction = [] if prediction is None else values_in(prediction)
        values = frozenset(values_in(reference)) - {0}, frozenset(of_prediction) - {0}
        known = tuple(Structure(f"label_{v}", (v,), (v,)) for v in sorted(values[0] | values[1]))
    else:
        for what, labels in (("reference", reference), ("prediction", prediction)):
            mine = {v for s in known for v in getattr(s, what)} | {0}
            odd = [] if labels is None else [v for v in values_in(labels) if v not in mine]
            if odd:
                shown = listed([str(value) for value in odd])
                warnings.append(f"case {job.record.case}: {what} values without a name: {shown}")
    rows = score_case(
        prediction,
        reference,
        grid=grid,
        structures=known,
        tolerance_mm=job.tolerance_mm,
        cropped=cropped_axis(job.record, grid, slice_axis=job.slice_axis),
    )
    named = [{"case": job.record.case, **row} for row in rows]
    return Result(named, reason, tuple(warnings), values)


def unmatched(results: Sequence[Result]) -> list[str]:
    """A warning where references and predictions, none of them named, hold different values."""
    ours, theirs = (frozenset().union(*(r.values[i] for r in results)) for i in (0, 1))
    if ours == theirs or not theirs:
        return []
    shown = [listed([str(v) for v in sorted(values)]) for values in (ours, theirs)]
    given = ",".join(str(v) for v in sorted(ours | theirs)[:12])
    return [
        f"the references hold the values {shown[0] or 'none'} and the predictions {shown[1]}, and "
        "nothing says which mean the same, so each is scored as a structure of its own; name them, "
        f"e.g. --labels structure={given}"
    ]


def load(job: Job) -> tuple[Labels, Grid, Labels | None, str]:
    """Reference, its grid, the prediction on it or None, and why; all cut to the record's slices.

    A prediction may cover the whole volume or the slices alone, in any axis order.
    """
    reference, native = truth(job)
    target, inside = _cut(job, reference, native)
    found, grid, reason = _read_prediction(job)
    if found is None or grid is None:
        return target, inside, None, reason
    for part in (native, inside):
        turned = onto(found, grid, wanted=part)
        if turned is not None:
            turned = np.ascontiguousarray(turned)
            return target, inside, _cut(job, turned, native)[0] if part is native else turned, ""
    grid, native = unaligned(grid, native)
    where = (
        f"has shape {grid.shape}, the reference {native.shape}"
        if grid.shape != native.shape
        else f"lies up to {grid.misalignment_mm(native):.3g} mm away from the reference"
    )
    reason = f"the prediction {where}; predict the scan that the reference was drawn on"
    return target, inside, None, reason


def truth(job: Job) -> tuple[Labels, Grid]:
    """The whole reference; where slices count, on the axes of the scan along which they do."""
    labels, space = read_labels(job.record)
    grid = as_grid(space, f"case {job.record.case}: the label")
    if job.record.slices is None or job.image is None:
        return labels, grid
    try:
        scan = formats.read_header(job.image, **spaced(job.record, job.image, options={}))
    except (ValueError, OSError, EOFError):
        return labels, grid
    scan = as_grid(scan, f"case {job.record.case}: the scan")
    turned = onto(labels, grid, wanted=scan)
    return (labels, grid) if turned is None else (np.ascontiguousarray(turned), scan)


def whole(labels: Labels, inside: Grid, *, native: Grid) -> Integer[np.ndarray, "x y z"]:
    """Labels of a part put back into the whole volume, 0 elsewhere."""
    start = np.rint(native.to_index(inside.to_world(np.zeros(3)))).astype(int)
    window = tuple(slice(s, s + n) for s, n in zip(start, inside.shape, strict=True))
    out = np.zeros(native.shape, dtype=labels.dtype)
    out[window] = labels
    return out


def shown(
    job: Job,
) -> tuple[np.ndarray | None, Labels, Labels | None, Grid]:
    """Scan, reference, prediction (structures numbered from 1) and grid, whole, for a picture."""
    reference, inside, prediction, _ = load(job)
    _, native = truth(job)
    names = job.structures or tuple(
        Structure(str(v), (v,), (v,)) for v in values_in(reference) if v
    )
    drawn = [np.zeros(inside.shape, dtype=np.int32) for _ in range(2)]
    for index, structure in enumerate(names, start=1):
        drawn[0][np.isin(reference, structure.reference)] = index
        if prediction is not None:
            drawn[1][np.isin(prediction, structure.prediction)] = index
    ours, theirs = (whole(labels, inside, native=native) for labels in drawn[::-1])
    image = None
    if job.image is not None:
        with contextlib.suppress(ValueError, OSError):
            scan = formats.read(job.image, **spaced(job.record, job.image, options={}))
            image = onto(scan.image[0], scan.grid, wanted=native)
    return image, theirs, None if prediction is None else ours, native


def _cut(job: Job, labels: Labels, grid: Grid) -> tuple[Integer[np.ndarray, "x y z"], Grid]:
    none = np.zeros((0, *grid.shape), dtype=np.float32)
    space, _, part = crop(job.record, grid, image=none, target=labels, slice_axis=job.slice_axis)
    return (labels if part is None else part), as_grid(space, f"case {job.record.case}")


def _read_prediction(job: Job) -> tuple[Labels | None, Grid | None, str]:
    if job.prediction is None:
        return None, None, job.reason or "there is no prediction of this name"
    try:
        found, grid, _ = formats.read_labels(job.prediction)
    except (ValueError, OSError, EOFError) as error:
        return None, None, str(error)
    return found, grid, ""


def strangers(found: Iterable[str], cases: Iterable[str]) -> list[str]:
    """A warning where cases were predicted that the reference does not know."""
    extra = sorted(set(found) - set(cases))
    return [f"predictions without a reference: {listed(extra)}"] if extra else []


def files(record: Record, sheet: Path | None) -> list[str]:
    """A record's files as its sheet spells them: the reference and every image column."""
    own = [str(path) for path in (record.label, record.landmarks) if path is not None]
    return [*own, *_images(record, sheet)]


def _images(record: Record, sheet: Path | None) -> list[str]:
    """The cells of the sheet's other columns that name an image: by suffix, or as it lies there."""
    suffixes = tuple(suffix for module in formats.modules() for suffix in module.SUFFIXES)
    cells = [cell for name, cell in record.notes.items() if cell and name != MASK]
    return [
        cell
        for cell in cells
        if cell.lower().endswith(suffixes) or (sheet and formats.is_image(sheet.parent / cell))
    ]


def listed(names: Sequence[str], most: int = 6) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
