"""Subjects and images on both sides of a split, and copies that disagree, over all cases."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from medseg.data.problems import Examined
from medseg.data.sheet import Problem


def leaks(cases: Sequence[Examined]) -> tuple[list[Problem], list[dict[str, Any]]]:
    """Images and subjects on both sides of a split: the problems, and what `slices` declares.

    Slices that cannot be understood overlap nothing until the sheet is mended.
    """
    cases = [_spanned(one) for one in cases]
    problems: list[Problem] = []
    declared: list[dict[str, Any]] = []
    people: dict[str, list[Examined]] = {}
    for one in cases:
        if one.record.subject:
            people.setdefault(one.record.subject, []).append(one)
    for subject, group in people.items():
        splits = _splits(group)
        if len(splits) < 2:
            continue
        if all(one.record.slices for one in group):
            declared.append({"subject": subject, "splits": splits, "cases": _names(group)})
            continue
        cure = "move all of them to one split, or group them by data.folds"
        text = f"subject {subject} in {' and '.join(splits)}"
        problems.append(
            Problem(", ".join(_names(group)), "leak", text, "a subject in one split", cure)
        )
    images: dict[str, dict[str, Examined]] = {}
    channels: dict[str, str] = {}
    for one in cases:
        for channel, mark in one.prints.items():
            images.setdefault(mark, {})[one.record.case] = one
            channels.setdefault(mark, channel)
    seen: set[tuple[str, ...]] = set()
    for mark, by_case in images.items():
        if len(by_case) > 1 and tuple(by_case) not in seen:
            seen.add(tuple(by_case))
            found, told = _shared(channels[mark], list(by_case.values()))
            problems += found
            declared += told
    return problems, declared


def _spanned(one: Examined) -> Examined:
    if "slices" not in one.record.faults:
        return one
    return replace(one, record=replace(one.record, slices=(0, 0)))


def _shared(channel: str, group: list[Examined]) -> tuple[list[Problem], list[dict[str, Any]]]:
    """One image in several cases: a leak, a copy with another label, or shared by slices."""
    names, splits = _names(group), _splits(group)
    spans = sorted(one.record.slices for one in group if one.record.slices)
    apart = all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    if len(spans) == len(group) and apart:
        told = {"image": channel, "splits": splits, "cases": names}
        return [], [told] if len(splits) > 1 else []
    where = ", ".join(names)
    if len(splits) > 1:
        text = f"the same image ({channel}) in {' and '.join(splits)}"
        if len(spans) == len(group):
            text += " with overlapping slices"
        cure = "keep it in one split, or part it by the column slices"
        return [Problem(where, "leak", text, "an image in one split", cure)], []
    people = sorted({one.record.subject for one in group if one.record.subject})
    if len(people) > 1:
        text = f"the same image ({channel}) of subjects {' and '.join(people)}"
        return [Problem(where, "duplicate", text, "one subject", "correct the sheet")], []
    if len({one.label for one in group if one.label}) > 1:
        text = f"the same image ({channel}) with different labels"
        return [Problem(where, "duplicate", text, "one label an image", "keep one of them")], []
    return [], []


def _names(group: Iterable[Examined]) -> list[str]:
    return [one.record.case for one in group]


def _splits(group: Iterable[Examined]) -> list[str]:
    order = ("train", "val", "test")
    return [split for split in order if split in {one.record.split for one in group}]
