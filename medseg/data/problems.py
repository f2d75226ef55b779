"""What can be wrong with raw cases, found file by file without holding more than one volume."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from medseg.data import notes
from medseg.data.align import onto, turn, unaligned
from medseg.data.sheet import Problem, Record
from medseg.data.table import cropped_axis, volumes
from medseg.geometry.grid import Grid
from medseg.provenance import hash_array
from medseg.sample import Sample

GEOMETRY = "geometry"
MANY = 255
AS_WHOLE = 1e-3  # as a label is read


@dataclass(frozen=True)
class Examined:
    """A case after its files were read once.

    Attributes:
        record: the row.
        problems: what is wrong with it alone.
        grid: of its first readable channel.
        prints: channel to the hash of its values in canonical order, constant volumes left out.
        label: the same hash of its label.
        notes: what is worth a look and no problem.
    """

    record: Record
    problems: tuple[Problem, ...]
    grid: Grid | None = None
    prints: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    notes: tuple[str, ...] = ()


def examine(
    record: Record,
    labels: Mapping[str, Sequence[int]],
    *,
    slice_axis: int | None,
    volume: int | None,
) -> Examined:
    """Read every file of a case and list what is wrong; errors of reading are problems, too."""
    problems: list[Problem] = []
    told: list[str] = []
    prints: dict[str, str] = {}
    first: tuple[str, Grid] | None = None
    chosen = volumes(record, volume)
    for channel, path in record.paths.items():
        found = _open(record.case, channel, path, chosen[channel], problems)
        if found is None:
            continue
        image, grid = found.image[0], found.space
        told += notes.of_file(found, f"{record.case}, {channel}")
        if first is None:
            first = (channel, grid)
            problems += _slices(record, grid, slice_axis)
        problems += _geometry(record.case, channel, grid, first)
        problems += _values(record.case, channel, image)
        prints |= _prints(channel, image, grid)
    label = ""
    if record.label is not None:
        found = _open(record.case, "label", record.label, None, problems)
        if found is not None:
            image, grid = found.image[0], found.space
            first = first or ("label", grid)
            problems += _geometry(record.case, "label", grid, first)
            label = _print(image, grid)
            turned = onto(image, grid, wanted=first[1])
            image, grid = (image, grid) if turned is None else (turned, first[1])
            problems += _labels(record, _cut(record, image, grid, slice_axis), labels)
    elif record.split in {"train", "val"}:
        problems.append(_unlabelled(record))
    problems += _twins(record.case, prints)
    return Examined(record, tuple(problems), first and first[1], prints, label, tuple(told))


def _unlabelled(record: Record) -> Problem:
    found = f"no label for a {record.split} case"
    cure = "fill the cell, or leave the split empty"
    return Problem(record.case, "missing label", found, "a label file", cure)


def _open(
    case: str, channel: str, path: Path, volume: int | None, problems: list[Problem]
) -> Sample | None:
    from medseg.io import formats

    if not path.exists():
        cure = "mend the path in the sheet (it is relative to the sheet)"
        problems.append(Problem(case, "missing file", f"{channel}: no {path}", "a file", cure))
        return None
    try:
        return formats.read(path, volume=volume)
    except (ValueError, OSError, EOFError, MemoryError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        what, _, cure = text.rpartition("; ")
        found = f"{channel}: {what or text}"
        cure = cure if what else "copy or convert the file again, or remove the case"
        problems.append(Problem(case, "unreadable", found, "a readable image", cure))
        return None


def _prints(channel: str, image: Num[np.ndarray, "i j k"], grid: Grid) -> dict[str, str]:
    """The channel's hash, unless all voxels are the same."""
    varied = np.isfinite(image.flat[0]) and (image != image.flat[0]).any()
    return {channel: _print(image, grid)} if varied else {}


def _print(image: Num[np.ndarray, "i j k"], grid: Grid) -> str:
    """The hash of float32 values on canonical axes: a re-saved or turned copy has the same."""
    values = np.ascontiguousarray(grid.orientation.apply(image), dtype=np.float32)
    return hash_array(values + np.float32(0))


def _geometry(case: str, channel: str, grid: Grid, first: tuple[str, Grid]) -> Iterator[Problem]:
    name, wanted = first
    if turn(grid, wanted) is not None:
        return
    copied = grid.shape == wanted.shape and grid.axcodes == wanted.axcodes
    grid, wanted = unaligned(grid, wanted)
    moved = grid.misalignment_mm(wanted)
    told = list(differences(grid, wanted))
    how = f"{channel} is {moved:.4g} mm off; " if np.isfinite(moved) else f"{channel}: "
    found = how + ", ".join(f"{what} {own}" for what, own, _ in told)
    expected = f"as {name}: " + ", ".join(f"{what} {other}" for what, _, other in told)
    cure = "--fix resample --out DIR"
    if copied:
        cure += ", or --fix copy-affine if only this header is wrong"
    yield Problem(case, GEOMETRY, found, expected, cure)


def differences(grid: Grid, wanted: Grid) -> Iterator[tuple[str, str, str]]:
    """What of shape, spacing, origin and direction differs, as this and as the wanted value."""
    if grid.shape != wanted.shape:
        yield "shape", _joined(grid.shape, "d"), _joined(wanted.shape, "d")
    pairs = [(g.spacing_mm, g.affine[:3, 3], _direction(g)) for g in (grid, wanted)]
    tolerances = (1e-5, 1e-3, 1e-5)
    names = ("spacing", "origin", "direction")
    gaps = [float(np.abs(np.subtract(a, b)).max()) for a, b in zip(*pairs, strict=True)]
    differing = [gap > tolerance for gap, tolerance in zip(gaps, tolerances, strict=True)]
    if grid.shape == wanted.shape and not any(differing):
        differing = [gap == max(gaps) for gap in gaps]
    for name, own, other, differs in zip(names, *pairs, differing, strict=True):
        if not differs:
            continue
        if name == "direction":
            yield name, _turn(grid, wanted), wanted.axcodes
        else:
            yield name, _joined(own, ".6g"), _joined(other, ".6g")


def _direction(grid: Grid) -> np.ndarray:
    return grid.affine[:3, :3] / np.sqrt((grid.affine[:3, :3] ** 2).sum(0))


def _turn(grid: Grid, wanted: Grid) -> str:
    cosines = (_direction(grid) * _direction(wanted)).sum(0).clip(-1, 1)
    return f"{grid.axcodes} turned by {np.degrees(np.arccos(cosines)).max():.3g} degrees"


def _joined(values: Iterable[Any], style: str) -> str:
    return "x".join(format(v, style) for v in values) if style == "d" else (
        "(" + ", ".join(format(float(v), style) for v in values) + ")"
    )  # fmt: skip


def _values(case: str, channel: str, image: Num[np.ndarray, "i j k"]) -> Iterator[Problem]:
    bad = image.size - int(np.isfinite(image).sum())
    if bad:
        nans = int(np.isnan(image).sum())
        yield Problem(
            case,
            "NaN or inf",
            f"{channel}: {nans} NaN and {bad - nans} infinite voxels",
            "finite values",
            "replace them (0 outside the body) and save the file again",
        )
    elif image.min() == image.max():
        yield Problem(
            case,
            "constant",
            f"{channel}: every voxel is {image.flat[0]:g}",
            "an image",
            "export the series again",
        )


def _slices(record: Record, grid: Grid, slice_axis: int | None) -> Iterator[Problem]:
    axis = cropped_axis(record, grid, slice_axis=slice_axis)
    if record.slices is None or axis is None:
        return
    start, stop = record.slices
    if stop > grid.shape[axis]:
        yield Problem(
            record.case,
            "slices",
            f"{start}:{stop} of {grid.shape[axis]} slices along axis {axis}",
            f"stop of at most {grid.shape[axis]}",
            "mend the column slices, or name the axis by --slice-axis",
        )


def _cut(
    record: Record, image: Num[np.ndarray, "i j k"], grid: Grid, slice_axis: int | None
) -> Num[np.ndarray, "i j n"]:
    axis = cropped_axis(record, grid, slice_axis=slice_axis)
    if record.slices is None or axis is None:
        return image
    return np.moveaxis(image, axis, -1)[..., slice(*record.slices)]


def _labels(
    record: Record, target: Num[np.ndarray, "i j k"], labels: Mapping[str, Sequence[int]]
) -> Iterator[Problem]:
    case, finite = record.case, np.isfinite(target)
    values = [float(value) for value in np.unique(target[finite])]
    broken = [value for value in values if abs(value - round(value)) > AS_WHOLE]
    values = sorted({value if value in broken else float(round(value)) for value in values})
    known = {float(value) for named in labels.values() for value in named} | {0.0}
    stray = [value for value in values if value not in known and value not in broken]
    if not finite.all() or broken:
        shown = _shown([*broken, *([float("nan")] if not finite.all() else [])])
        yield Problem(case, "label values", shown, "whole numbers", "round or redraw the label")
    if labels and stray:
        named = "; ".join(f"{k}={','.join(map(str, v))}" for k, v in labels.items())
        cure = f"name {_shown(stray[:1])} in --labels and data.labels, or mend the file"
        yield Problem(case, "label values", _shown(stray), f"0; {named}", cure)
    if not labels and not broken and len(values) > MANY:
        text = f"{len(values)} distinct values"
        yield Problem(case, "label values", text, "labels", "is this file an image?")
    if values and not any(values):
        where = f" in slices {record.slices[0]}:{record.slices[1]}" if record.slices else ""
        cure = "draw it, or leave the cell empty"
        yield Problem(case, "empty label", f"only 0{where}", "some structure", cure)


def _shown(values: Sequence[float], most: int = 6) -> str:
    text = ", ".join(f"{value:g}" for value in values[:most])
    return text + (f", … ({len(values)} values)" if len(values) > most else "")


def _twins(case: str, prints: Mapping[str, str]) -> Iterator[Problem]:
    for one, other in itertools.combinations(prints, 2):
        if prints[one] == prints[other]:
            yield Problem(
                case,
                "same image",
                f"{one} and {other} hold the same values",
                "a file a channel",
                "correct the paths of this row",
            )


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
