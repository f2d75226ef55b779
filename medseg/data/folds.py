"""Folds by subject: every person's cases stand on one side."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeVar, runtime_checkable


@runtime_checkable
class _Case(Protocol):
    """What grouping needs to know of a record."""

    @property
    def case(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def split(self) -> str: ...


R = TypeVar("R", bound=_Case)


def folds(records: Sequence[R], folds: int, *, fold: int) -> list[R]:
    """Fold `fold` of `folds` becomes val and the others train; test cases stay test.

    Cases of one subject share a fold (a case without a subject is its own). Larger subjects are
    placed first, each into the fold with the fewest cases, so folds differ by as little as the
    subjects allow, and the answer depends on names alone.
    """
    if folds == 0:
        return list(records)
    groups: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record.split != "test":
            key = ("subject", record.subject) if record.subject else ("case", record.case)
            groups.setdefault(key, []).append(record.case)
    if not 2 <= folds <= len(groups):
        raise ValueError(
            f"data.folds={folds}, but there are {len(groups)} subjects outside the test split; "
            "it must lie between 2 and that number (or be 0 for the sheet's own split)"
        )
    if not 0 <= fold < folds:
        raise ValueError(f"data.fold={fold} of {folds} folds; it must be 0 to {folds - 1}")
    held: list[list[str]] = [[] for _ in range(folds)]
    for key in sorted(groups, key=lambda key: (-len(groups[key]), key)):
        min(held, key=len).extend(groups[key])
    val = set(held[fold])
    return [_assigned(record, val) for record in records]


def _assigned(record: R, val: set[str]) -> R:
    if record.split == "test":
        return record
    return replace(record, split="val" if record.case in val else "train")  # type: ignore[type-var]
