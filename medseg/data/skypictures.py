"""What a picture of one scored sky shows: truth, holes, fill and error, or both label maps."""

import contextlib
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from medseg.data import regressed
from medseg.data.labels import values_in
from medseg.data.pairs import Job
from medseg.data.regressed import RegressJob
from medseg.data.skies import SkyJob, SkyLabels, labels, predicted, reference
from medseg.drawing.sky import Panel, panels
from medseg.geometry.sphere import Sphere
from medseg.io.skyfit import fitted
from medseg.metrics.sky import Filled
from medseg.metrics.structures import Structure

UNIT = "µK"


def picture(job: Job) -> bytes:
    """The maps of one case as PNG bytes; a prediction that cannot be used is left out."""
    if isinstance(job, SkyJob):
        return panels(_filled(job), unit=UNIT, columns=3)
    if isinstance(job, SkyLabels):
        return panels(_segmented(job), columns=3)
    if isinstance(job, RegressJob):
        return panels(_numbers(job), columns=3)
    raise TypeError(f"case {job.record.case} is no sky")


def _numbers(job: RegressJob) -> list[Panel]:
    """Of each target the truth, the prediction on the truth's own scale, and the error."""
    truth, space = regressed.reference(job)
    found = None
    with contextlib.suppress(ValueError, OSError, EOFError):
        found = regressed.predicted(job, truth, space=space)
    units = job.sidecar.get("targets") or {}
    chosen = []
    for place, name in enumerate(job.targets):
        low, high = (float(n) for n in np.nanpercentile(truth[place], (1, 99)))
        about: dict[str, Any] = {"limits": (low, high), "unit": units.get(name) or ""}
        chosen.append(Panel(truth[place], f"{name}: truth", **about))
        if found is not None:
            half = (high - low) / 2
            chosen.append(Panel(found[place], f"{name}: predicted", **about))
            error = found[place] - truth[place]
            chosen.append(Panel(error, f"{name}: error", **about | {"limits": (-half, half)}))
    return chosen


def _filled(job: SkyJob) -> list[Panel]:
    """Six maps a field at most: what was asked, what came, and how far it can be believed."""
    truth, hidden, space, unit = reference(job)
    case = None
    with contextlib.suppress(ValueError, OSError, EOFError):
        case = predicted(job, truth, hidden=hidden, space=space, unit=unit)
    chosen = []
    for place, name in enumerate(job.maps):
        own = f"{name}: " if len(job.maps) > 1 else ""
        chosen += [
            Panel(truth[place], f"{own}truth"),
            Panel(truth[place], f"{own}seen", mask=~hidden),
        ]
        chosen += [] if case is None else _answer(case, place, own)
    return chosen


def _answer(case: Filled, place: int, own: str) -> list[Panel]:
    error = case.values[place] - case.truth[place]
    found = [
        Panel(case.values[place], f"{own}filled"),
        Panel(error, f"{own}error in the holes", mask=case.scored),
    ]
    if case.deviation is not None:
        told = case.deviation[place]
        title = f"{own}predicted deviation"
        found.append(Panel(told, title, mask=case.hidden, colours="sequential", unit=UNIT))
    if case.samples is not None:
        found.append(Panel(case.samples[0, place], f"{own}one sample"))
    return found


def _segmented(job: SkyLabels) -> list[Panel]:
    """The reference, the prediction, and where they differ; structures numbered from 1."""
    truth, space = labels(job.record.label)
    found = None
    with contextlib.suppress(ValueError, OSError, EOFError):
        found = fitted(*labels(job.prediction), like=space, kind="labels")
    sides = [truth] if found is None else [truth, found]
    values = sorted({v for side in sides for v in values_in(side)} - {0})
    known = job.structures or tuple(Structure(str(v), (v,), (v,)) for v in values)
    names = ("none", *(structure.name for structure in known))
    drawn = [np.zeros(len(side), dtype=np.int64) for side in sides]
    for number, structure in enumerate(known, start=1):
        meanings = (structure.reference, structure.prediction)
        for side, own, meaning in zip(sides, drawn, meanings, strict=False):
            own[np.isin(side, meaning)] = number
    maps = [_whole(one, space) for one in drawn]
    titles = ("reference", "prediction")
    chosen = [
        Panel(one, title, colours="labels", legend=names)
        for one, title in zip(maps, titles, strict=False)
    ]
    if found is not None:
        away = np.where(np.isnan(maps[0]), np.nan, maps[0] != maps[1])
        chosen.append(Panel(away, "where they differ", colours="labels", legend=("alike", "apart")))
    return chosen


def _whole(values: Integer[np.ndarray, " m"], space: Sphere) -> Float[np.ndarray, " n"]:
    """Labels of NESTED pixels on the whole sky, NaN where there is none."""
    found = np.full(space.npix, np.nan)
    found[space.numbers()] = values
    return found
