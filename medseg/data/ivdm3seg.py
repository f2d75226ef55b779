"""The MICCAI 2018 IVDM3Seg data as a user has them on disk: Dixon spines with a mask of the discs.

Expected: `NN/NN_fat.nii`, `NN_inn.nii`, `NN_opp.nii`, `NN_wat.nii` and, where released,
`NN_Labels.nii` (all also as `.nii.gz`), with NN = 01, 02, … The data are given out by their owners
(ivdm3seg.weebly.com) under an agreement, so none of them is here. The sixteen released sets are
eight people scanned twice: without a map of subjects a split by case leaks.
"""

import csv
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from medseg.data import labels as naming
from medseg.data import sheet
from medseg.data.spaces import as_grid
from medseg.data.table import MISALIGNED_MM, SHEET, Record, Table, read_labels
from medseg.geometry.grid import Grid
from medseg.geometry.resample import resample_between
from medseg.provenance import read_json
from medseg.sample import Sample

FILES = {"fat": "fat", "inphase": "inn", "opposed": "opp", "water": "wat"}
DISC = {"disc": [1, 255]}


class IVDM3Seg:
    """Cases of the challenge's folder, its four contrasts under the names used everywhere here.

    A mask on another grid than its images (known of case 16, up to 10.8 mm) is brought to the
    images' grid by nearest neighbour: the one exception from the rule that geometry errors stop.
    It is said in a warning, in the sheet's column `note` and in the prepared case.json.

    Args:
        path: the folder that holds the folders 01, 02, …
        channels: which contrasts, in which order.
        labels: the mask's values.
        subjects: case to person, as a mapping or the path of a JSON file or of a CSV file with the
            columns case and subject.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        channels: Sequence[str] = tuple(FILES),
        labels: Mapping[str, Sequence[int]] | None = None,
        subjects: str | Path | Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path)
        stray = [name for name in channels if name not in FILES]
        if stray:
            raise ValueError(f"no contrast is called '{stray[0]}'; there are {', '.join(FILES)}")
        found = _listed(self.path, tuple(channels))
        people = _people(subjects, [record.case for record in found])
        self._records = [replace(record, subject=people.get(record.case, "")) for record in found]
        self._table = Table.of(self._records, self.path, channels=channels, labels=labels or DISC)

    def records(self) -> list[Record]:
        """One record a numbered folder; the split is left to folds."""
        return list(self._records)

    def load(self, record: Record, *, with_target: bool = True, raw: bool = False) -> Sample:
        """Read a case; a misaligned mask is resampled, with a warning."""
        sample = self._table.load(replace(record, label=None))
        if not with_target or record.label is None:
            return sample
        target, moved = _mask(record, sample.grid)
        if moved > MISALIGNED_MM:
            warnings.warn(_note(record, moved), stacklevel=2)
        if not raw:
            where = f"case {record.case}: the label {record.label}"
            target = naming.remap(target, self._table.labels, where=where)
        return sample.with_(target=target)

    def write(self, folder: Path) -> Path:
        """A sample sheet of the raw files, with copies of those masks that had to be resampled."""
        from medseg.io import formats
        from medseg.provenance import write_text

        rows = []
        for record in self._records:
            row = replace(record, notes={"note": ""})
            if record.label is not None:
                grid = as_grid(formats.read_header(next(iter(record.paths.values()))), record.case)
                target, moved = _mask(record, grid)
                if moved > MISALIGNED_MM:
                    note = _note(record, moved)
                    warnings.warn(note, stacklevel=2)
                    path = folder / f"{record.case}_Labels.nii.gz"
                    meta = formats.read_labels(record.label)[2]
                    formats.write(path, target, grid=grid, meta=meta)
                    row = replace(record, label=path, notes={"note": note})
            rows.append(row)
        write_text(folder / SHEET, sheet.text(rows, self._table.channels, folder=folder))
        return folder / SHEET


def _listed(folder: Path, channels: tuple[str, ...]) -> list[Record]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the one that holds 01, 02, …")
    cases = sorted(p for p in folder.iterdir() if p.is_dir() and re.fullmatch(r"\d+", p.name))
    if not cases:
        raise ValueError(
            f"{folder} holds no numbered folders; wanted IVDM3Seg as it is given out: "
            "01/01_fat.nii, 01/01_inn.nii, 01/01_opp.nii, 01/01_wat.nii, 01/01_Labels.nii, 02/…"
        )
    records = []
    for case in cases:
        paths = {name: _file(case, FILES[name]) for name in channels}
        lost = [f"{case.name}_{FILES[name]}.nii" for name, path in paths.items() if path is None]
        if lost:
            there = ", ".join(sorted(p.name for p in case.iterdir())) or "nothing"
            raise FileNotFoundError(f"{case} lacks {', '.join(lost)} (it holds {there})")
        there_are = {name: path for name, path in paths.items() if path is not None}
        records.append(Record(case.name, "", "", there_are, _file(case, "Labels")))
    return records


def _file(case: Path, name: str) -> Path | None:
    wanted = {f"{case.name}_{name}{suffix}".lower() for suffix in (".nii", ".nii.gz")}
    found = sorted(path for path in case.iterdir() if path.name.lower() in wanted)
    if len(found) > 1:
        raise ValueError(f"{found[0]} and {found[1].name} are the same image; remove one")
    return found[0] if found else None


def _people(given: str | Path | Mapping[str, str] | None, cases: Sequence[str]) -> dict[str, str]:
    if given is None:
        warnings.warn(
            "IVDM3Seg holds two scans a person and no map says which belong together, so folds may "
            "put one person on both sides; give data.source.subjects=<a CSV with case,subject>",
            stacklevel=3,
        )
        return {}
    if isinstance(given, Mapping):
        pairs = {str(case): str(person) for case, person in given.items()}
    elif Path(given).suffix.lower() == ".json":
        pairs = {str(case): str(person) for case, person in read_json(Path(given)).items()}
    else:
        rows = csv.DictReader(io.StringIO(sheet.read_text(Path(given))))
        if not {"case", "subject"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{given} has the columns {rows.fieldnames}; wanted: case,subject")
        pairs = {row["case"].strip(): row["subject"].strip() for row in rows}
    numbers = {case.lstrip("0"): person for case, person in pairs.items()}
    lost = [case for case in cases if not numbers.get(case.lstrip("0"))]
    if lost:
        raise ValueError(f"the map of subjects lacks the case{'s' * (len(lost) > 1)} {lost}")
    return {case: numbers[case.lstrip("0")] for case in cases}


def _mask(record: Record, grid: Grid) -> tuple[Integer[np.ndarray, "i j k"], float]:
    target, found = read_labels(record)
    own = as_grid(found, f"case {record.case}: the mask")
    moved = own.misalignment_mm(grid)
    if moved > MISALIGNED_MM:
        target = resample_between(target, own, target=grid, order=0).round().astype(target.dtype)
    return target, moved


def _note(record: Record, moved: float) -> str:
    how = f"lay up to {moved:.2f} mm off" if np.isfinite(moved) else "had another shape than"
    return f"case {record.case}: the mask {how} the images; resampled to their grid (nearest)"
