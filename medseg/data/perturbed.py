"""Landmarks under perturbations of the image, as predict wrote them, scored one by one.

A file holds the columns kind, level, repeat, organ, index, x, y: landmarks in pixels of the image;
or it is an archive of label maps in the working square of a pixel network.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from medseg.data.shapes import SIDE, ShapeJob, mains, perturbed, unit
from medseg.data.sheet import read_text
from medseg.geometry.contour import Contour, rasterise, slices
from medseg.geometry.frame import Frame
from medseg.metrics.landmarks import score_landmarks

_STORED = ("kind", "level", "repeat", "labels")
COLUMNS = ("kind", "level", "repeat", "organ", "index", "x", "y")

Mask = Bool[np.ndarray, "h w"]
Points = Float[np.ndarray, "n 2"]
Key = tuple[str, float, int]


def score_perturbed(
    job: ShapeJob, frame: Frame, *, masks: Mapping[str, Mask], spacing_mm: float
) -> list[dict[str, Any]]:
    """A row a perturbation and group: Dice and Hausdorff distance against the reference's masks."""
    known = job.shapes
    names = [c.name for c in known.predicted if c.closed] or list(known.values or ())
    truth = mains({name: masks[name] for name in names if name in masks})
    rows = []
    for (kind, level, repeat), drawn in _drawn(job, frame):
        found = {name: mask for name, mask in mains(drawn).items() if name in truth}
        bare = np.zeros((SIDE, SIDE), dtype=bool)
        scores = score_landmarks(
            {name: found.get(name, bare) for name in truth},
            truth,
            contours=known.scored,
            side=SIDE,
            spacing_mm=spacing_mm,
        )
        about = {"kind": kind, "level": level, "case": job.record.case, "repeat": repeat}
        rows += [
            {**about, "group": s["structure"], "dice": s["dice"], "hd_mm": s["hd_mm"]}
            for s in scores
            if s["structure"] in truth
        ]
    return rows


def _drawn(job: ShapeJob, frame: Frame) -> Iterator[tuple[Key, dict[str, Mask]]]:
    """The organs' masks in the square under each perturbation."""
    path, contours = perturbed(job), job.shapes.predicted
    if path.suffix == ".npz":
        yield from _from_labels(path, job.shapes.values or {})
        return
    own = slices(contours)
    for key, points in read_perturbed(path, contours).items():
        places = unit(points, frame) * SIDE
        yield (
            key,
            {
                contour.name: rasterise(places[own[contour.name]], (SIDE, SIDE))
                for contour in contours
                if contour.closed and np.isfinite(places[own[contour.name]]).all()
            },
        )


def _from_labels(path: Path, values: Mapping[str, int]) -> Iterator[tuple[Key, dict[str, Mask]]]:
    """Label maps of a pixel network in its working square, brought to the side of the scores."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            kinds, levels, repeats, labels = (stored[name] for name in _STORED)
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}); predict again") from None
    pick = (2 * np.arange(SIDE) + 1) * labels.shape[1] // (2 * SIDE)
    for kind, level, repeat, plane in zip(kinds, levels, repeats, labels, strict=True):
        whole = plane[pick][:, pick]
        masks = {name: whole == value for name, value in values.items()}
        yield (str(kind), float(level), int(repeat)), masks


def read_perturbed(path: Path, contours: Sequence[Contour]) -> dict[Key, Points]:
    """Landmarks by kind, level and repeat; NaN where a node has no line."""
    own = {contour.name: contour for contour in contours}
    places = slices(contours)
    found: dict[Key, Points] = {}
    for line, row in _lines(path):
        organ = row["organ"]
        try:
            key = row["kind"], float(row["level"]), int(row["repeat"])
            index, point = int(row["index"]), (float(row["x"]), float(row["y"]))
        except ValueError:
            raise ValueError(
                f"{path}, line {line}: level, repeat, index, x and y are numbers; predict again"
            ) from None
        if organ not in own or not 0 <= index < own[organ].nodes:
            raise ValueError(
                f"{path}, line {line}: the model has no {organ} {index}; predict again"
            )
        if key not in found:
            found[key] = np.full((sum(c.nodes for c in contours), 2), np.nan)
        found[key][places[organ].start + index] = point
    return found


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(read_text(path).splitlines())
    lost = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if lost:
        raise ValueError(f"{path} has no column {', '.join(lost)}; predict again")
    for row in reader:
        yield reader.line_num, {name: row[name] or "" for name in COLUMNS}


def count_nodes(path: Path) -> dict[str, int]:
    """The organs that a CSV file of landmarks names, and how many nodes each has."""
    lines = read_text(path).splitlines()
    first = next((line for line in lines if line.strip()), "")
    reader = csv.DictReader(lines, delimiter=max(",;\t", key=first.count), skipinitialspace=True)
    reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    found: dict[str, int] = {}
    for row in reader:
        organ = (row.get("organ") or "").strip()
        if organ:
            found[organ] = found.get(organ, 0) + 1
    return found
