"""All cases of a call scored, in as many processes as are worth starting."""

import math
from collections.abc import Sequence
from typing import Any

from medseg.data import classified, pairs, regressed, shapes, skies
from medseg.data.classified import ClassJob
from medseg.data.pairs import Job, Result
from medseg.data.pool import count_workers, each
from medseg.data.regressed import RegressJob
from medseg.data.shapes import ShapeJob
from medseg.data.skies import SkyJob, SkyLabels
from medseg.io import formats
from medseg.metrics.classification import class_names

BYTES_A_VOXEL = 24
BYTES_A_CONTOUR = 300_000_000
FEW_CONTOURS = 12
BYTES_A_PIXEL = 1200
"""Of a filled sky: padded faces, harmonics and some maps, all float64."""


def scored(jobs: Sequence[Job], workers: int | None) -> list[Result]:
    """Their results, in their order."""
    named = [job for job in jobs if isinstance(job, ClassJob)]
    if named:
        return [classified.score(job) for job in named]
    contours = [job for job in jobs if isinstance(job, ShapeJob)]
    filled = [job for job in jobs if isinstance(job, SkyJob)]
    if workers is None:
        workers = _of_contours(contours) if contours else _of_volumes(jobs)
        workers = _of_skies(filled) if filled else workers
    tasks = [(job.record.case, (job,)) for job in jobs]
    one: Any = shapes.score if contours else skies.score if filled else pairs.score
    if any(isinstance(job, SkyLabels) for job in jobs):
        one = skies.score_labels
    if any(isinstance(job, RegressJob) for job in jobs):
        one = regressed.score
    return each(one, tasks, workers=max(1, workers), what="evaluate")


def _of_skies(jobs: Sequence[SkyJob]) -> int:
    path = next(iter(jobs[0].maps.values()))
    try:
        pixels = formats.read_header(path, channel="mask").shape[0]
    except (ValueError, OSError, EOFError):
        return 1
    heavy = pixels * len(jobs) * len(jobs[0].maps) > 1_000_000
    return count_workers(BYTES_A_PIXEL * pixels, len(jobs)) if heavy else 1


def _of_contours(jobs: Sequence[ShapeJob]) -> int:
    many = len(jobs) > FEW_CONTOURS or any(shapes.perturbed(job).is_file() for job in jobs)
    return count_workers(BYTES_A_CONTOUR, len(jobs)) if many else 1


def _of_volumes(jobs: Sequence[Job]) -> int:
    label = jobs[0].record.label
    voxels = 1
    if label is not None and label.is_file():
        voxels = math.prod(formats.read_header(label).shape)
    heavy = voxels * len(jobs) > 50_000_000
    return count_workers(BYTES_A_VOXEL * voxels, len(jobs)) if heavy else 1


def complete(rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Structures known by their values alone: a case without one gets its `absent` row.

    Not of classes, of which a case has one.
    """
    if class_names(metrics):
        return list(rows)
    names = list(dict.fromkeys(row["structure"] for row in rows))
    by_case: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_case.setdefault(row["case"], {})[row["structure"]] = row
    nothing = {**dict.fromkeys(metrics), "status": "absent"}
    return [
        found.get(name, {"case": case, "structure": name, **nothing})
        for case, found in by_case.items()
        for name in names
    ]
