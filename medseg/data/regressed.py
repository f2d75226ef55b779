"""Predicted maps of numbers against references, case by case and target by target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medseg.data.pairs import Job, Result, broken_off
from medseg.data.sheet import Record
from medseg.data.skies import maps_of
from medseg.data.table import read_image, spaced
from medseg.geometry.sphere import Sphere
from medseg.io import formats, skytable
from medseg.io.skyfit import fitted
from medseg.metrics.regression import score_numbers
from medseg.sample import Sample

TASK = "regress"

Maps = Float[np.ndarray, "k n"]


@dataclass(frozen=True)
class RegressJob(Job):
    """The predicted targets of one case.

    Attributes:
        targets: the reference's file of each.
        options: how these files are read (`unit`, `ordering`).
    """

    targets: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def targets_of(
    records: Sequence[Record],
    sidecars: Mapping[str, Mapping[str, Any]],
    *,
    recipe: Mapping[str, Any],
) -> tuple[str, ...]:
    """The targets' names: as the predictions say, else as the recipe beside the reference does.

    Raises:
        ValueError: the predictions differ in them, or the reference lacks a column.
    """
    told = {case: tuple(one["targets"]) for case, one in sidecars.items() if one.get("targets")}
    known = next(iter(told.values()), tuple(recipe.get("targets") or ()))
    odd = [case for case, names in told.items() if names != known]
    if odd:
        raise ValueError(
            f"the predictions are of different targets (case {next(iter(told))}: "
            f"{', '.join(known)}; case {odd[0]}: {', '.join(told[odd[0]])}); evaluate each "
            "model's folder apart"
        )
    there = {name for record in records for name, cell in record.notes.items() if cell}
    lost = [name for name in known if name not in there]
    if lost or not known:
        raise ValueError(
            "the predictions are maps of numbers, and the reference does not tell what they "
            f"should be; give a sheet with the columns {', '.join(lost) or 'of the targets'}"
        )
    return known


def jobs_of(
    records: Sequence[Record],
    paths: Mapping[str, Path],
    *,
    sidecars: Mapping[str, Mapping[str, Any]],
    sheet: Path,
    targets: Sequence[str],
    options: Mapping[str, Any],
) -> tuple[RegressJob, ...]:
    """What is to be scored, a job a record that names all targets."""
    found, jobs = maps_of(paths), []
    for record in records:
        bare = [name for name in targets if not record.notes.get(name)]
        if bare:
            raise ValueError(
                f"case {record.case} has no {' and no '.join(bare)} in the reference {sheet}; fill "
                "its cells, or leave the case out by --split"
            )
        sidecar = sidecars.get(record.case, {})
        reason = broken_off(sidecar)
        about: dict[str, Any] = {"reason": reason, "sidecar": sidecar, "options": options}
        about |= {"targets": {name: sheet.parent / record.notes[name] for name in targets}}
        path = None if reason else found.get(record.case)
        jobs.append(RegressJob(record, path, None, 0.0, None, **about))
    return tuple(jobs)


def score(job: RegressJob) -> Result:
    """A row a target; one without a usable prediction is `failed`, and says why."""
    truth, space = reference(job)
    found, reason = None, ""
    try:
        found = predicted(job, truth, space=space)
    except (ValueError, OSError, EOFError) as error:
        reason = str(error)
    rows = [
        {
            "case": job.record.case,
            "structure": name,
            **score_numbers(None if found is None else found[place], truth[place]),
        }
        for place, name in enumerate(job.targets)
    ]
    return Result(rows, reason)


def reference(job: RegressJob) -> tuple[Maps, Sphere]:
    """The true maps on the whole sky, NESTED and NaN where nothing is known; and that sky.

    Raises:
        ValueError: one cannot be read or knows no pixel, or they lie on different grids.
    """
    rows: list[Float[np.ndarray, " n"]] = []
    sky: Sphere | None = None
    for name, path in job.targets.items():
        options = spaced(job.record, path, options=job.options)
        one = read_image(job.record.case, name, path=path, **options)
        try:
            sky = sky or replace(_sphere(one, path).nested(), pixels=None)
            rows.append(_spread(one, path, sky=sky)[0])
        except ValueError as error:
            raise ValueError(f"case {job.record.case}, {name}: {error}") from error
        if not np.isfinite(rows[-1]).any():
            raise ValueError(
                f"case {job.record.case}: {path} knows no pixel of {name}, so that nothing can be "
                "scored; leave the case out by --split"
            )
    assert sky is not None  # noqa: S101 -- there is a target
    return np.stack(rows), sky


def predicted(job: RegressJob, truth: Maps, *, space: Sphere) -> Maps:
    """The predicted maps on the reference's sky, NaN where there is no prediction.

    Raises:
        ValueError: there are none, or they do not fit the reference.
    """
    if job.prediction is None:
        raise ValueError(job.reason or "there is no prediction of this name")
    with skytable.opened(job.prediction) as table:
        count = len(table.names)
    if count != len(truth):
        raise ValueError(
            f"{job.prediction} holds {count} maps, and the targets are {', '.join(job.targets)}; "
            "predict the case again"
        )
    columns = formats.read(job.prediction, field=tuple(range(count)))
    values = _spread(columns, job.prediction, sky=space)
    if not (np.isfinite(values) & np.isfinite(truth)).any(1).all():
        raise ValueError(f"{job.prediction} has no pixel that the reference knows")
    return values


def _sphere(sample: Sample, path: Path) -> Sphere:
    if not isinstance(sample.space, Sphere):
        raise ValueError(f"{path} is no HEALPix map; give a FITS file of a map of the sphere")
    return sample.space


def _spread(sample: Sample, path: Path, *, sky: Sphere) -> Maps:
    """Maps on all pixels of a sky, NaN where the file has none."""
    own = _sphere(sample, path)
    values = np.full((len(sample.image), own.npix), np.nan)
    values[:, own.numbers()] = sample.image
    whole = replace(own, pixels=None)
    return fitted(
        values, whole, like=sky, name=f"the map {path}", path=path, against="the reference"
    )
