"""`medseg check`: every problem of every case in one table, before anything is computed."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.data.problems import Examined
    from medseg.data.sheet import Problem, Record

OUT = Path("data/reports/check")
COLUMNS = ("case", "check", "found", "expected", "cure")
WIDTHS = (40, 20, 60, 40, 50)


@dataclass(frozen=True)
class Rows:
    """What the inputs name: cases, the sheets' own problems, and the channels found in them."""

    records: "list[Record]"
    problems: "list[Problem]"
    channels: tuple[str, ...]


def main(arguments: list[str]) -> int:
    """Check sheets and folders; 0 without a problem, 1 with any that was not mended."""
    from medseg.data import annotations
    from medseg.data.labels import parse
    from medseg.data.leaks import leaks
    from medseg.data.problems import examine
    from medseg.provenance import writable

    options = _parser().parse_args(arguments)
    labels, organs = parse(options.labels), annotations.parse(options.organs)
    if labels and organs:
        raise ValueError("--labels and --organs are both given; labels are classes or bit flags")
    if options.fix and options.out is None:
        raise ValueError("--fix writes mended copies; say where by --out DIR")
    out = OUT if options.out is None else options.out
    given = [name for text in options.channels for name in text.split(",") if name]
    rows = _rows(options.input, given)
    if options.fix:
        _keep_originals(rows.records, options.input, out)
    writable(out)
    said = {"slice_axis": options.slice_axis, "volume": options.volume, "organs": organs}
    cases = _examine(rows.records, partial(examine, labels=labels, **said))
    across, declared = leaks(cases)
    problems = [*rows.problems, *(p for case in cases for p in case.problems), *across]
    mended = _mend(cases, rows.channels, options=options, out=out) if options.fix else {}
    problems = [mended.get(problem, problem) for problem in problems]
    left = [problem for problem in problems if not problem.cure.startswith("mended")]
    told = _notes(cases, planes=bool(organs))
    _write(out, options, rows, cases, problems=problems, declared=declared, notes=told)
    for note in told:
        sys.stdout.write(f"note: {note}\n")
    _tell(problems, declared, len(rows.records), out)
    return 1 if left else 0


def _notes(cases: "Sequence[Examined]", *, planes: bool) -> list[str]:
    """What is worth a look and does not change the exit code."""
    from medseg.data.annotations import of_bare
    from medseg.data.notes import of_spacings

    told = [note for case in cases for note in case.notes]
    if planes:
        return [*told, *of_bare([case.record for case in cases])]
    grids = {case.record.case: case.grid for case in cases if case.grid is not None}
    return [*told, *of_spacings(grids)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medseg check",
        description="Find every problem of every case; exit code 1 if there is any.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("input", nargs="+", type=Path, metavar="TABLE_OR_FOLDER")
    add("--channels", action="append", default=[], metavar="A,B", help="the sheet's image columns")
    add(
        "--labels",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=V,W",
        help="label values by name, e.g. disc=1,255; any other value is a problem",
    )
    add(
        "--organs",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=NODES",
        help="contours of radiographs by name, e.g. heart=26, or name=20:open for a line",
    )
    add(
        "--slice-axis",
        type=int,
        choices=(0, 1, 2),
        help="the axis (R, A, S) of the column slices; by default the one of coarsest spacing",
    )
    add("--volume", type=int, help="which volume of a 4-D file to read, from 0")
    add(
        "--fix",
        choices=("copy-affine", "resample"),
        help="write mended copies of misaligned files and a samples.csv to --out",
    )
    add("--out", type=Path, metavar="DIR", help=f"for check.json and copies (default: {OUT})")
    return parser


def _rows(inputs: Sequence[Path], given: Sequence[str]) -> Rows:
    """The cases of all inputs; the same name in two of them gets its input's name in front."""
    found = [_input(path, given) for path in inputs]
    count = Counter(case for part in found for case in {record.case for record in part.records})
    records = []
    for path, part in zip(inputs, found, strict=True):
        front = path.parent.resolve().name if path.is_file() else path.resolve().name
        records += [
            replace(record, case=f"{front}:{record.case}") if count[record.case] > 1 else record
            for record in part.records
        ]
    channels = tuple(dict.fromkeys(name for part in found for name in part.channels))
    return Rows(records, [problem for part in found for problem in part.problems], channels)


def _input(path: Path, given: Sequence[str]) -> Rows:
    from medseg.data import sheet
    from medseg.data.table import SHEET, gather
    from medseg.io import formats

    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; give a sample sheet or a folder of images")
    if path.is_dir() and (path / SHEET).is_file():
        path = path / SHEET
    if path.is_dir() or formats.is_image(path):
        name = given[0] if given else "image"
        images = gather(path) if path.is_dir() else {formats.stem(path): path}
        cases = [sheet.Record(case, "", "", {name: file}) for case, file in images.items()]
        return Rows(cases, [], (name,))
    suffixes = [suffix for module in formats.modules() for suffix in module.SUFFIXES]
    channels = tuple(given) or tuple(sheet.image_columns(path, suffixes))
    if not channels:
        raise ValueError(
            f"no column of {path} holds image files; name the image columns with --channels"
        )
    records, problems = sheet.read(path, channels)
    return Rows(records, problems, channels)


def _keep_originals(records: "Sequence[Record]", inputs: Sequence[Path], out: Path) -> None:
    """Refuse an output folder in which an input file lies: nothing of the user's is overwritten."""
    home = out.resolve()
    files = [*inputs, *(path for record in records for path in record.paths.values())]
    files += [path for r in records for path in (r.label, r.landmarks) if path is not None]
    inside = next((path for path in files if path.resolve().is_relative_to(home)), None)
    if inside is not None:
        raise ValueError(
            f"--out {out} holds the input {inside}; originals are never touched: "
            "give a folder of its own"
        )


def _examine(records: "Sequence[Record]", one: "Callable[[Record], Examined]") -> "list[Examined]":
    """All cases, a few at a time; threads suffice as reading and hashing leave Python's lock."""
    from tqdm import tqdm

    from medseg.data.pool import count_workers

    workers = min(4, count_workers(1 << 30, len(records) or 1))
    found: dict[int, Examined] = {}
    left = iter(enumerate(records))
    under_way: dict[Future[Examined], int] = {}
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(records), desc="check", unit="case", disable=None) as bar,
    ):
        while True:
            while len(under_way) < workers and (item := next(left, None)) is not None:
                future = pool.submit(one, item[1])
                under_way[future] = item[0]
            if not under_way:
                return [found[place] for place in sorted(found)]
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                found[under_way.pop(future)] = future.result()
                bar.update()


def _mend(
    cases: "Sequence[Examined]",
    channels: Sequence[str],
    *,
    options: argparse.Namespace,
    out: Path,
) -> "dict[Problem, Problem]":
    """Write mended copies and a sheet; geometry problems become 'mended' ones.

    A row that has a problem of its own is left out, as copies cannot mend the row.
    """
    from medseg.data import repair, sheet
    from medseg.data.problems import GEOMETRY
    from medseg.data.table import SHEET
    from medseg.provenance import write_text

    told: dict[Problem, Problem] = {}
    records = []
    for case in cases:
        record = case.record
        if record.faults:
            continue
        wrong = [problem for problem in case.problems if problem.check == GEOMETRY]
        if wrong:
            safe = replace(record, case=record.case.replace(":", "_"))
            record, done, failed = repair.mend(
                safe, options.fix, folder=out / "mended", volume=options.volume
            )
            for problem in wrong:
                name = problem.found.partition(" ")[0].rstrip(":")
                if name in done:
                    told[problem] = replace(problem, cure=f"mended: {options.fix}")
                else:
                    why = "; ".join(text for text in failed if text.startswith(f"{name}:"))
                    told[problem] = replace(problem, cure=f"not mended: {why}")
        records.append(replace(record, case=record.case.replace(":", "_")))
    write_text(out / SHEET, sheet.text(records, channels, folder=out))
    return told


def _write(
    out: Path,
    options: argparse.Namespace,
    rows: Rows,
    cases: "Sequence[Examined]",
    *,
    problems: "Sequence[Problem]",
    declared: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> None:
    from medseg.provenance import versions, write_json

    content = {
        "inputs": options.input,
        "channels": rows.channels,
        "organs": options.organs,
        "fix": options.fix,
        "cases": [_case(case) for case in cases],
        "problems": [
            {**{name: getattr(p, name) for name in COLUMNS}, "mended": p.cure.startswith("mended")}
            for p in problems
        ],
        "declared_leaks": declared,
        "notes": notes,
        "versions": versions(("medseg", "numpy", "nibabel")),
    }
    write_json(out / "check.json", content)


def _case(case: "Examined") -> dict[str, Any]:
    record, grid = case.record, case.grid
    own = {name: getattr(record, name) for name in ("label", "landmarks")}
    return {
        "case": record.case,
        "subject": record.subject,
        "split": record.split,
        "files": {**record.paths, **{name: path for name, path in own.items() if path}},
        "slices": record.slices,
        "shape": grid and grid.shape,
        "spacing_mm": grid and grid.spacing_mm,
        "axes": grid and grid.axcodes,
        "problems": len(case.problems),
    }


def _drawn(table: Sequence[Sequence[str]]) -> str:
    """The rows as aligned columns, long cells on several lines."""
    import itertools
    import textwrap

    folded = [
        [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, WIDTHS, strict=True)]
        for row in table
    ]
    widths = [max(len(line) for row in folded for line in row[i]) for i in range(len(WIDTHS))]
    lines = [
        "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for row in folded
        for parts in itertools.zip_longest(*row, fillvalue="")
    ]
    return "\n".join(lines) + "\n"


def _tell(
    problems: "Sequence[Problem]", declared: Sequence[Mapping[str, Any]], count: int, out: Path
) -> None:
    table = [COLUMNS, *(tuple(getattr(p, name) for name in COLUMNS) for p in problems)]
    if problems:
        sys.stdout.write(_drawn(table))
    for leak in declared:
        what = f"subject {leak['subject']}" if "subject" in leak else f"image {leak['image']}"
        sys.stdout.write(
            f"declared leak: {what} stands in {', '.join(leak['splits'])} by the column slices "
            f"({', '.join(leak['cases'])})\n"
        )
    mended = sum(problem.cure.startswith("mended") for problem in problems)
    also = f" ({mended} mended)" if mended else ""
    sizes = f"{_many(count, 'case')}, {_many(len(problems), 'problem')}"
    sys.stdout.write(f"{sizes}{also}: {out / 'check.json'}\n")


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
