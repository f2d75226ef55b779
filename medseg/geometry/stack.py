"""Slices in the patient: told apart by volume, checked for gaps and copies, stacked to a grid.

Source: DICOM PS3.3 C.7.6.2 (position, orientation and spacing of an image plane). Positions are
LPS millimetres as DICOM gives them; a grid is RAS+ as everywhere else.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from medseg.geometry.grid import Grid

_OFF_LINE_MM = 0.1
_UNEVEN = 0.02


@dataclass(frozen=True, eq=False)
class Slice:
    """One plane of pixels and its place.

    Attributes:
        file: where the pixels are.
        frame: which frame of the file.
        series: what its volume surely shares (an identifier that is never shown).
        number: the series' number, which is shown.
        size: columns, rows.
        position: centre of the first pixel, LPS millimetres.
        directions: unit vectors along a row (over the columns) and along a column.
        spacing_mm: between columns, between rows.
        thickness_mm: to the next slice, as far as the header says.
        declared_mm: distance between slices where the header surely means centre to centre.
        traits: what may tell volumes apart that share a series, the most telling first.
        facts: how the plane was made, for the eye.
    """

    file: Path
    frame: int
    series: str
    number: str
    size: tuple[int, int]
    position: Float[np.ndarray, "3"]
    directions: Float[np.ndarray, "2 3"]
    spacing_mm: tuple[float, float]
    thickness_mm: float
    declared_mm: float | None
    traits: tuple[str, ...]
    facts: tuple[str, ...]

    @property
    def normal(self) -> Float[np.ndarray, "3"]:
        """Direction through the slices."""
        return np.cross(self.directions[0], self.directions[1])

    @cached_property
    def height_mm(self) -> float:
        """Position along the normal, by which slices are ordered and told apart."""
        return round(float(self.position @ self.normal), 2)


@dataclass(frozen=True, eq=False)
class Volume:
    """Slices that make up one volume, in order along their normal; `name` chooses it."""

    name: str
    slices: tuple[Slice, ...]

    def __str__(self) -> str:
        """Name, counts and contrast; nothing that a person could have typed."""
        first = self.slices[0]
        count = f"{len(self.slices)} slice{'' if len(self.slices) == 1 else 's'}"
        facts = (f"{count} of {first.size[0]}x{first.size[1]}", *first.facts)
        return f"{self.name} ({', '.join(facts)})"


def volumes(slices: Iterable[Slice]) -> list[Volume]:
    """All volumes, also several under one series; named by its number (`6.1`, `6.2` if shared)."""
    groups: dict[Any, list[Slice]] = {}
    for plane in slices:
        direction = tuple((np.round(plane.directions, 3) + 0.0).ravel())
        spacing = tuple(round(step, 4) for step in plane.spacing_mm)
        groups.setdefault((plane.series, plane.size, spacing, direction), []).append(plane)
    parts: dict[str, list[list[Slice]]] = {}
    for group in groups.values():
        ordered = sorted(group, key=lambda p: (p.height_mm, p.file.name, p.frame))
        parts.setdefault(group[0].number or "0", []).extend(_split(ordered))
    return [
        Volume(number if len(same) == 1 else f"{number}.{index}", tuple(part))
        for number, same in sorted(parts.items(), key=lambda item: _numerically(item[0]))
        for index, part in enumerate(same, start=1)
    ]


def choose(found: Sequence[Volume], name: str | None, *, where: str) -> Volume:
    """The one volume, or the one that was named; `where` begins every refusal."""
    listed = "; ".join(str(volume) for volume in found)
    if name is None and len(found) > 1:
        raise ValueError(
            f"{where} holds {len(found)} volumes and one is wanted: {listed}; choose with "
            f"--series NAME (such as --series {found[0].name}) or separate the files"
        )
    for volume in found:
        if name is None or volume.name == name:
            return volume
    raise ValueError(f"{where} holds no volume named '{name}'; choose --series from: {listed}")


def grid(volume: Volume, where: str) -> Grid:
    """Columns, rows, slices of an even stack, turned from LPS to RAS+.

    Missing or doubled slices and slices beside the common line are refused. A steady shift from
    slice to slice (a tilted gantry) is kept as shear.
    """
    slices = volume.slices
    first = slices[0]
    _check_heights(volume, where)
    step = first.normal * first.thickness_mm
    if len(slices) > 1:
        positions = np.stack([plane.position for plane in slices])
        step = (positions[-1] - positions[0]) / (len(slices) - 1)
        off = np.abs(positions - positions[0] - np.arange(len(slices))[:, None] * step).max()
        if off > max(_OFF_LINE_MM, _UNEVEN * float(np.linalg.norm(step))):
            raise ValueError(
                f"{where}, series {volume.name}: slices stray up to {off:.2f} mm from a straight, "
                "even stack; export the original series again"
            )
    affine = np.eye(4)
    affine[:3, 0] = first.directions[0] * first.spacing_mm[0]
    affine[:3, 1] = first.directions[1] * first.spacing_mm[1]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    try:
        return Grid((*first.size, len(slices)), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    except ValueError as error:
        raise ValueError(f"{where}, series {volume.name}: {error}") from None


def _split(group: list[Slice]) -> list[list[Slice]]:
    """Tell volumes apart that share a series.

    A trait is believed if it leaves fewer slices at one place and makes no more parts than there
    were slices at one place; a trait that differs from slice to slice is thus never taken.
    """
    doubled = _multiplicity(group)
    if doubled == 1:
        return [group]
    for index in range(len(group[0].traits)):
        parts: dict[str, list[Slice]] = {}
        for plane in group:
            parts.setdefault(plane.traits[index], []).append(plane)
        worst = max(_multiplicity(part) for part in parts.values())
        if 1 < len(parts) <= doubled and worst < doubled:
            ordered = sorted(parts, key=_numerically)
            return [piece for value in ordered for piece in _split(parts[value])]
    return [group]


def _multiplicity(group: Sequence[Slice]) -> int:
    """The largest number of slices at one place."""
    return max(Counter(plane.height_mm for plane in group).values())


def _numerically(text: str) -> tuple[float, str]:
    """A key that puts 9 before 10 and words last."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _check_heights(volume: Volume, where: str) -> None:
    """Every slice once, and none missing."""
    heights = [plane.height_mm for plane in volume.slices]
    doubled = sorted(h for h, count in Counter(heights).items() if count > 1)
    if doubled:
        raise ValueError(
            f"{where}, series {volume.name}: {len(doubled)} of {len(set(heights))} positions hold "
            f"more than one slice (at {_listed([f'{h:.2f}' for h in doubled])} mm along the stack) "
            "and nothing tells them apart; remove the copies or export the series again"
        )
    gaps = np.diff(heights)
    if not len(gaps):
        return
    usual = _usual_gap(gaps, volume.slices[0].declared_mm)
    wide = [i for i, gap in enumerate(gaps) if abs(gap - usual) > max(0.021, _UNEVEN * usual)]
    if wide:
        between = _listed([f"{heights[i]:.2f} and {heights[i + 1]:.2f}" for i in wide])
        raise ValueError(
            f"{where}, series {volume.name}: slices are missing or uneven: {usual:.2f} mm apart as "
            f"a rule, but not between {between} mm along the stack ({len(heights)} slices found); "
            "copy the missing slices or export the series again"
        )


def _usual_gap(gaps: Float[np.ndarray, " n"], declared: float | None) -> float:
    """The distance of neighbours: the header's where gaps are multiples of it, else the median.

    Where most slices are missing the median is a gap, so the smallest distance counts then.
    """
    usual = float(np.median(gaps))
    if usual > 1.5 * gaps.min():
        usual = float(gaps.min())
    if declared and usual > 1.5 * declared:
        times = usual / declared
        return declared if abs(times - round(times)) < _UNEVEN else usual
    return usual


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")
