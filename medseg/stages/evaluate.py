"""Score predictions against references: a row a case and structure, and means with intervals."""

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.data import pairs, shapes
from medseg.data.pairs import Job, Result, listed
from medseg.data.plans import Plan, plan
from medseg.data.predictions import opened
from medseg.data.regressed import RegressJob
from medseg.data.shapes import ShapeJob
from medseg.data.skies import SkyJob, SkyLabels, SkyResult
from medseg.metrics import landmarks
from medseg.metrics.surface import TOLERANCE_MM

MOST_PICTURES = 12


def main(arguments: list[str]) -> int:
    """Score the cases of a reference; exit code 1 if a prediction is missing or unreadable."""
    options = _parser().parse_args(arguments)
    if options.tolerance_mm < 0:
        raise ValueError(f"--tolerance-mm is {options.tolerance_mm:g}; it cannot be negative")
    if not options.predictions.is_dir():
        raise FileNotFoundError(
            f"--in {options.predictions} is not a folder; give the folder that medseg predict wrote"
        )
    from medseg.data.scoring import scored

    found = plan(options)
    with opened(options.out):
        return _write(found, scored(found.jobs, options.workers), options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medseg evaluate", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("--in", dest="predictions", type=Path, required=True, metavar="PREDICTIONS",
        help="folder of predicted labels, landmarks, classes or maps, with sidecars")  # fmt: skip
    add("--reference", type=Path, required=True, metavar="TABLE_OR_FOLDER",
        help="sheet with a column `label`, `landmarks`, `class`, `mask`; or a folder")  # fmt: skip
    add("--out", type=Path, required=True, metavar="DIR",
        help="where scores.csv, summary.json and pictures/ go")  # fmt: skip
    add("--split", help="score the cases of this split alone (train, val, test)")
    add("--splits", type=Path, metavar="JSON", help="case to split, in place of the sheet's column")
    add("--shard", metavar="i/n", help="score the i-th of n parts, into files of its own")
    add("--labels", nargs="+", metavar="NAME=V,V", default=[],
        help="structures and their values in the reference")  # fmt: skip
    add("--instances", nargs="+", metavar="NAME", default=[],
        help="structures whose reference values are instances")  # fmt: skip
    add("--organs", nargs="+", metavar="NAME=NODES", default=[],
        help="contours of the reference, if nothing names them: heart=26")  # fmt: skip
    add("--spacing-mm", default="", metavar="X[,Y]",
        help="size of a pixel of radiographs, where nothing else says it")  # fmt: skip
    add("--unit", metavar="K|mK|uK", help="of reference maps whose header says none or lies")
    add("--tolerance-mm", type=float, default=TOLERANCE_MM, metavar="MM",
        help=f"of the normalised surface Dice ({TOLERANCE_MM:g})")  # fmt: skip
    add("--pictures", type=int, default=MOST_PICTURES, metavar="N",
        help=f"draw at most N cases ({MOST_PICTURES})")  # fmt: skip
    add("--workers", type=int, metavar="N", help="processes at once (by cores and memory)")
    return parser


def _leaks(plan: Plan, options: argparse.Namespace) -> list[dict[str, Any]]:
    from medseg.provenance import read_json
    from medseg.report.leaks import Case, leaks, trained_on

    sheet = pairs.sheet_of(options.reference)
    found = leaks(
        [
            Case(r.case, r.subject, r.split, r.slices, tuple(pairs.files(r, sheet)))
            for r in plan.every
        ]
    )
    model: Mapping[str, Any] = next(
        (s["model"] for s in plan.sidecars.values() if isinstance(s.get("model"), dict)), {}
    )
    for folder in (options.out / "model", Path(str(model.get("path", "")))):
        card = folder / "model.json"
        if model and card.is_file():
            training = read_json(card).get("training") or {}
            return found + trained_on([r.case for r in plan.asked], training)
    return found


def _write(plan: Plan, results: Sequence[Result], options: argparse.Namespace) -> int:
    """Pictures, rows and summary, in this order; then what happened, in a few lines."""
    from medseg.data.scoring import complete
    from medseg.provenance import write_json
    from medseg.report import robustness
    from medseg.report.scores import write_rows
    from medseg.report.summary import line

    rows = complete([row for result in results for row in result.rows], plan.metrics)
    disturbed = [row for result in results for row in result.perturbed]
    failures = [
        {"case": job.record.case, "reason": result.reason}
        for job, result in zip(plan.jobs, results, strict=True)
        if result.reason
    ]
    part = "." + options.shard.replace("/", "-of-") if options.shard else ""
    pictures = _pictures(plan, rows, options, part.lstrip("."))
    summary = _summary(plan, rows, results, options)
    write_rows(options.out / f"scores{part}.csv", rows, metrics=plan.metrics)
    path = options.out / f"robustness{part}.csv"
    if disturbed:
        robustness.write(path, disturbed)
    else:
        path.unlink(missing_ok=True)
    write_json(
        options.out / f"summary{part}.json",
        {**summary, "failures": failures, "pictures": pictures},
    )
    worst = "its holes count as filled with zeros" if plan.fields else "it is scored as missed"
    worst = "it counts as the truth's mean" if plan.targets else worst
    for failure in failures:
        sys.stderr.write(
            f"medseg evaluate: case {failure['case']} failed: {failure['reason']}; {worst}\n"
        )
    leaked = [str(leak["text"]) for leak in summary["leaks"] if not leak["declared"]]
    for text in [*pairs.unmatched(results), *leaked]:
        sys.stderr.write(f"medseg evaluate: warning: {text}\n")
    sys.stdout.write(line(summary, options.out / f"scores{part}.csv") + "\n")
    return 1 if failures else 0


def _summary(
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
    options: argparse.Namespace,
) -> dict[str, Any]:
    from medseg.provenance import versions
    from medseg.report.summary import DEFINITIONS, judged, summarise

    told = _told(plan, rows, results)
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
        **summarise(
            rows, plan.metrics, **judged({**told, "subjects": subjects, "instances": instances})
        ),
        "metrics": list(plan.metrics),
        "tolerance_mm": options.tolerance_mm if plan.in_mm else None,
        "split": options.split,
        "shard": options.shard,
        "labels": {s.name: list(s.reference) for s in known},
        "instances": instances,
        "subjects": subjects,
        "leaks": _leaks(plan, options),
        "model": models[0] if models else None,
        "predictions": str(options.predictions),
        "reference": str(options.reference),
        "evaluated": time.strftime("%Y-%m-%d %H:%M %Z"),
        "definitions": DEFINITIONS,
        "versions": versions(("medseg", "numpy", "scipy", "nibabel")),
        "warnings": _warnings(plan, results, models),
        **told,
    }


def _told(
    plan: Plan, rows: Sequence[Mapping[str, Any]], results: Sequence[Result]
) -> dict[str, Any]:
    """What the summary says of one kind of scores alone."""
    from medseg.report import classes, regression, skies

    if plan.shapes:
        return _contours(plan, rows, results)
    if plan.targets:
        return regression.facts(plan.targets)
    if plan.fields or plan.on_sphere:
        spectra = (result.spectra for result in results if isinstance(result, SkyResult))
        return skies.facts(plan.fields, spectra)
    return classes.facts(plan.classes)


def _contours(
    plan: Plan, rows: Sequence[Mapping[str, Any]], results: Sequence[Result]
) -> dict[str, Any]:
    """What the summary says of contours alone."""
    from medseg.report import robustness
    from medseg.report.ratios import ratios
    from medseg.report.summary import OF_CONTOURS

    scored = plan.shapes.scored if plan.shapes else ()
    subjects = {job.record.case: job.record.subject for job in plan.jobs}
    qualities = {
        job.record.case: quality
        for job in plan.jobs
        if isinstance(quality := job.sidecar.get("quality"), dict) and not job.reason
    }
    disturbed = [row for result in results for row in result.perturbed]
    said = [j.sidecar.get("ctr") or {} for j in plan.jobs]
    return {
        "ctr": ratios(zip(said, (result.ctr for result in results), strict=True)),
        "task": "landmarks",
        "organs": {c.name: {"nodes": c.nodes, "closed": c.closed} for c in scored},
        "aside": shapes.aside(dict.fromkeys(str(row["structure"]) for row in rows)),
        "quality": qualities,
        "robustness": robustness.means(disturbed, subjects),
        "definitions": {**landmarks.DEFINITIONS, **OF_CONTOURS},
    }


def _warnings(
    plan: Plan, results: Sequence[Result], models: Sequence[Mapping[str, Any]]
) -> list[str]:
    bare = [job.record.case for job, r in zip(plan.jobs, results, strict=True) if r.unscaled]
    found = [*plan.warnings, *(text for result in results for text in result.warnings)]
    if bare:
        found.append(
            f"the size of a pixel is unknown (cases {listed(bare)}): their columns in mm count "
            "pixels at 1024 instead; name it in the sheet's spacing_mm or by --spacing-mm"
        )
    kinds = len({str(model.get("sha256")) for model in models})
    mixed = [f"the predictions come from {kinds} different models"] if kinds > 1 else []
    return [*found, *pairs.unmatched(results), *mixed]


def _pictures(
    plan: Plan, rows: Sequence[Mapping[str, Any]], options: argparse.Namespace, part: str
) -> list[dict[str, Any]]:
    """Draw the best, median and worst case and those that went wrong; nothing else is kept."""
    from medseg.provenance import atomic_folder
    from medseg.report.overlay import choose, further

    beside = (
        shapes.aside(dict.fromkeys(str(row["structure"]) for row in rows)) if plan.shapes else []
    )
    wholes = [row for row in rows if row["structure"] not in beside]
    chosen = choose(
        wholes, options.pictures, metric="nrmse" if plan.fields or plan.targets else "dice"
    )
    jobs = {job.record.case: job for job in plan.jobs}
    if not chosen or plan.classes:
        return []
    place = Path("pictures", part)
    with atomic_folder(options.out / place) as folder:
        for entry in chosen:
            case = str(entry["case"])
            value = "" if entry["dice"] is None else f" · Dice {entry['dice']:.3f}"
            _picture(jobs[case], folder / f"{case}.png", f"{case} · {entry['role']}{value}")
        others = further(options.predictions, folder)
    drawn = [{**entry, "file": (place / f"{entry['case']}.png").as_posix()} for entry in chosen]
    return drawn + [{**other, "file": (place / other["file"]).as_posix()} for other in others]


def _radiograph(job: ShapeJob, path: Path, title: str) -> None:
    """One case of contours on its radiograph, with what predict said of the image."""
    from medseg.data.tracing import traced
    from medseg.drawing.contours import draw

    found = traced(job)
    quality = job.sidecar.get("quality")
    badge, notes = None, []
    judged = quality.get("accepted") if isinstance(quality, dict) else None
    if isinstance(quality, dict) and judged is not None and found.landmarks is not None:
        good = bool(judged)
        badge = ("image accepted" if good else "image rejected", good)
        notes = [] if good else [str(reason) for reason in quality.get("reasons") or []]
    about: dict[str, Any] = {"title": title, "badge": badge, "notes": notes}
    path.write_bytes(
        draw(
            found.image,
            found.landmarks,
            contours=found.contours,
            reference=found.reference,
            measured=judged is not False,
            **about,
        )
    )


def _picture(job: Job, path: Path, title: str) -> None:
    """One case on its scan, as a whole volume even where only some slices are scored."""
    if isinstance(job, ShapeJob):
        _radiograph(job, path, title)
        return
    if isinstance(job, SkyJob | SkyLabels | RegressJob):
        from medseg.data.skypictures import picture

        path.write_bytes(picture(job))
        return
    from medseg.report.overlay import draw

    image, truth, found, native = pairs.shown(job)
    draw(path, image, reference=truth, prediction=found, grid=native, title=title)
