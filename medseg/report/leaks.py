"""What two splits share that they should not: a volume, a person, or a case trained on."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Case:
    """What a sheet tells of a case.

    Attributes:
        name: the case.
        subject: the person; empty where unknown.
        split: train, val, test or empty.
        slices: the part of the volume that belongs to the case; None for all of it.
        volumes: its files.
    """

    name: str
    subject: str
    split: str
    slices: tuple[int, int] | None
    volumes: tuple[str, ...]


def leaks(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Every volume and every subject that stands in more than one split.

    A leak is declared where the sheet cuts the volume into slices that do not overlap: then it
    is meant, and only has to be said.
    """
    found: list[dict[str, Any]] = []
    told: set[frozenset[str]] = set()
    by_volume: dict[str, list[Case]] = defaultdict(list)
    by_subject: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        for volume in set(case.volumes):
            by_volume[volume].append(case)
        if case.subject:
            by_subject[case.subject].append(case)
    for kind, groups in (("volume", by_volume), ("subject", by_subject)):
        for name, group in groups.items():
            if len({case.split for case in group} - {""}) < 2:
                continue
            members = frozenset(case.name for case in group)
            if members not in told:
                told.add(members)
                found.append(_leak(kind, name, group))
    return found


def trained_on(scored: Iterable[str], training: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A leak for scored cases that the model's own card lists among those it learned from."""
    learned = set((training.get("cases") or {}).get("train") or [])
    shared = sorted(set(scored) & learned)
    if not shared:
        return []
    text = f"scored cases that the model was trained on: {_names(shared)}"
    return [{"kind": "training", "declared": False, "cases": shared, "text": text}]


def _leak(kind: str, name: str, group: Sequence[Case]) -> dict[str, Any]:
    declared = _disjoint(group)
    splits = sorted({case.split for case in group} - {""})
    cases = [case.name for case in group]
    what = "One volume" if kind == "volume" else f"Subject {name}"
    text = f"{what} serves the splits {', '.join(splits)} (cases {_names(cases)})"
    text += ", cut into slices as the sheet declares" if declared else ""
    return {"kind": kind, "declared": declared, "splits": splits, "cases": cases, "text": text}


def _disjoint(group: Sequence[Case]) -> bool:
    """Whether all cases are slices, and those of different splits do not overlap."""
    spans = [(case.slices, case.split) for case in group]
    if any(span is None for span, _ in spans):
        return False
    ordered = sorted((span, split) for span, split in spans if span is not None)
    return all(
        first[1] <= second[0] or one == other for (first, one), (second, other) in pairwise(ordered)
    )


def _names(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
