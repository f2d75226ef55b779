"""Which cases a generator of phantoms makes, and the chance that each of them is drawn from."""

from dataclasses import dataclass

import numpy as np

from medseg.data.sheet import Record

SPLITS = ("train", "val", "test")


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
