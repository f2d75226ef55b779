"""Filled and segmented skies against references, case by case, in NESTED order.

A filled sky is scored on the pixels that its mask hides and whose truth the reference knows. Where
no prediction can be used the holes count as filled with zeros: an NRMSE of 1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from medseg.data.labels import values_in
from medseg.data.pairs import Job, Result, broken_off, listed
from medseg.data.sheet import Record
from medseg.geometry.sphere import Sphere, nested
from medseg.io import formats, skytable
from medseg.io.skyfit import Kind, fitted
from medseg.metrics.sky import LEVELS, Filled, score_masks, score_sky
from medseg.metrics.skypower import Spectra
from medseg.metrics.structures import Structure
from medseg.sample import Sample

TASK = "inpaint"
FIELDS = ("map", "T", "Q", "U")
BESIDE = ("mask", "spectrum")
DEVIATION, SAMPLES = "_deviation", "_samples"
CHANGED = 1e-3

Sky = Float[np.ndarray, "c n"]


@dataclass(frozen=True)
class SkyJob(Job):
    """One filled sky to score.

    Attributes:
        maps: the reference's file of each field.
        mask: 1 where the sky was seen.
        options: how maps are read (`unit`, `ordering`), whatever their headers say; a header that
            says no unit is helped by the sidecar's.
        expected: what the other predictions have beside the map, of which a missing one has none.
    """

    maps: Mapping[str, Path] = field(default_factory=dict)
    mask: Path = Path()
    options: Mapping[str, Any] = field(default_factory=dict)
    expected: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SkyLabels(Job):
    """One segmented sky to score."""


@dataclass(frozen=True)
class SkyResult(Result):
    """The rows of one filled sky, and its spectra."""

    spectra: Spectra = field(default_factory=dict)


def alone(records: Sequence[Record]) -> bool:
    """Whether maps and masks are all that a reference says of its cases."""
    told = any(record.label or record.landmarks or record.category for record in records)
    return not told and any(holds(record) for record in records)


def holds(record: Record) -> bool:
    """Whether a record names a map and what is hidden of it."""
    return bool(record.notes.get("mask")) and any(record.notes.get(name) for name in FIELDS)


def is_sphere(records: Iterable[Record]) -> bool:
    """Whether the first label that is there lies on the sphere."""
    paths = (r.label for r in records if r.label is not None and r.label.is_file())
    first = next(paths, None)
    if first is None or not first.name.lower().endswith((".fits", ".fits.gz", ".fit", ".fit.gz")):
        return False
    return isinstance(formats.read_header(first), Sphere)


def fields_of(
    records: Sequence[Record], sidecars: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    """The columns of the fields that were filled: as the predictions say, else those there are.

    Raises:
        ValueError: the reference has no such column, or the predictions differ in their fields.
    """
    there = {name for record in records for name, cell in record.notes.items() if cell}
    told = {case: _named(one, there) for case, one in sidecars.items()}
    kinds = {case: names for case, names in told.items() if names}
    known = next(iter(kinds.values()), tuple(name for name in FIELDS if name in there))
    odd = [case for case, names in kinds.items() if names != known]
    if odd:
        raise ValueError(
            f"the predictions are of different fields (case {next(iter(kinds))}: "
            f"{', '.join(known)}; case {odd[0]}: {', '.join(kinds[odd[0]])}); evaluate each "
            "model's folder apart"
        )
    if not known or "mask" not in there:
        raise ValueError(
            "the predictions are filled maps, and the reference does not tell what they should "
            "be; give a sheet with the columns `map` (or Q and U, or T, Q and U) and `mask`, whose "
            "maps hold the truth in the holes as well"
        )
    return known


def _named(sidecar: Mapping[str, Any], there: set[str]) -> tuple[str, ...]:
    """A prediction's fields as the reference's columns: by their names, else by its inputs'."""
    inputs = [name for name in sidecar.get("inputs") or () if name not in BESIDE]
    for names in (sidecar.get("fields") or (), inputs):
        if names and set(names) <= there:
            return tuple(str(name) for name in names)
    return ()


def files(record: Record) -> Record:
    """A record without what its case shares with others: masks and spectra are no leak."""
    own = {name: cell for name, cell in record.notes.items() if name not in BESIDE}
    return replace(record, notes=own)


def maps_of(paths: Mapping[str, Path]) -> dict[str, Path]:
    """Predicted maps by case, without the deviations and samples that lie beside them."""
    return {
        case: path
        for case, path in paths.items()
        if not any(case.endswith(e) and case.removesuffix(e) in paths for e in (DEVIATION, SAMPLES))
    }


def jobs_of(
    records: Sequence[Record],
    paths: Mapping[str, Path],
    *,
    sidecars: Mapping[str, Mapping[str, Any]],
    sheet: Path,
    fields: Sequence[str],
    options: Mapping[str, Any],
) -> tuple[SkyJob, ...]:
    """What is to be scored, a job a record that names all fields and a mask."""
    found = maps_of(paths)
    extra = [path for case, path in paths.items() if case not in found]
    ends = (DEVIATION, SAMPLES)
    expected = {end for end in ends if any(formats.stem(p).endswith(end) for p in extra)}
    jobs = []
    for record in records:
        cells = {name: record.notes.get(name, "") for name in (*fields, "mask")}
        bare = [name for name, cell in cells.items() if not cell]
        if bare:
            raise ValueError(
                f"case {record.case} has no {' and no '.join(bare)} in the reference {sheet}; fill "
                "its cells, or leave the case out by --split"
            )
        told = sidecars.get(record.case, {})
        about: dict[str, Any] = {"reason": broken_off(told), "sidecar": told}
        about |= {"maps": {name: sheet.parent / cells[name] for name in fields}}
        about |= {"mask": sheet.parent / cells["mask"], "expected": frozenset(expected)}
        about |= {"options": options}
        path = None if about["reason"] else found.get(record.case)
        jobs.append(SkyJob(record, path, None, 0.0, None, **about))
    return tuple(jobs)


def score(job: SkyJob) -> SkyResult:
    """Rows and spectra of one case; holes of one without a usable prediction are full of zeros."""
    truth, hidden, space, unit = reference(job)
    case = Filled(np.where(hidden, 0.0, truth), truth, hidden)
    warnings: list[str] = []
    try:
        case = predicted(job, truth, hidden=hidden, space=space, unit=unit)
        reason = ""
    except (ValueError, OSError, EOFError) as error:
        reason = str(error)
        if SAMPLES in job.expected:
            case = Filled(case.values, truth, hidden, samples=case.values[None])
    rows, found = score_sky(case, list(job.maps))
    if reason:
        rows = [{**row, **_worst(job, row), "status": "failed"} for row in rows]
    elif _changed(case):
        warnings.append(f"case {job.record.case}: the prediction changes pixels that were seen")
    named = [{"case": job.record.case, **row} for row in rows]
    return SkyResult(named, reason, tuple(warnings), spectra=found)


def _worst(job: SkyJob, row: Mapping[str, Any]) -> dict[str, float]:
    """What zeros in the holes do not tell of a case without a prediction."""
    if row["nrmse"] is None:
        return {}
    return {"correlation": 0.0, **(dict.fromkeys(LEVELS, 0.0) if DEVIATION in job.expected else {})}


def _changed(case: Filled) -> bool:
    """Whether seen pixels differ by more than a thousandth of the map's deviation."""
    seen = ~case.hidden & np.isfinite(case.truth)
    away = np.abs(np.where(seen, case.values - case.truth, 0.0)).max()
    return bool(away > CHANGED * np.nanstd(case.truth))


def reference(job: SkyJob) -> tuple[Sky, Bool[np.ndarray, " n"], Sphere, str | None]:
    """The true fields on the whole sky, what is hidden, where they lie, and their unit.

    Raises:
        ValueError: they cannot be read, or no hidden pixel has a known truth.
    """
    name = job.record.case
    try:
        maps = {field: _map(path, field, job) for field, path in job.maps.items()}
        first = next(iter(maps.values()))
        space = _sphere(first, job.maps[next(iter(maps))])
        rows = [_whole(one, space, path=job.maps[field]) for field, one in maps.items()]
        own = {k: v for k, v in job.options.items() if k == "ordering"}
        mask = formats.read(job.mask, channel="mask", **own)
        seen = np.nan_to_num(_whole(mask, space, path=job.mask, kind="mask")[0]) > 0.5
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"case {name}: {error}") from error
    truth = np.concatenate(rows)
    if not (~seen & np.isfinite(truth).all(0)).any():
        raise ValueError(
            f"case {name}: the mask {job.mask} hides no pixel whose truth the map knows, so that "
            "nothing can be scored; give the mask that was used, and the map without its holes"
        )
    return truth, ~seen, space, first.meta.get("unit")


def _map(path: Path, field: str, job: SkyJob) -> Sample:
    """One field in µK."""
    given = {k: job.options.get(k) for k in ("unit", "ordering")}
    with skytable.opened(path, ordering=given["ordering"]) as sky:
        silent = not any(sky.units)
    told = str(job.sidecar.get("unit") or "")
    if silent and not given["unit"] and skytable.micro_kelvin(told) is not None:
        given["unit"] = told
    return formats.read(path, channel=field, **given)


def _sphere(sample: Sample, path: Path) -> Sphere:
    if not isinstance(sample.space, Sphere):
        raise ValueError(f"{path} is no HEALPix map; give a FITS file of a map of the sphere")
    return sample.space


def _whole(sample: Sample, like: Sphere, *, path: Path, kind: Kind = "map") -> Sky:
    """Channels on all pixels of the sky in NESTED order, NaN where there is none."""
    own = like.nested()
    values = fitted(
        sample.image,
        _sphere(sample, path),
        like=own,
        name=kind,
        path=path,
        against="the reference",
        kind=kind,
    )
    if own.whole:
        return values.astype(np.float64)
    found = np.full((len(values), own.npix), np.nan)
    found[:, own.numbers()] = values
    return found


def predicted(
    job: SkyJob, truth: Sky, *, hidden: Bool[np.ndarray, " n"], space: Sphere, unit: str | None
) -> Filled:
    """The filled map with its deviation and samples, as far as they are there.

    Raises:
        ValueError: there is none, or it does not fit the reference.
    """
    if job.prediction is None:
        raise ValueError(job.reason or "there is no prediction of this name")
    count, scored = len(job.maps), hidden & np.isfinite(truth).all(0)
    values = _columns(job.prediction, space, unit=unit)
    if len(values) != count:
        raise ValueError(
            f"{job.prediction} holds {len(values)} fields, and the reference {count} "
            f"({', '.join(job.maps)}); predict with the model of these fields"
        )
    lost = int((~np.isfinite(values[:, scored])).any(0).sum())
    if lost:
        raise ValueError(f"{job.prediction} leaves {lost} of {int(scored.sum())} pixels unfilled")
    values = np.where(np.isfinite(values), values, truth)
    beside = [_beside(job.prediction, end) for end in (DEVIATION, SAMPLES)]
    more = [None if p is None else _columns(p, space, unit=unit) for p in beside]
    for path, one in zip(beside, more, strict=True):
        if one is not None and (len(one) % count or not np.isfinite(one[:, scored]).all()):
            raise ValueError(
                f"{path} holds {len(one)} columns for {count} fields, or pixels without a value; "
                "predict the case again"
            )
    deviation, drawn = more
    samples = None if drawn is None else drawn.reshape(-1, count, drawn.shape[1])
    if samples is not None:
        samples = np.where(np.isfinite(samples), samples, truth)
    return Filled(values, truth, hidden, None if deviation is None else deviation[:count], samples)


def _beside(path: Path, ending: str) -> Path | None:
    """The file of a deviation or of samples beside a filled map."""
    stem = formats.stem(path)
    other = path.with_name(f"{stem}{ending}{path.name.removeprefix(stem)}")
    return other if other.is_file() else None


def _columns(path: Path, space: Sphere, *, unit: str | None) -> Sky:
    """All columns of a predicted file on the whole sky; the reference's unit where none is said."""
    with skytable.opened(path) as sky:
        count, said = len(sky.names), any(sky.units)
    given = None if said else unit
    return _whole(formats.read(path, field=tuple(range(count)), unit=given), space, path=path)


def score_labels(job: SkyLabels) -> Result:
    """Rows of one segmented sky; one without a usable prediction is `failed`, and says why."""
    name = job.record.case
    try:
        truth, space = labels(job.record.label)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"case {name}, label: {error}") from error
    found, reason = None, ""
    try:
        if job.prediction is None:
            raise ValueError(job.reason or "there is no prediction of this name")
        found = fitted(
            *labels(job.prediction), like=space, name="labels", path=job.prediction,
            against="the reference", kind="labels",
        )  # fmt: skip
    except (ValueError, OSError, EOFError) as error:
        reason = str(error)
    sides = values_in(truth), [] if found is None else values_in(found)
    values = frozenset(sides[0]) - {0}, frozenset(sides[1]) - {0}
    known = job.structures
    warnings: list[str] = []
    if known is None:
        known = tuple(Structure(f"label_{v}", (v,), (v,)) for v in sorted(values[0] | values[1]))
    else:
        values, warnings = (frozenset(), frozenset()), _stray(name, known, values)
    rows: list[dict[str, Any]] = []
    for one in known:
        ours = None if found is None else np.isin(found, one.prediction)
        scores = score_masks(ours, np.isin(truth, one.reference))
        rows.append({"case": name, "structure": one.name, **scores})
    return Result(rows, reason, tuple(warnings), values)


def _stray(
    case: str, known: Sequence[Structure], values: tuple[frozenset[int], frozenset[int]]
) -> list[str]:
    """A warning for each side that holds values of no structure."""
    found = []
    for what, there in zip(("reference", "prediction"), values, strict=True):
        odd = sorted(there - {v for structure in known for v in getattr(structure, what)})
        if odd:
            shown = listed([str(value) for value in odd])
            found.append(f"case {case}: {what} values without a name: {shown}")
    return found


def labels(path: Path | None) -> tuple[Integer[np.ndarray, " n"], Sphere]:
    """A label map and its pixels, in NESTED order."""
    if path is None:
        raise ValueError("there is no label map")
    values, space, _ = formats.read_labels(path)
    if not isinstance(space, Sphere):
        raise ValueError(f"{path} is an image where a HEALPix map of labels is wanted")
    return nested(values, space), space.nested()
