"""The sample sheet as text: cases and the paths of their files, none of which is opened here."""

import csv
import difflib
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

SPLITS = ("train", "val", "test", "")
RESERVED = ("case", "subject", "label", "class", "split", "slices", "landmarks", "spacing_mm")


@dataclass(frozen=True)
class Record:
    """One row of a sheet.

    Attributes:
        case: the case's name, unique in the sheet; it names files.
        subject: the person; empty where the sheet does not say.
        split: train, val, test, or empty.
        paths: channel name to a file or a DICOM folder; a channel the case lacks is left out.
        label: the reference labels, if there are any.
        slices: first and one past the last slice of the volume that belong to this case.
        notes: the sheet's other columns, as they stand there.
        landmarks: a file of points, if there is one.
        spacing_mm: the size of a pixel where the sheet says it, for files that do not.
        category: the name of the case's class (column `class`), where whole cases are classified.
        faults: the names of the checks that the row itself failed; what they are about is left
            empty. `medseg check` alone goes on with such a row.
    """

    case: str
    subject: str
    split: str
    paths: Mapping[str, Path]
    label: Path | None = None
    slices: tuple[int, int] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    landmarks: Path | None = None
    spacing_mm: str = ""
    category: str = ""
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one case (or several, joined by commas) and how to mend it."""

    case: str
    check: str
    found: str
    expected: str
    cure: str

    def __str__(self) -> str:
        where = f"{self.case}: " if self.case else ""
        return f"{where}{self.check}: found {self.found}, expected {self.expected}; {self.cure}"


@dataclass(frozen=True)
class Sheet:
    """A sheet's text: its column names and, for every row, its line number and cells by column."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, str]], ...]


def read_text(path: Path) -> str:
    """A sheet's characters; the byte order marks of spreadsheet programs are understood."""
    if not path.exists():
        raise FileNotFoundError(f"there is no sample sheet {path}; give the path of a CSV file")
    raw = path.read_bytes()
    encoding = "utf-16" if raw[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text (byte {error.start}); a sample sheet is a CSV file: "
            "save it as 'CSV UTF-8'"
        ) from None
    if "\0" in text:
        raise ValueError(f"{path} is not text; a sample sheet is a CSV file with a header line")
    return text


def parse(path: Path) -> Sheet:
    """Split a sheet into cells by comma, semicolon or tab, whichever its header holds most of."""
    lines = read_text(path).splitlines()
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise ValueError(f"the sample sheet {path} is empty; {_wanted()}")
    delimiter = max(",;\t", key=lambda mark: len(next(csv.reader([first], delimiter=mark))))
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    columns: tuple[str, ...] = ()
    rows: list[tuple[int, Mapping[str, str]]] = []
    for row in reader:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if not columns:
            columns = _header(path, cells)
            continue
        if any(cells[len(columns) :]):
            raise ValueError(
                f"{path}, line {reader.line_num}: {len(cells)} cells under {len(columns)} columns; "
                "put a cell that holds the separator in double quotes"
            )
        padded = cells + [""] * (len(columns) - len(cells))
        rows.append((reader.line_num, dict(zip(columns, padded, strict=False))))
    if not rows:
        raise ValueError(f"the sample sheet {path} holds a header and no case; {_wanted()}")
    return Sheet(path, columns, tuple(rows))


def _wanted() -> str:
    return (
        "wanted: a header line 'case,subject,<a column a channel>,label,split', then a row a case"
    )


def _header(path: Path, cells: Sequence[str]) -> tuple[str, ...]:
    while cells and not cells[-1]:
        cells = cells[:-1]
    twice = sorted({name for name in cells if cells.count(name) > 1 and name})
    if twice:
        raise ValueError(f"{path} has two columns of the name {', '.join(twice)}; rename one")
    if "case" not in cells:
        raise ValueError(_missing(path, ["case"], cells))
    return tuple(cells)


def _missing(path: Path, names: Sequence[str], columns: Sequence[str]) -> str:
    lower = {column.lower(): column for column in columns if column}
    hints = []
    for name in names:
        near = difflib.get_close_matches(name.lower(), lower, n=1)
        hints += [f"did you mean '{lower[near[0]]}' for '{name}'?"] if near else []
    return (
        f"{path} has no column {', '.join(repr(name) for name in names)}; "
        f"its columns are: {', '.join(column for column in columns if column)}. "
        + " ".join([*hints, "Channels are named by the recipe's data.channels"])
    )


def read(
    path: Path, channels: Sequence[str], *, optional: bool = False
) -> tuple[list[Record], list[Problem]]:
    """A record of every row, and a problem for each thing that is wrong with the rows.

    What a problem is about is empty in its record (a split that is none, slices that are none);
    only `medseg check` looks at such a case's files, all else refuses the sheet.

    Args:
        path: the sheet.
        channels: the columns that hold images.
        optional: a case may lack some of its channels (their cell is empty or the column absent).
    """
    sheet = parse(path)
    absent = [name for name in channels if name not in sheet.columns]
    if absent and not (optional and len(absent) < len(channels)):
        raise ValueError(_missing(path, absent, sheet.columns))
    records: list[Record] = []
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for line, row in sheet.rows:
        found = list(_faults(line, row, channels, seen, optional=optional))
        problems += found
        seen.setdefault(row["case"], line)
        record = _record(path.parent, row, channels=channels)
        name, faults = _name(line, row), tuple(problem.check for problem in found)
        records.append(replace(record, case=name, faults=faults))
    return records, problems


def _name(line: int, row: Mapping[str, str]) -> str:
    return row["case"] or f"line {line}"


def _faults(
    line: int,
    row: Mapping[str, str],
    channels: Sequence[str],
    seen: Mapping[str, int],
    *,
    optional: bool,
) -> Iterable[Problem]:
    case = row["case"]
    name = _name(line, row)
    reason = _bad_name(case)
    if reason:
        yield Problem(
            name, "case name", repr(case), "a name that can name a file", f"{reason}; rename it"
        )
    if case in seen:
        yield Problem(
            name, "duplicate case", f"lines {seen[case]} and {line}", "one row a case", "rename one"
        )
    split = row.get("split", "")
    if split.lower() not in SPLITS:
        near = difflib.get_close_matches(split.lower(), SPLITS[:3], n=1, cutoff=0.4)
        cure = f"write '{near[0]}'" if near else "write one of them or leave the cell empty"
        yield Problem(name, "split", repr(split), "train, val, test or nothing", cure)
    if row.get("slices") and _slices(row["slices"]) is None:
        yield Problem(
            name,
            "slices",
            repr(row["slices"]),
            "start:stop with 0 <= start < stop",
            "write e.g. 0:3 for the slices 0, 1 and 2",
        )
    empty = [channel for channel in channels if not row.get(channel)]
    if empty and not (optional and len(empty) < len(channels)):
        yield Problem(
            name, "missing channel", f"no path for {', '.join(empty)}", "a file a channel",
            f"fill the cell in line {line} or remove the row",
        )  # fmt: skip


def _bad_name(case: str) -> str:
    if not case:
        return "the case has no name"
    if "/" in case or "\\" in case:
        return "a case names files, so it holds no path separator"
    if case.startswith(".") or ".." in case:
        return "a case names files, so it neither begins with a dot nor holds '..'"
    if len(case.encode()) > 120:
        return "a case names files, so it has at most 120 bytes"
    if not case.isprintable():
        return "a case names files, so it holds no control characters"
    return ""


def _slices(text: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d{1,9})\s*:\s*(\d{1,9})", text)
    if not match or int(match[1]) >= int(match[2]):
        return None
    return int(match[1]), int(match[2])


def _record(folder: Path, row: Mapping[str, str], *, channels: Sequence[str]) -> Record:
    known = {*RESERVED, *channels}
    split = row.get("split", "").lower()
    return Record(
        case=row["case"],
        subject=row.get("subject", ""),
        split=split if split in SPLITS else "",
        paths={channel: folder / row[channel] for channel in channels if row.get(channel)},
        label=folder / row["label"] if row.get("label") else None,
        slices=_slices(row.get("slices", "")),
        notes={name: cell for name, cell in row.items() if name and name not in known},
        landmarks=folder / row["landmarks"] if row.get("landmarks") else None,
        spacing_mm=row.get("spacing_mm", ""),
        category=row.get("class", ""),
    )


def astride(records: Iterable[Record]) -> list[tuple[str, list[str]]]:
    """Subjects whose cases stand in several splits, and these; not where `slices` parts them."""
    people: dict[str, list[Record]] = {}
    for record in records:
        if record.subject and record.split:
            people.setdefault(record.subject, []).append(record)
    found = []
    for subject, cases in people.items():
        splits = [s for s in SPLITS if s and any(record.split == s for record in cases)]
        if len(splits) > 1 and not all(record.slices for record in cases):
            found.append((subject, splits))
    return found


def image_columns(path: Path, suffixes: Iterable[str]) -> list[str]:
    """The columns whose cells name files: those with an image's suffix or an existing path."""
    sheet = parse(path)
    endings = tuple(suffixes)

    def looks(cell: str) -> bool:
        return cell.lower().endswith(endings) or (path.parent / cell).exists()

    found = []
    for column in sheet.columns:
        cells = [row[column] for _, row in sheet.rows if row[column]]
        if column and column not in RESERVED and cells and 2 * sum(map(looks, cells)) > len(cells):
            found.append(column)
    return found


def text(records: Sequence[Record], channels: Sequence[str], *, folder: Path) -> str:
    """A sheet's text whose paths are relative to the folder that it will lie in."""
    others = sorted({name for record in records for name in record.notes})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = {"landmarks": "landmarks", "spacing_mm": "spacing_mm", "category": "class"}
    own = [n for n in columns if any(getattr(r, n) for r in records)]
    named = [columns[n] for n in own]
    writer.writerow(["case", "subject", *channels, "label", "split", "slices", *named, *others])
    for record in records:
        paths = [*(record.paths.get(channel) for channel in channels), record.label]
        images = [relative(path, folder) if path else "" for path in paths]
        span = f"{record.slices[0]}:{record.slices[1]}" if record.slices else ""
        points = relative(record.landmarks, folder) if record.landmarks else ""
        cells = {"landmarks": points, "spacing_mm": record.spacing_mm, "category": record.category}
        extra = [cells[name] for name in own]
        notes = [record.notes.get(name, "") for name in others]
        writer.writerow([record.case, record.subject, *images, record.split, span, *extra, *notes])
    return out.getvalue()


def relative(path: Path, folder: Path) -> str:
    """A path as seen from a folder; absolute where there is no way (another drive)."""
    absolute = os.path.abspath(path)  # noqa: PTH100 -- a link keeps its own name
    try:
        return Path(os.path.relpath(absolute, os.path.realpath(folder))).as_posix()
    except ValueError:
        return absolute
