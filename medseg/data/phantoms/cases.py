"""Which cases a generator of phantoms makes, and the chance that each of them is drawn from."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.data.sheet import Record
from medseg.provenance import atomic_folder

SHEET = "samples.csv"
SPLITS = ("train", "val", "test")


def write_cases(
    folder: Path, columns: Sequence[str], *, rows: Callable[[Path], Iterable[Sequence[str]]]
) -> Path:
    """Write a folder of cases and their sheet; returns the sheet.

    `rows` writes each case into the folder it is given and yields its cells. The folder takes its
    place when all is written; one that was there is replaced.
    """
    with atomic_folder(folder) as part:
        text = io.StringIO()
        sheet = csv.writer(text, lineterminator="\n")
        sheet.writerow(columns)
        sheet.writerows(rows(part))
        (part / SHEET).write_text(text.getvalue(), encoding="utf-8")
    return folder / SHEET


@dataclass(frozen=True)
class Cases:
    """So many cases for training, validation and test; a case is its split and place."""

    n_train: int
    n_val: int
    n_test: int
    seed: int

    def __post_init__(self) -> None:
        if min(self._counts) < 0 or sum(self._counts) == 0:
            raise ValueError(
                f"n_train {self.n_train}, n_val {self.n_val}, n_test {self.n_test}: none may be "
                "negative and at least one must be positive"
            )

    @property
    def _counts(self) -> tuple[int, int, int]:
        return self.n_train, self.n_val, self.n_test

    def records(self) -> list[Record]:
        """One record a case; nothing has been drawn yet."""
        return [
            Record(case=f"{split}-{i:03d}", subject=f"{split}-{i:03d}", split=split, paths={})
            for split, n in zip(SPLITS, self._counts, strict=True)
            for i in range(n)
        ]

    def stream(self, record: Record) -> np.random.Generator:
        """The random stream of one case, from seed, split and place in the split alone."""
        split, _, place = record.case.partition("-")
        if split not in SPLITS or not place.isdigit():
            raise ValueError(f"{record.case!r} is no case of this data set; take one of records()")
        return np.random.default_rng([self.seed, SPLITS.index(split), int(place)])
