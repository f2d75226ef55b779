"""One case of contours to score: landmarks or a label map, against landmarks or label flags.

Everything is brought into the square frame of the image at 1024 pixels a side, as the published
scores are; a label map's pixel counts where its centre lies.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from medseg.data.landmarks import read_points
from medseg.data.pairs import POINTS, Job, Result
from medseg.geometry.contour import Contour, rasterise, slices
from medseg.geometry.frame import Frame
from medseg.geometry.grid import Grid
from medseg.io import formats
from medseg.io.image import plane
from medseg.metrics.cardiothoracic import ctr
from medseg.metrics.landmarks import GROUPS, LANDMARKS_ALONE, score_landmarks

SIDE = 1024
PAIRS = {name: organs for name, organs in GROUPS.items() if name not in LANDMARKS_ALONE}
OF_POINTS = ("mse_px2", "error_mm", "self_intersections")

Points = Float[np.ndarray, "n 2"]
Mask = Bool[np.ndarray, "h w"]
Labels = Integer[np.ndarray, "i j 1"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Shapes:
    """What all cases of one call share.

    Attributes:
        reference: contours as the reference numbers and flags them.
        predicted: contours of the model's landmarks.
        values: organ or group to its value in predicted label maps, for pixel networks.
        bits: the predicted values are bits of flags.
        highest: of the values that a label map may hold, named here or not.
        numbered: predicted nodes are the reference's, one by one.
        given: organ to its values in the reference's label image, in place of bits.
        spacing_mm: of images that nothing else tells of.
        stray: predicted organs or labels of which the reference knows nothing.
    """

    reference: tuple[Contour, ...]
    predicted: tuple[Contour, ...]
    values: Mapping[str, int] = field(default_factory=dict)
    bits: bool = False
    highest: int = 0
    numbered: bool = True
    given: Mapping[str, Sequence[int]] = field(default_factory=dict)
    spacing_mm: str = ""
    stray: tuple[str, ...] = ()

    @property
    def scored(self) -> tuple[Contour, ...]:
        """The organs that both sides know, as the prediction numbers them."""
        names = {contour.name for contour in self.reference}
        if self.values:
            wanted = {organ for name in self.values for organ in GROUPS.get(name, (name,))}
            return tuple(contour for contour in self.reference if contour.name in wanted)
        return tuple(contour for contour in self.predicted if contour.name in names)

    @property
    def alike(self) -> bool:
        """Whether landmarks of both sides can be told node by node."""
        nodes = {contour.name: contour.nodes for contour in self.reference}
        same = all(nodes[contour.name] == contour.nodes for contour in self.scored)
        return same and self.numbered and not self.values


@dataclass(frozen=True)
class ShapeJob(Job):
    """One case of contours to score."""

    shapes: Shapes = field(kw_only=True)


def score(job: ShapeJob) -> Result:
    """Rows of one case; a prediction that cannot be used makes them `failed`, and says why."""
    frame, spacing = framed(job)
    truth = Truth(job, frame)
    found, reason = predicted(job, frame)
    rows = _rows(job, found, truth=truth, spacing_mm=spacing or 1.0)
    named = [{"case": job.record.case, **row} for row in rows]
    ratio = None if truth.points is None else ctr(truth.points, job.shapes.reference)
    result = Result(named, reason, unscaled=spacing is None, ctr=ratio)
    if found is None or not perturbed(job).is_file():
        return result
    from medseg.data.perturbed import score_perturbed

    try:
        more = score_perturbed(job, frame, masks=truth.masks(), spacing_mm=spacing or 1.0)
    except (ValueError, OSError) as error:
        return replace(result, warnings=(f"case {job.record.case}: {error}",))
    return replace(result, perturbed=tuple(more))


def perturbed(job: ShapeJob) -> Path:
    """Where landmarks (or labels) of a case under perturbations lie, if predict wrote some."""
    folder = job.prediction.parent if job.prediction else Path()
    points = folder / f"{job.record.case}_robustness.csv"
    return points if points.is_file() else points.with_suffix(".npz")


def predictions(folder: Path, cases: Iterable[str]) -> dict[str, Path]:
    """Files of predicted landmarks: those of these cases, and others with the usual ending."""
    found = {
        path.name.removesuffix(ending): path
        for ending in POINTS[::-1]
        for path in sorted(folder.glob(f"*{ending}"))
    }
    for case in cases:
        bare = [folder / f"{case}{suffix}" for suffix in (".csv", ".npy")]
        there = next((path for path in bare if path.is_file()), None)
        if there is not None:
            found.setdefault(case, there)
    return found


def framed(job: ShapeJob) -> tuple[Frame, float | None]:
    """The square of the case's image, and the size of its pixels at 1024 where that is known."""
    grid, known = _grid(job)
    try:
        frame = Frame.to(grid, SIDE)
    except ValueError as error:
        raise ValueError(f"case {job.record.case}: {error}") from error
    return frame, float(frame.working.spacing_mm[0]) if known else None


def _grid(job: ShapeJob) -> tuple[Grid, bool]:
    """Where the image's pixels lie, and whether their size is known."""
    header = next(_headers(job), None)
    if header is None:
        raise ValueError(
            f"case {job.record.case}: the size of its image is unknown; name the image in a column "
            "of the sheet"
        )
    text = job.record.spacing_mm or _told(job.sidecar) or job.shapes.spacing_mm
    if text and header.shape[2] == 1:
        try:
            return plane(header.shape[:2], text)[0], True
        except ValueError as error:
            raise ValueError(f"case {job.record.case}: {error}") from error
    return header, header.spacing_mm[:2] != (1.0, 1.0)


def _headers(job: ShapeJob) -> Iterator[Grid]:
    """Grids of the image, of the reference's label, and as the sidecar tells it."""
    for path in (job.image, job.record.label):
        if path is not None:
            try:
                yield formats.read_header(path)
            except (ValueError, OSError, EOFError):
                continue
    told = job.sidecar.get("grid")
    if isinstance(told, dict):
        x, y, z = (int(n) for n in told["shape"])
        yield Grid((x, y, z), np.array(told["affine"], dtype=float))


def _told(sidecar: Mapping[str, Any]) -> str:
    """The sidecar's spacing across and down as text, if it was known."""
    told = sidecar.get("spacing_mm")
    if not told or not sidecar.get("spacing_known"):
        return ""
    return ",".join(str(float(value)) for value in np.atleast_1d(told)[:2])


class Truth:
    """A case's reference: landmarks where there are some, and masks of the rest."""

    def __init__(self, job: ShapeJob, frame: Frame) -> None:
        self.job, self.frame = job, frame
        self.known = job.shapes
        self.points = self._points()
        self._flags: dict[str, Mask] | None = None

    def _points(self) -> Points | None:
        path = self.job.record.landmarks
        if path is None:
            return None
        try:
            return unit(read_points(path, self.known.reference), self.frame)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"case {self.job.record.case}, landmarks: {error}") from error

    def landmarks(self) -> Points | None:
        """Those of the scored organs in the prediction's order; None without or if not alike."""
        if self.points is None or not (self.known.alike or self.known.values):
            return None
        own = slices(self.known.reference)
        return np.concatenate([self.points[own[c.name]] for c in self.known.scored])

    def drawn(self) -> dict[str, Mask]:
        """Masks of the closed organs that have all their landmarks."""
        if self.points is None:
            return {}
        own = slices(self.known.reference)
        whole = {
            contour.name: self.points[own[contour.name]] * SIDE
            for contour in self.known.reference
            if contour.closed and np.isfinite(self.points[own[contour.name]]).all()
        }
        return {name: rasterise(points, (SIDE, SIDE)) for name, points in whole.items()}

    def flags(self) -> dict[str, Mask]:
        """Masks of the organs that the label image holds; one without a pixel is not annotated."""
        if self._flags is None:
            self._flags = self._read() if self.job.record.label is not None else {}
        return self._flags

    def _read(self) -> dict[str, Mask]:
        path, case = self.job.record.label, self.job.record.case
        try:
            labels, grid, _ = formats.read_labels(path)  # type: ignore[arg-type]
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"case {case}, label: {error}") from error
        if grid.shape != self.frame.native.shape:
            raise ValueError(
                f"case {case}: label ({path}) has shape {grid.shape} and the image "
                f"{self.frame.native.shape}; a reference is drawn on the image's own pixels"
            )
        closed = [(k, c.name) for k, c in enumerate(self.known.reference) if c.closed]
        given = self.known.given
        parts = {n: np.isin(labels, given[n]) for _, n in closed if n in given} or {
            name: (labels >> k & 1).astype(bool) for k, name in closed
        }
        return {name: squared(part, self.frame) for name, part in parts.items() if part.any()}

    def masks(self) -> dict[str, Mask]:
        """Everything as masks: an organ's landmarks go before its label."""
        drawn = self.drawn()
        closed = {contour.name for contour in self.known.reference if contour.closed}
        return drawn if closed <= drawn.keys() else {**self.flags(), **drawn}


def _rows(
    job: ShapeJob, found: Points | dict[str, Mask] | None, *, truth: Truth, spacing_mm: float
) -> list[Row]:
    known, landmarks = job.shapes, truth.landmarks()
    about: dict[str, Any] = {"contours": known.scored, "side": SIDE, "spacing_mm": spacing_mm}
    marks = landmarks if landmarks is not None else truth.masks()
    rows = score_landmarks(found, marks, **about)
    bare = {row["structure"] for row in rows if row["status"] == "absent"}
    if landmarks is not None and bare - {*LANDMARKS_ALONE}:
        others = score_landmarks(found, truth.masks(), **about)
        rows = [b if a["status"] == "absent" else a for a, b in zip(rows, others, strict=True)]
    tells = set(known.values)
    tells |= {name for name, organs in PAIRS.items() if tells.issuperset(organs)}
    by_name = {str(row["structure"]): row for row in rows}
    names = _ordered(by_name, [contour.name for contour in known.scored])
    out = [by_name[name] for name in names if not tells or name in tells]
    if known.values or isinstance(found, dict):
        for row in out:
            row.update(dict.fromkeys(OF_POINTS))
    return out


def _ordered(names: Iterable[str], organs: Sequence[str]) -> list[str]:
    """In the organs' order, pairs before theirs, totals at the end."""

    def place(name: str) -> tuple[bool, int, bool]:
        inside = PAIRS.get(name, (name,))
        first = min((organs.index(organ) for organ in inside if organ in organs), default=0)
        return name in LANDMARKS_ALONE, first, name not in PAIRS

    return sorted(names, key=place)


def predicted(job: ShapeJob, frame: Frame) -> tuple[Points | dict[str, Mask] | None, str]:
    """Landmarks in the square or masks of it, or None and why."""
    if job.prediction is None:
        return None, job.reason or "there is no prediction of this name"
    try:
        if job.prediction.suffix.lower() not in {".csv", ".npy"}:
            return _masks(job, job.prediction, frame), ""
        told = job.sidecar.get("grid")
        shape = tuple(told["shape"]) if isinstance(told, dict) else frame.native.shape
        _same(shape, frame.native.shape)
        known = job.shapes
        points = read_points(job.prediction, known.predicted)
        own = slices(known.predicted)
        return unit(np.concatenate([points[own[c.name]] for c in known.scored]), frame), ""
    except (ValueError, OSError, EOFError) as error:
        return None, str(error)


def _same(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise ValueError(
            f"the prediction has {shape[0]} x {shape[1]} pixels, the image of the reference "
            f"{wanted[0]} x {wanted[1]}; predict the image that the reference was drawn on"
        )


def _masks(job: ShapeJob, path: Path, frame: Frame) -> dict[str, Mask]:
    """Masks by name of a predicted label map."""
    labels, grid, _ = formats.read_labels(path)
    _same(grid.shape, frame.native.shape)
    known = job.shapes
    values = known.values or {c.name: 1 << k for k, c in enumerate(known.predicted)}
    bits, top = known.bits or not known.values, int(labels.max(initial=0))
    if not bits and top > known.highest:
        raise ValueError(
            f"{path} holds the value {top}, which names no organ; a sidecar with `labels` beside "
            "it says what its values mean"
        )
    return {
        name: squared((labels & value) != 0 if bits else labels == value, frame)
        for name, value in values.items()
    }


def squared(mask: Bool[np.ndarray, "i j 1"], frame: Frame) -> Mask:
    """A mask of the image as rows and columns of the square."""
    return np.ascontiguousarray(frame.labels(mask)[..., 0].T)


def unit(points: Points, frame: Frame) -> Points:
    """Points of the image as shares of the square, to a thousandth of its pixels.

    Rounding undoes the decimals that files lose, before coordinates are cut to whole pixels.
    """
    return np.round(frame.to_unit(points) * SIDE, 3) / SIDE


def aside(names: Iterable[str]) -> list[str]:
    """Structures outside the mean over a case: organs whose pair is there, and totals."""
    there = list(names)
    paired = {organ for pair, organs in PAIRS.items() if pair in there for organ in organs}
    return [name for name in there if name in paired or name in LANDMARKS_ALONE]


def mains(masks: Mapping[str, Mask]) -> dict[str, Mask]:
    """Lungs, heart, clavicles and whatever else: what a mean over a case is taken of."""
    found = {
        pair: np.logical_or.reduce([masks[organ] for organ in organs])
        for pair, organs in PAIRS.items()
        if all(organ in masks for organ in organs)
    }
    paired = {organ for organs in PAIRS.values() for organ in organs}
    return {**found, **{name: mask for name, mask in masks.items() if name not in paired}}
