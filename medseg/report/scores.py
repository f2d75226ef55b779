"""The table of scores as a file: `case`, `structure`, a task's own metrics, `status`."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.provenance import write_text

Row = dict[str, Any]
_FORMULA = tuple("=+-@\t\r'")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], *, metrics: Sequence[str]) -> None:
    """Write rows atomically; a metric that is None or not finite stays empty.

    A name that a spreadsheet would take for a formula gets an apostrophe in front, which
    `read_rows` takes off again.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "structure", *metrics, "status"])
    for row in rows:
        names = [guarded(str(row["case"])), guarded(str(row["structure"]))]
        writer.writerow([*names, *(cell(row.get(m)) for m in metrics), row["status"]])
    write_text(path, text.getvalue())


def read_rows(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    """The metrics' names and the rows, numbers as floats and empty cells as None."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} is not UTF-8 text; give a file that medseg evaluate wrote"
        ) from None
    reader = csv.reader(lines)
    header = next(reader, [])
    if header[:2] != ["case", "structure"] or header[-1] != "status" or len(header) < 3:
        raise ValueError(
            f"{path} begins with {','.join(header[:6]) or 'nothing'}; a scores.csv begins with "
            "case,structure, holds metrics and ends with status"
        )
    metrics = tuple(header[2:-1])
    rows: list[Row] = []
    seen: set[tuple[str, str]] = set()
    for cells in reader:
        if not cells:
            continue
        if len(cells) != len(header):
            raise ValueError(
                f"{path}, line {reader.line_num}: {len(cells)} cells under {len(header)} columns; "
                "run medseg evaluate again"
            )
        row = {"case": plain(cells[0]), "structure": plain(cells[1]), "status": cells[-1]}
        key = (str(row["case"]), str(row["structure"]))
        if key in seen:
            raise ValueError(f"{path} scores {key[1]} of case {key[0]} twice; evaluate it again")
        seen.add(key)
        where = f"{path}, line {reader.line_num}"
        inner = zip(metrics, cells[2:-1], strict=True)
        values = {m: number(c, where, column=m) for m, c in inner}
        rows.append(row | values)
    return metrics, rows


def parts(folder: Path) -> list[Path]:
    """The score files of a folder: `scores.csv`, or a complete set of `scores.<i>-of-<n>.csv`."""
    whole = folder / "scores.csv"
    found: dict[tuple[int, int], Path] = {}
    for path in folder.glob("scores.*-of-*.csv"):
        if match := re.fullmatch(r"scores\.(\d+)-of-(\d+)\.csv", path.name):
            found[int(match[1]), int(match[2])] = path
    if whole.is_file() and found:
        raise ValueError(
            f"{folder} holds scores.csv and parts such as {next(iter(found.values())).name}; "
            "remove the ones that are out of date"
        )
    if whole.is_file() or not found:
        return [whole] if whole.is_file() else []
    counts = {count for _, count in found}
    if len(counts) > 1:
        raise ValueError(f"{folder} mixes parts of {sorted(counts)} shards; remove the old ones")
    count = counts.pop()
    lost = [f"{i}/{count}" for i in range(1, count + 1) if (i, count) not in found]
    if lost:
        raise FileNotFoundError(
            f"{folder} lacks the scores of shard {', '.join(lost)}; "
            f"run medseg evaluate --shard {lost[0]}"
        )
    return [found[key] for key in sorted(found)]


def guarded(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name.startswith(_FORMULA) else name


def plain(cell: str) -> str:
    """The name that `guarded` guards."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def cell(value: Any) -> str:  # noqa: ANN401 -- a number or nothing
    """A number as text; nothing for what is None or not finite."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:.6g}"


def number(cell: str, where: str, *, column: str) -> float | None:
    """A cell's number, None where it is empty; `where` and `column` begin the error's text."""
    if not cell.strip():
        return None
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"{where}: {column} is '{cell}', not a number") from None
