"""Whether predicted contours could be anatomy at all, counted over cases."""

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.metrics.landmarks import LANDMARKS_ALONE

PARTS = {"lungs": 2, "clavicles": 2}
"""Structures that are several pieces in every body."""

FAULTS = ("components", "holes", "self_intersections")


def plausibility(rows: Sequence[Mapping[str, Any]], aside: Sequence[str]) -> dict[str, Any]:
    """Cases whose every organ is one piece without a hole or a crossing, and what is wrong else.

    Cases without a prediction are counted apart. A structure made of organs that are scored
    themselves (those `aside`) is left to them.
    """
    whole = set(PARTS) if any(name not in LANDMARKS_ALONE for name in aside) else set()
    cases: dict[str, dict[str, int]] = {}
    lost: set[str] = set()
    for row in rows:
        case, name = str(row["case"]), str(row["structure"])
        if row["status"] == "failed":
            lost.add(case)
        elif name not in LANDMARKS_ALONE and name not in whole:
            found = cases.setdefault(case, dict.fromkeys(FAULTS, 0))
            for fault in FAULTS:
                most = PARTS.get(name, 1) if fault == "components" else 0
                found[fault] += (row.get(fault) or 0) > most
    judged = {case: found for case, found in cases.items() if case not in lost}
    counts = {fault: sum(bool(f[fault]) for f in judged.values()) for fault in FAULTS}
    good = sum(not any(found.values()) for found in judged.values())
    names = sorted(case for case, found in judged.items() if any(found.values()))
    return {
        "cases": len(judged),
        "plausible": good,
        "implausible": names,
        **{f"{fault}_cases": count for fault, count in counts.items()},
        "without_prediction": len(lost),
        "text": _text(len(judged), good, counts, len(lost)),
    }


def _text(cases: int, good: int, counts: Mapping[str, int], lost: int) -> str:
    text = f"{good}/{cases} cases: every organ one piece, no hole, no crossing"
    said = {
        "components": "with an organ in several pieces",
        "holes": "with a hole",
        "self_intersections": "with a contour that crosses itself",
    }
    more = [f"{n} {said[fault]}" for fault, n in counts.items() if n]
    more += [f"{lost} without a prediction"] if lost else []
    return "; ".join([text, ", ".join(more)]) if more else text
