"""How scores fall as images are disturbed: rows as a file, means with intervals, curves of runs."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from medseg.provenance import write_text
from medseg.report.charts import curves
from medseg.report.scores import cell, guarded, number, plain
from medseg.report.summary import Subjects, mean_interval

Row = Mapping[str, Any]

COLUMNS = ("kind", "level", "case", "repeat", "group", "dice", "hd_mm")
MEASURES = ("dice", "hd_mm")
ALL = "mean"
"""The group that stands for the mean over a case's groups."""

AXES = {
    "occlusion": "side of the black square, px at 1024",
    "offset": "added to grey values, of their range",
}
TITLES = {"dice": "Dice", "hd_mm": "Hausdorff distance, mm"}


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        names = [guarded(str(row["kind"])), f"{row['level']:g}", guarded(str(row["case"]))]
        names += [str(row["repeat"]), guarded(str(row["group"]))]
        writer.writerow([*names, *(cell(row[measure]) for measure in MEASURES)])
    write_text(path, text.getvalue())


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `write` made."""
    reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"{path} does not begin with {','.join(COLUMNS)}; evaluate again")
    found: list[dict[str, Any]] = []
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        values = {n: number(row[n] or "", where, column=n) for n in ("level", "repeat", *MEASURES)}
        if values["level"] is None:
            raise ValueError(f"{where}: level is empty; evaluate again")
        names = {name: plain(row[name] or "") for name in ("kind", "case", "group")}
        found.append({**names, **values})
    return found


def means(rows: Sequence[Row], subjects: Subjects) -> list[dict[str, Any]]:
    """For each kind, level and group the mean over cases of the mean over a case's repeats."""
    cells: dict[tuple[str, float, str], dict[str, list[Row]]] = {}
    for row in rows:
        for group in (str(row["group"]), ALL):
            place = (str(row["kind"]), float(row["level"]), group)
            cells.setdefault(place, {}).setdefault(str(row["case"]), []).append(row)
    out = []
    for (kind, level, group), cases in sorted(cells.items()):
        entry: dict[str, Any] = {"kind": kind, "level": level, "group": group, "n": len(cases)}
        for measure in MEASURES:
            known = {c: [r[measure] for r in own if r[measure] is not None]
                     for c, own in cases.items()}  # fmt: skip
            values = {case: fmean(own) for case, own in known.items() if own}
            if values:
                names = list(values)
                entry[measure] = mean_interval([*values.values()], names, subjects=subjects)
        out.append(entry)
    return out


def alike(runs: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The means of several runs over the groups that all of them have, so that lines compare."""
    known = {name: {str(r["group"]) for r in run.perturbed} for name, run in runs.items()}
    groups = [mine for mine in known.values() if mine]
    shared = set.intersection(*groups) if groups else set()
    return {
        name: means(
            [row for row in run.perturbed if row["group"] in shared],
            run.summary.get("subjects") or {},
        )
        for name, run in runs.items()
    }


def charts(found: Mapping[str, Sequence[Row]]) -> list[dict[str, str]]:
    """A drawing a kind and measure, with a line a run; `found` maps runs to their means."""
    kinds = {str(entry["kind"]) for entries in found.values() for entry in entries}
    drawn = []
    for kind in sorted(kinds, key=lambda kind: (kind != "occlusion", kind)):
        for measure in MEASURES:
            lines, bands = _lines(found, kind, measure)
            if any(len(line) > 1 for line in lines.values()):
                axis = AXES.get(kind, kind.replace("_", " "))
                svg = curves(lines, TITLES[measure], axis=axis, bands=bands, base=None)
                drawn.append({"kind": kind.replace("_", " ").capitalize(), "svg": svg})
    return drawn


def _lines(
    found: Mapping[str, Sequence[Row]], kind: str, measure: str
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, list[tuple[float, float, float]]]]:
    """Means and intervals over levels, by run."""
    lines: dict[str, list[tuple[float, float]]] = {}
    bands: dict[str, list[tuple[float, float, float]]] = {}
    for name, entries in found.items():
        for entry in entries:
            told = entry.get(measure)
            if entry["kind"] != kind or entry["group"] != ALL or not told:
                continue
            level = float(entry["level"])
            lines.setdefault(name, []).append((level, told["mean"]))
            if told["low"] is not None:
                bands.setdefault(name, []).append((level, told["low"], told["high"]))
    return lines, bands
