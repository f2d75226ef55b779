"""BraTS of 2017 and later as a user has it on disk: brains in four contrasts, tumours in parts.

Expected at any depth below the folder, as `.nii.gz` or `.nii`: until 2021
`BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii.gz` (`Brats18_CBICA_AAB_1_…`,
`BraTS2021_00000_…` likewise), up to 2019 within folders HGG and LGG; since 2023
`BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t1n,t1c,t2w,t2f,seg}.nii.gz` (and MEN, MET, PED, SSA).
The data are given out by their owners (synapse.org) under terms, so none of them is here: names and
values follow what is published, and no real file has been read. Masks hold 1 (necrotic and other
core that does not enhance), 2 (oedema) and, for what enhances, 4 until 2021 and 3 since 2023; in
gliomas after treatment (2024) 4 is the cavity of the resection, and children's masks of 2024 number
their parts otherwise.
Source: Baid et al. 2021, arXiv:2107.02314; de Verdier et al. 2024, arXiv:2405.18368.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.data import labels as naming
from medseg.data import sheet, walk
from medseg.data.table import SHEET, Record, Table, read_labels
from medseg.provenance import write_text
from medseg.sample import Sample

CONTRASTS = {
    "t1": ("t1", "t1n"),
    "t1ce": ("t1ce", "t1c", "t1gd"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f"),
}
PARTS = {"necrotic": [1], "oedema": [2], "enhancing": [3, 4]}
GRADES = ("hgg", "lgg")
WANTED = (
    "wanted, at any depth: BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz and the like, or "
    "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz"
)
_KINDS = {word: name for name, words in CONTRASTS.items() for word in words} | {"seg": "seg"}
_FILE = re.compile(rf"(brats.*?)[_-]({'|'.join(_KINDS)})\.nii(?:\.gz)?", re.IGNORECASE)
_VISIT = re.compile(r"(brats-.+-\d+)-\d+|(brats1[789]_.+_.+)_\d+", re.IGNORECASE)
_UNSEEN = re.compile(r"valid|test", re.IGNORECASE)


@dataclass
class _Case:
    """A case's files by contrast or `seg`, masks of strange names, and the grade of its folder."""

    files: dict[str, Path] = field(default_factory=dict)
    strange: list[Path] = field(default_factory=list)
    grade: str = ""


class BraTS:
    """Cases of the challenge's folders, their contrasts under one set of names.

    A person's time points (the last number of `BraTS-GLI-00000-000` and of `Brats18_CBICA_AAB_1`)
    are cases of one subject; who is who between the challenges of different years is not known
    here, so keep to one of them. A case without a mask stands in the split test: it can be
    predicted, and nothing learns from it. A mask of another name in the case's own folder (known:
    `W39_1998.09.19_Segm.nii` of BraTS20_Training_355) is taken and said in the column `note`. The
    column `class` says hgg or lgg where the folders do.

    Args:
        path: the folder with everything below it.
        channels: which of t1, t1ce, t2, flair, in which order.
        labels: the masks' values.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        channels: Sequence[str] = tuple(CONTRASTS),
        labels: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self.path = Path(path)
        stray = [name for name in channels if name not in CONTRASTS]
        if stray:
            raise ValueError(
                f"no contrast is called '{stray[0]}'; there are {', '.join(CONTRASTS)}, whatever "
                "a year's files call them"
            )
        found = _gathered(self.path)
        _complete(found, channels)
        records = [_record(name, found[name], channels) for name in sorted(found)]
        self._records = _parted(records, self.path)
        self._table = Table.of(self._records, self.path, channels=channels, labels=labels or PARTS)

    def records(self) -> list[Record]:
        """One record a case; labelled ones are left to folds, the others are test."""
        return list(self._records)

    def load(self, record: Record, *, with_target: bool = True, raw: bool = False) -> Sample:
        """Read a case; a mask whose 4 cannot be what the recipe takes it for is refused."""
        if with_target:
            self._check_values(record)
        return self._table.load(record, with_target=with_target, raw=raw)

    def write(self, folder: Path) -> Path:
        """A sample sheet of the files where they lie; returns the sheet."""
        for record in self._records:
            self._check_values(record)
        text = sheet.text(self._records, self._table.channels, folder=folder)
        write_text(folder / SHEET, text)
        return folder / SHEET

    def _check_values(self, record: Record) -> None:
        """Refuse a 4 in a mask since 2023, where a recipe counts both 3 and 4 as one structure."""
        both = [name for name, values in self._table.labels.items() if {3, 4} <= {*values}]
        new = record.case.lower().startswith("brats-")
        if record.label is None or not (both and new):
            return
        if 4 in naming.values_in(read_labels(record)[0]):
            fewer = [value for value in self._table.labels[both[0]] if value != 4]
            raise ValueError(
                f"case {record.case}: {record.label} holds the value 4, which since 2023 is not "
                f"'{both[0]}' as before (in gliomas of 2024 it is the cavity of the resection; "
                "children's masks have values of their own); name the values of these data, e.g. "
                f"data.labels.{both[0]}={fewer} +data.labels.cavity=[4]".replace(", ", ",")
            )


def _gathered(folder: Path) -> dict[str, _Case]:
    """Every case below a folder by its name; the same image of a case twice is refused."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the one that holds BraTS")
    cases: dict[str, _Case] = {}
    strange: list[Path] = []
    packed = 0
    for path in walk.files(folder):
        packed += path.suffix.lower() in {".zip", ".tar", ".7z"}
        if not path.name.lower().endswith((".nii", ".nii.gz")):
            continue
        # some copies have a folder of the file's name around a file of another name
        match = _FILE.fullmatch(path.name) or _FILE.fullmatch(path.parent.name)
        if match is None:
            strange.append(path)
            continue
        case, kind = cases.setdefault(match[1], _Case()), _KINDS[match[2].lower()]
        if kind in case.files:
            raise ValueError(
                f"{case.files[kind]} and {path} are the same image of one case; remove one, or "
                "give the folder of one of the data sets"
            )
        case.files[kind] = path
        case.grade = _grade(folder, path) or case.grade
    for path in strange:
        if path.parent.name in cases and "seg" in path.name.lower():
            cases[path.parent.name].strange.append(path)
    _some(folder, cases, packed=packed, others=len(strange))
    return cases


def _grade(folder: Path, path: Path) -> str:
    """The grade that a folder on the way to a file says; empty if none does."""
    parts = (folder.absolute().name, *path.relative_to(folder).parent.parts)
    return next((part.lower() for part in parts if part.lower() in GRADES), "")


def _some(folder: Path, cases: Mapping[str, _Case], *, packed: int, others: int) -> None:
    """Refuse a folder without cases, and one that is itself a case."""
    if list(cases) == [folder.absolute().name]:
        raise ValueError(
            f"{folder} is the folder of one case; give the one around it: "
            f"{folder.absolute().parent}"
        )
    if cases:
        return
    held = f"{others} NIfTI files of other names" if others else "no NIfTI file"
    cure = f"; {packed} archives are not unpacked yet: unpack them first" if packed else ""
    raise ValueError(f"{folder} holds {held}{cure}; {WANTED}")


def _complete(cases: Mapping[str, _Case], channels: Sequence[str]) -> None:
    """Refuse cases that lack a contrast, or have several masks."""
    lacking = {name: [c for c in channels if c not in case.files] for name, case in cases.items()}
    lost = [f"{name} lacks {', '.join(missing)}" for name, missing in lacking.items() if missing]
    if lost:
        name = next(name for name, missing in lacking.items() if missing)
        there = ", ".join(sorted(path.name for path in cases[name].files.values()))
        raise FileNotFoundError(
            f"not whole, {len(lost)} in all: {_some_of(lost)} ({name} has {there}); fetch the "
            "files again, move these cases away, or leave the contrast out of data.channels"
        )
    for name, case in cases.items():
        if "seg" not in case.files and len(case.strange) > 1:
            shown = ", ".join(path.name for path in case.strange)
            raise ValueError(
                f"{name} has no mask of its own name and several of others ({shown}); rename the "
                f"right one to {name}_seg.nii.gz"
            )


def _record(name: str, case: _Case, channels: Sequence[str]) -> Record:
    label, note = case.files.get("seg"), ""
    if label is None and case.strange:
        label = case.strange[0]
        note = f"the mask is called {label.name}"
    match = _VISIT.fullmatch(name)
    return Record(
        case=name,
        subject=(match[1] or match[2]) if match else name,
        split="" if label else "test",
        paths={channel: case.files[channel] for channel in channels},
        label=label,
        notes={"note": note},
        category=case.grade,
    )


def _parted(records: Sequence[Record], folder: Path) -> list[Record]:
    """Records without those that lack a mask while another of the same person has one.

    They would stand in test beside the person's training cases.
    """
    taught = {record.subject for record in records if record.label}
    bare = [record for record in records if record.label is None]
    if not taught:
        text = "no case has a mask, so nothing can learn from these data or be scored on them"
        warnings.warn(text, stacklevel=3)
    forgotten = [r for r in bare if taught and not _UNSEEN.search(_below(folder, r))]
    if forgotten:
        warnings.warn(
            f"{len(forgotten)} cases have no mask and stand in the split test: "
            f"{_some_of(r.case for r in forgotten)}; fetch their masks to learn from them",
            stacklevel=3,
        )
    out = [record.case for record in bare if record.subject in taught]
    if out:
        warnings.warn(
            f"{len(out)} cases without a mask stay out, as other time points of the same person "
            f"have one: {_some_of(out)}",
            stacklevel=3,
        )
    return [record for record in records if record.case not in out]


def _below(folder: Path, record: Record) -> str:
    """The names on the way to a case, which say whether it was meant to come without a mask."""
    return next(iter(record.paths.values())).relative_to(folder).as_posix()


def _some_of(names: Iterable[str], most: int = 5) -> str:
    shown = list(names)
    return f"{', '.join(shown[:most])}{' …' if len(shown) > most else ''}"
