"""What one call of evaluate has to score, found out before a voxel is read."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.data import classified, pairs, regressed, shapes, skies
from medseg.data.pairs import Job, listed
from medseg.data.shapes import ShapeJob, Shapes
from medseg.data.sheet import Record
from medseg.data.skies import SkyLabels
from medseg.metrics import classification, landmarks, regression, sky, structures
from medseg.metrics.structures import Structure


@dataclass(frozen=True)
class Plan:
    """What is to be scored, and what its numbers are of.

    Attributes:
        jobs: a job a case.
        every: the reference's cases, asked for or not, among which leaks are looked for.
        asked: those that are scored, whatever the shard.
        sidecars: what predict wrote beside the predictions.
        warnings: what must be said.
        structures: of label maps, where they are named.
        shapes: of contours.
        classes: of whole cases.
        fields: of filled skies.
        targets: of maps of numbers.
    """

    jobs: tuple[Job, ...]
    every: Sequence[Record]
    asked: Sequence[Record]
    sidecars: Mapping[str, Mapping[str, Any]]
    warnings: tuple[str, ...]
    structures: tuple[Structure, ...] | None = None
    shapes: Shapes | None = None
    classes: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    @property
    def on_sphere(self) -> bool:
        """Whether label maps of the sphere are scored."""
        return any(isinstance(job, SkyLabels) for job in self.jobs)

    @property
    def in_mm(self) -> bool:
        """Whether surfaces in space are scored, to which the tolerance applies."""
        told = self.shapes or self.classes or self.fields or self.targets
        return not (told or self.on_sphere)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The score columns."""
        if self.classes:
            return classification.columns(self.classes)
        if self.fields:
            return sky.METRICS
        if self.targets:
            return regression.METRICS
        if self.on_sphere:
            return sky.MASKS
        return landmarks.METRICS if self.shapes else structures.METRICS


@dataclass(frozen=True)
class _Call:
    """The options, the reference's cases, those that count and those asked for, its recipe."""

    options: argparse.Namespace
    cases: Sequence[str]
    every: Sequence[Record]
    chosen: Sequence[Record]
    recipe: Mapping[str, Any]

    @property
    def reading(self) -> dict[str, Any]:
        """How the reference's maps are read: as its recipe says, in the unit asked for."""
        told = dict(self.recipe.get("reading") or {})
        return told | ({"unit": self.options.unit} if self.options.unit else {})

    def part(self, records: Sequence[Record]) -> Sequence[Record]:
        """Those of the shard that was asked for."""
        from medseg.data.inputs import shard

        return shard(list(records), self.options.shard) if self.options.shard else records


def plan(options: argparse.Namespace) -> Plan:
    """What the options of evaluate ask for; the predictions say of which kind it is."""
    from medseg.data.inputs import read_splits, select

    records = pairs.records_of(options.reference)
    splits = read_splits(options.splits) if options.splits else None
    chosen, every = (select(records, split=s, splits=splits) for s in (options.split, None))
    cases = [record.case for record in records]
    call = _Call(options, cases, every, chosen, pairs.recipe_of(options.reference))
    filled = classified.predictions(options.predictions, skies.TASK)
    numbers = classified.predictions(options.predictions, regressed.TASK)
    if numbers or (call.recipe.get("targets") and not filled):
        return _of_numbers(call)
    if filled or skies.alone(chosen):
        return _of_skies(call)
    named = classified.predictions(options.predictions)
    if named or classified.alone(chosen):
        return _of_classes(call, named)
    return _of_masks(call)


def _of_numbers(call: _Call) -> Plan:
    """The plan for predicted maps of numbers."""
    sheet = _sheet(call, "maps of numbers", columns="case and the targets'")
    sidecars = pairs.sidecars(call.options.predictions, call.chosen)
    targets = regressed.targets_of(call.chosen, sidecars, recipe=call.recipe)
    paths = pairs.predictions(call.options.predictions)
    about: dict[str, Any] = {"sidecars": sidecars, "sheet": sheet, "targets": targets}
    part = call.part(call.chosen)
    jobs = regressed.jobs_of(part, paths, **about, options=call.reading)
    warnings = tuple(pairs.strangers(skies.maps_of(paths), call.cases))
    return Plan(jobs, call.every, call.chosen, sidecars, warnings, targets=targets)


def _sheet(call: _Call, what: str, *, columns: str) -> Path:
    """The reference's sheet, which alone can say what maps should be."""
    sheet = pairs.sheet_of(call.options.reference)
    if sheet is None:
        raise ValueError(
            f"--reference {call.options.reference} is a folder, and the predictions are {what}; "
            f"give a sheet with the columns {columns}"
        )
    return sheet


def _of_skies(call: _Call) -> Plan:
    """The plan for filled skies."""
    options = call.options
    columns = "case, map (or Q and U, or T, Q and U) and mask"
    sheet = _sheet(call, "filled maps", columns=columns)
    sidecars = pairs.sidecars(options.predictions, call.chosen)
    fields = skies.fields_of(call.chosen, sidecars)
    paths = pairs.predictions(options.predictions)
    jobs = skies.jobs_of(
        call.part(call.chosen),
        paths,
        sidecars=sidecars,
        sheet=sheet,
        fields=fields,
        options=call.reading,
    )
    warnings = pairs.strangers(skies.maps_of(paths), call.cases)
    every, asked = ([skies.files(r) for r in records] for records in (call.every, call.chosen))
    return Plan(jobs, every, asked, sidecars, tuple(warnings), fields=fields)


def _of_classes(call: _Call, named: Mapping[str, Any]) -> Plan:
    """The plan for predicted classes."""
    asked = [record for record in call.chosen if record.category]
    sidecars = pairs.sidecars(call.options.predictions, asked)
    classes = classified.classes_of(asked, sidecars, recipe=call.recipe)
    jobs = classified.jobs_of(call.part(asked), sidecars, classes=classes)
    bare = [record.case for record in call.chosen if not record.category]
    warnings = [f"cases without a class: {listed(bare)}"] if bare else []
    warnings += pairs.strangers(named, [record.case for record in call.every])
    every = _referenced(call.every)
    return Plan(jobs, every, asked, sidecars, tuple(warnings), classes=classes)


def _of_masks(call: _Call) -> Plan:
    """The plan for label maps and contours."""
    from medseg.data.meaning import shapes_of, structures_of

    options = call.options
    expected = [record for record in call.chosen if record.label or record.landmarks]
    if not expected:
        raise ValueError(f"{options.reference} has no reference labels for the cases asked for")
    paths = pairs.predictions(options.predictions)
    points = shapes.predictions(options.predictions, call.cases)
    sidecars = pairs.sidecars(options.predictions, expected)
    contours = shapes_of(
        expected,
        sidecars,
        recipe=call.recipe,
        organs=options.organs,
        labels=options.labels,
        spacing_mm=options.spacing_mm,
        pixels=bool(paths) and not points,
    )
    known = None
    if contours is None:
        given = {"labels": options.labels, "instances": options.instances}
        expected = [record for record in expected if record.label is not None]
        known = structures_of(sidecars, call.recipe, **given)
    found = paths if contours is None else {**paths, **points}
    meaning = known, call.recipe.get("slice_axis"), contours
    jobs = _jobs(call.part(expected), found, sidecars, options, meaning)
    bare = [record.case for record in call.chosen if record not in expected]
    warnings = [f"cases without a reference label: {listed(bare)}"] if bare else []
    if contours and contours.stray:
        warnings.append(f"the reference has no organ of these names: {listed(contours.stray)}")
    warnings += pairs.strangers(found, call.cases)
    every = _referenced(call.every)
    return Plan(jobs, every, expected, sidecars, tuple(warnings), known, contours)


def _referenced(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.label or record.landmarks or record.category]


def _jobs(
    part: Sequence[Record],
    paths: Mapping[str, Path],
    sidecars: Mapping[str, Mapping[str, Any]],
    options: argparse.Namespace,
    meaning: tuple[tuple[Structure, ...] | None, int | None, Shapes | None],
) -> tuple[Job, ...]:
    """One job a record; `meaning` says what its values or contours stand for."""
    sheet = pairs.sheet_of(options.reference)
    known, axis, contours = meaning
    kind = SkyLabels if contours is None and skies.is_sphere(part) else Job
    jobs = []
    for record in part:
        sidecar = sidecars.get(record.case, {})
        reason = pairs.broken_off(sidecar)
        about: dict[str, Any] = {
            "record": record,
            "prediction": None if reason else paths.get(record.case),
            "structures": known,
            "tolerance_mm": options.tolerance_mm,
            "slice_axis": axis,
            "image": pairs.scan(record, sidecar, sheet=sheet),
            "reason": reason,
            "sidecar": {} if contours is None else sidecar,
        }
        jobs.append(kind(**about) if contours is None else ShapeJob(**about, shapes=contours))
    return tuple(jobs)
