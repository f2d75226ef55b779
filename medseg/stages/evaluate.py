"""Score predictions against references: a row a case and structure, and means with intervals."""

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.data import pairs
from medseg.data.pairs import Job, Result, listed
from medseg.data.predictions import opened
from medseg.data.sheet import Record
from medseg.metrics.structures import METRICS, Structure
from medseg.metrics.surface import TOLERANCE_MM

MOST_PICTURES = 12
BYTES_A_VOXEL = 24


def main(arguments: list[str]) -> int:
    """Score the cases of a reference; exit code 1 if a prediction is missing or unreadable."""
    options = _parser().parse_args(arguments)
    if options.tolerance_mm < 0:
        raise ValueError(f"--tolerance-mm is {options.tolerance_mm:g}; it cannot be negative")
    if not options.predictions.is_dir():
        raise FileNotFoundError(
            f"--in {options.predictions} is not a folder; give the folder that medseg predict wrote"
        )
    plan = _plan(options)
    with opened(options.out):
        return _write(plan, _scored(plan, options.workers), options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medseg evaluate", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--in", dest="predictions", type=Path, required=True, metavar="PREDICTIONS",
        help="folder of <case>.nii.gz and their sidecars")  # fmt: skip
    add("--reference", type=Path, required=True, metavar="TABLE_OR_FOLDER",
        help="sample sheet with a column `label`, or a folder of <case>.nii.gz")  # fmt: skip
    add("--out", type=Path, required=True, metavar="DIR",
        help="where scores.csv, summary.json and pictures/ go")  # fmt: skip
    add("--split", help="score the cases of this split alone (train, val, test)")
    add("--splits", type=Path, metavar="JSON", help="case to split, in place of the sheet's column")
    add("--shard", metavar="i/n", help="score the i-th of n parts, into files of its own")
    add("--labels", nargs="+", metavar="NAME=V,V", default=[],
        help="structures and their values in the reference")  # fmt: skip
    add("--instances", nargs="+", metavar="NAME", default=[],
        help="structures whose reference values are instances")  # fmt: skip
    add("--tolerance-mm", type=float, default=TOLERANCE_MM, metavar="MM",
        help=f"of the normalised surface Dice ({TOLERANCE_MM:g})")  # fmt: skip
    add("--pictures", type=int, default=MOST_PICTURES, metavar="N",
        help=f"draw at most N cases ({MOST_PICTURES})")  # fmt: skip
    add("--workers", type=int, metavar="N", help="processes at once (by cores and memory)")
    return parser


@dataclass(frozen=True)
class Plan:
    """What is to be scored, and what is known before a voxel is read."""

    jobs: tuple[Job, ...]
    structures: tuple[Structure, ...] | None
    leaks: list[dict[str, Any]]
    sidecars: Mapping[str, Mapping[str, Any]]
    warnings: tuple[str, ...]


def _plan(options: argparse.Namespace) -> Plan:
    from medseg.data.inputs import read_splits, select, shard
    from medseg.provenance import read_json

    sheet = _sheet(options.reference)
    records = _records(sheet, options.reference)
    splits = read_splits(options.splits) if options.splits else None
    chosen = select(records, split=options.split, splits=splits)
    warnings = _unlabelled(chosen)
    expected = [record for record in chosen if record.label is not None]
    if not expected:
        raise ValueError(f"{options.reference} has no reference labels for the cases asked for")
    beside = sheet.parent / "prepared.json" if sheet else None
    recipe = read_json(beside) if beside and beside.is_file() else {}
    paths = pairs.predictions(options.predictions)
    sidecars = pairs.sidecars(options.predictions, expected)
    reasons = {case: pairs.broken_off(sidecar) for case, sidecar in sidecars.items()}
    structures = _structures(sidecars, recipe, options)
    warnings += _strangers(paths, [record.case for record in records])
    part = shard(expected, options.shard) if options.shard else expected
    jobs = tuple(
        Job(
            record=record,
            prediction=None if reasons.get(record.case) else paths.get(record.case),
            structures=structures,
            tolerance_mm=options.tolerance_mm,
            slice_axis=recipe.get("slice_axis"),
            image=pairs.scan(record, sidecars.get(record.case, {}), sheet=sheet),
            reason=reasons.get(record.case, ""),
        )
        for record in part
    )
    found = _leaks(select(records, split=None, splits=splits), expected, sidecars, options)
    return Plan(jobs, structures, found, sidecars, tuple(warnings))


def _sheet(reference: Path) -> Path | None:
    inside = reference / "samples.csv"
    return reference if reference.is_file() else inside if inside.is_file() else None


def _records(sheet: Path | None, reference: Path) -> list[Record]:
    """The reference's cases: rows of a sheet, or the files of a folder."""
    from medseg.data.sheet import read
    from medseg.data.table import gather

    if not reference.exists():
        raise FileNotFoundError(
            f"--reference {reference} does not exist; give a sheet or a folder of label files"
        )
    if sheet is None:
        found = gather(reference)
        return [Record(case, "", "", {}, label=path) for case, path in found.items()]
    records, problems = read(sheet, [])
    if problems:
        shown = "\n  ".join(str(problem) for problem in problems[:10])
        raise ValueError(f"{sheet}: {len(problems)} rows need mending:\n  {shown}")
    return records


def _unlabelled(records: Sequence[Record]) -> list[str]:
    bare = [record.case for record in records if record.label is None]
    return [f"cases without a reference label: {listed(bare)}"] if bare else []


def _structures(
    sidecars: Mapping[str, Mapping[str, Any]],
    recipe: Mapping[str, Any],
    options: argparse.Namespace,
) -> tuple[Structure, ...] | None:
    """What to score: as the sidecars say, else the command line, else the prepared recipe."""
    from medseg.data.labels import parse

    given = parse(options.labels)
    kinds = [s for s in sidecars.values() if isinstance(s.get("labels"), dict)]
    if kinds:
        first = kinds[0]
        odd = [s.get("case") for s in kinds if _meaning(s) != _meaning(first)]
        if odd:
            raise ValueError(
                f"the predictions in {options.predictions} come from models of different labels "
                f"(case {first.get('case')} and case {odd[0]}); evaluate each model's folder apart"
            )
        return _of_sidecar(first, given, options.instances)
    named = given or {n: tuple(v) for n, v in dict(recipe.get("labels") or {}).items()}
    parts = options.instances or ([] if given else recipe.get("instances") or [])
    _known(parts, named, "--instances")
    structures = tuple(Structure(n, v, v, instances=n in parts) for n, v in named.items())
    return structures or None


def _meaning(sidecar: Mapping[str, Any]) -> tuple[Any, ...]:
    return sidecar.get("labels"), sidecar.get("sources"), sidecar.get("instances")


def _of_sidecar(
    sidecar: Mapping[str, Any], given: Mapping[str, tuple[int, ...]], parts: Sequence[str]
) -> tuple[Structure, ...]:
    indices: dict[str, int] = sidecar["labels"]
    sources = {**(sidecar.get("sources") or {}), **given}
    instances = [*(sidecar.get("instances") or []), *parts]
    _known(given, indices, "--labels")
    _known(parts, indices, "--instances")
    return tuple(
        Structure(name, (int(index),), tuple(sources.get(name, (index,))), name in instances)
        for name, index in indices.items()
    )


def _known(names: Sequence[str] | Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    for name in names:
        if name not in known:
            there = ", ".join(known) or "none"
            raise ValueError(f"{what} names '{name}'; the structures are: {there}")


def _strangers(paths: Mapping[str, Path], cases: Sequence[str]) -> list[str]:
    extra = sorted(set(paths) - set(cases))
    return [f"predictions without a reference: {listed(extra)}"] if extra else []


def _leaks(
    records: Sequence[Record],
    scored: Sequence[Record],
    sidecars: Mapping[str, Mapping[str, Any]],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    from medseg.provenance import read_json
    from medseg.report.leaks import Case, leaks, trained_on

    sheet = _sheet(options.reference)
    cases = [
        Case(r.case, r.subject, r.split, r.slices, tuple(pairs.files(r, sheet)))
        for r in records
        if r.label is not None
    ]
    found = leaks(cases)
    model: Mapping[str, Any] = next(
        (s["model"] for s in sidecars.values() if isinstance(s.get("model"), dict)), {}
    )
    for folder in (options.out / "model", Path(str(model.get("path", "")))):
        card = folder / "model.json"
        if model and card.is_file():
            training = read_json(card).get("training") or {}
            return found + trained_on([r.case for r in scored], training)
    return found


def _scored(plan: Plan, workers: int | None) -> list[Result]:
    from medseg.data.pool import count_workers, each
    from medseg.io.formats import read_header

    if workers is None:
        label = plan.jobs[0].record.label
        voxels = 1
        if label is not None and label.is_file():
            shape = read_header(label).shape
            voxels = shape[0] * shape[1] * shape[2]
        heavy = voxels * len(plan.jobs) > 50_000_000
        workers = count_workers(BYTES_A_VOXEL * voxels, len(plan.jobs)) if heavy else 1
    tasks = [(job.record.case, (job,)) for job in plan.jobs]
    return each(pairs.score, tasks, workers=max(1, workers), what="evaluate")


def _write(plan: Plan, results: Sequence[Result], options: argparse.Namespace) -> int:
    """Pictures, rows and summary, in this order; then what happened, in a few lines."""
    from medseg.provenance import write_json
    from medseg.report.scores import write_rows

    rows = _complete([row for result in results for row in result.rows])
    failures = [
        {"case": job.record.case, "reason": result.reason}
        for job, result in zip(plan.jobs, results, strict=True)
        if result.reason
    ]
    part = "." + options.shard.replace("/", "-of-") if options.shard else ""
    pictures = _pictures(plan, rows, options, part.lstrip("."))
    summary = _summary(plan, rows, results, options)
    write_rows(options.out / f"scores{part}.csv", rows, metrics=METRICS)
    write_json(
        options.out / f"summary{part}.json",
        {**summary, "failures": failures, "pictures": pictures},
    )
    for failure in failures:
        sys.stderr.write(
            f"medseg evaluate: case {failure['case']} failed: {failure['reason']}; "
            "it is scored as missed\n"
        )
    leaked = [str(leak["text"]) for leak in plan.leaks if not leak["declared"]]
    for text in [*pairs.unmatched(results), *leaked]:
        sys.stderr.write(f"medseg evaluate: warning: {text}\n")
    sys.stdout.write(_line(summary, options.out / f"scores{part}.csv") + "\n")
    return 1 if failures else 0


def _complete(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Structures known by their values alone: a case without one gets its `absent` row."""
    names = list(dict.fromkeys(row["structure"] for row in rows))
    by_case: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_case.setdefault(row["case"], {})[row["structure"]] = row
    nothing = {**dict.fromkeys(METRICS), "status": "absent"}
    return [
        found.get(name, {"case": case, "structure": name, **nothing})
        for case, found in by_case.items()
        for name in names
    ]


def _summary(
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
    options: argparse.Namespace,
) -> dict[str, Any]:
    from medseg.provenance import versions
    from medseg.report.summary import DEFINITIONS, summarise

    subjects = {job.record.case: job.record.subject for job in plan.jobs}
    known = plan.structures or ()
    names = dict.fromkeys(str(row["structure"]) for row in rows)
    instances = {
        s.name: [name for name in names if re.fullmatch(rf"{re.escape(s.name)}_\d+", name)]
        for s in known
        if s.instances
    }
    models = [s["model"] for s in plan.sidecars.values() if isinstance(s.get("model"), dict)]
    return {
        "format": 1,
        **summarise(rows, METRICS, subjects=subjects, instances=instances),
        "metrics": list(METRICS),
        "tolerance_mm": options.tolerance_mm,
        "split": options.split,
        "shard": options.shard,
        "labels": {s.name: list(s.reference) for s in known},
        "instances": instances,
        "subjects": subjects,
        "leaks": plan.leaks,
        "model": models[0] if models else None,
        "predictions": str(options.predictions),
        "reference": str(options.reference),
        "evaluated": time.strftime("%Y-%m-%d %H:%M %Z"),
        "definitions": DEFINITIONS,
        "versions": versions(("medseg", "numpy", "scipy", "nibabel")),
        "warnings": _warnings(plan, results, models),
    }


def _warnings(
    plan: Plan, results: Sequence[Result], models: Sequence[Mapping[str, Any]]
) -> list[str]:
    found = [*plan.warnings, *(text for result in results for text in result.warnings)]
    kinds = len({str(model.get("sha256")) for model in models})
    mixed = [f"the predictions come from {kinds} different models"] if kinds > 1 else []
    return [*found, *pairs.unmatched(results), *mixed]


def _pictures(
    plan: Plan, rows: Sequence[Mapping[str, Any]], options: argparse.Namespace, part: str
) -> list[dict[str, Any]]:
    """Draw the best, median and worst case and those that went wrong; nothing else is kept."""
    from medseg.provenance import atomic_folder
    from medseg.report.overlay import choose

    chosen = choose(rows, options.pictures)
    jobs = {job.record.case: job for job in plan.jobs}
    if not chosen:
        return []
    place = Path("pictures", part)
    with atomic_folder(options.out / place) as folder:
        for entry in chosen:
            case = str(entry["case"])
            value = "" if entry["dice"] is None else f" · Dice {entry['dice']:.3f}"
            title = f"{case} · {entry['role']}{value}"
            _picture(plan, jobs[case], folder / f"{case}.png", title)
    return [{**entry, "file": (place / f"{entry['case']}.png").as_posix()} for entry in chosen]


def _picture(plan: Plan, job: Job, path: Path, title: str) -> None:
    """One case on its scan, as a whole volume even where only some slices are scored."""
    import numpy as np

    from medseg.data.align import onto
    from medseg.data.labels import values_in
    from medseg.io import formats
    from medseg.report.overlay import draw

    reference, inside, prediction, _ = pairs.load(job)
    _, native = pairs.truth(job)
    names = plan.structures or tuple(
        Structure(str(v), (v,), (v,)) for v in values_in(reference) if v
    )
    drawn = [np.zeros(inside.shape, dtype=np.int32) for _ in range(2)]
    for index, structure in enumerate(names, start=1):
        drawn[0][np.isin(reference, structure.reference)] = index
        if prediction is not None:
            drawn[1][np.isin(prediction, structure.prediction)] = index
    truth, found = (pairs.whole(labels, inside, native=native) for labels in drawn)
    image = None
    if job.image is not None:
        with contextlib.suppress(ValueError, OSError):
            scan = formats.read(job.image)
            image = onto(scan.image[0], scan.space, wanted=native)
    draw(
        path,
        image,
        reference=truth,
        prediction=None if prediction is None else found,
        grid=native,
        title=title,
    )


def _line(summary: Mapping[str, Any], path: Path) -> str:
    """One line that says how it went."""
    count = summary["n_cases"]
    bits = [f"{count} case{'' if count == 1 else 's'}"]
    for name, found in summary["structures"].items():
        score = found["metrics"].get("dice")
        if score and found["instance_of"] is None:
            bits.append(f"{name} Dice {score['mean']:.3f}")
    if summary.get("mean_instance_dice") is not None:
        bits.append(f"mean instance Dice {summary['mean_instance_dice']:.3f}")
    bits += [f"{n} {status}" for status, n in summary["counts"].items() if n and status != "ok"]
    return f"{', '.join(bits[:12])}: {path}"
