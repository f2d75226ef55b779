"""A case in three planes: the scan in grey, the reference's outline and the prediction's over it.

Radiological convention: the patient's right is on the left of the picture.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer, Num

from medseg.geometry.grid import Grid
from medseg.metrics.surface import union_box
from medseg.report.summary import case_means

REFERENCE = "#2ee6d6"
PREDICTION = "#ffb000"
PAPER = "#0d1117"
INK = "#c9d1d9"
MARGIN_MM = 15.0
MARGIN = 0.3


@dataclass(frozen=True)
class Plane:
    """One cut: which canonical axis is fixed, which run across and down, and the edges' letters."""

    name: str
    fixed: int
    across: int
    down: int
    letters: tuple[str, str, str, str]


PLANES = (
    Plane("axial", 2, 0, 1, ("R", "L", "A", "P")),
    Plane("coronal", 1, 0, 2, ("R", "L", "S", "I")),
    Plane("sagittal", 0, 1, 2, ("A", "P", "S", "I")),
)


def choose(
    rows: Sequence[Mapping[str, Any]], most: int, *, metric: str = "dice"
) -> list[dict[str, Any]]:
    """Cases worth a picture: best, median, worst by mean Dice, and every one that went wrong.

    By another metric, of which less is better, they are told with that.
    """
    sign = -1 if metric == "dice" else 1
    means = sorted(case_means(rows, metric).items(), key=lambda item: (sign * item[1], item[0]))
    roles: dict[str, list[str]] = {}
    places = {"best": 0, "median": len(means) // 2, "worst": len(means) - 1}
    if len(means) == 1:
        places = {"the only case": 0}
    for role, place in places.items() if means else ():
        if len(means) != 2 or role != "median":
            roles.setdefault(means[place][0], []).append(role)
    for status in ("failed", "missed", "spurious"):
        for row in rows:
            case = str(row["case"])
            if row["status"] == status and status not in roles.setdefault(case, []):
                roles[case].append(status)
    wanted = [case for case, role in roles.items() if role][:most]
    scores = dict(means)
    return [
        {"case": c, "role": ", ".join(roles[c]), "dice": None, metric: scores.get(c)}
        for c in wanted
    ]


def draw(
    path: Path,
    image: Num[np.ndarray, "i j k"] | None,
    *,
    reference: Integer[np.ndarray, "i j k"],
    prediction: Integer[np.ndarray, "i j k"] | None,
    grid: Grid,
    title: str,
) -> None:
    """Write the picture of one case; labels are 0 outside, and equal numbers mean one structure."""
    from matplotlib.figure import Figure

    turn = grid.orientation.apply
    spacing = grid.canonical().spacing_mm
    truth = turn(reference)
    found = np.zeros_like(truth) if prediction is None else turn(prediction)
    views = _views(np.zeros(truth.shape, dtype=np.float32) if image is None else turn(image))
    box = _surroundings((truth > 0) | (found > 0), spacing)
    size, ratios = _size(
        views, [(b.stop - b.start) * mm for b, mm in zip(box, spacing, strict=True)]
    )
    figure = Figure(figsize=size, dpi=110, facecolor=PAPER)
    layout = {"width_ratios": ratios, "wspace": 0.06}
    panels = figure.subplots(1, len(views), squeeze=False, gridspec_kw=layout)[0]
    for view, axes in zip(views, panels, strict=True):
        plane = view.plane
        volumes = [volume[box] for volume in (view.volume, truth, found)]
        place = _place(volumes[1], volumes[2], plane.fixed)
        cuts = [_cut(volume, plane, place) for volume in volumes]
        _panel(axes, view, cuts, spacing[plane.down] / spacing[plane.across])
        number = box[plane.fixed].start + place + 1
        axes.set_title(f"{view.name} {number}/{truth.shape[plane.fixed]}", color=INK, size=8)
    _caption(figure, title, drawn=prediction is not None)
    figure.savefig(path, facecolor=PAPER, format="png")


@dataclass(frozen=True, eq=False)
class _View:
    """One panel: a plane of a volume, and how its values become colours."""

    name: str
    plane: Plane
    volume: Float[np.ndarray, "r a s"]
    window: tuple[float, float]
    colours: str = "gray"


def _views(scan: Num[np.ndarray, "r a s"]) -> list[_View]:
    """The planes that are more than a line; of complex values the magnitude, and once the phase."""
    planes = [p for p in PLANES if min(scan.shape[p.across], scan.shape[p.down]) > 1] or [*PLANES]
    if not np.iscomplexobj(scan):
        return [_View(p.name, p, scan, _window(scan)) for p in planes]
    magnitude, phase = np.abs(scan), np.angle(scan)
    seen = [_View(p.name, p, magnitude, _window(magnitude)) for p in planes]
    first = planes[0]
    return [*seen, _View(f"{first.name}, phase", first, phase, (-np.pi, np.pi), "twilight")]


def _surroundings(
    inside: Bool[np.ndarray, "r a s"], spacing: tuple[float, float, float]
) -> tuple[slice, slice, slice]:
    """The structures' box and a margin around it, so that outlines are large enough to judge.

    A single slice is shown whole.
    """
    box = None if min(inside.shape) == 1 else union_box(inside, inside)
    if box is None:
        return slice(0, inside.shape[0]), slice(0, inside.shape[1]), slice(0, inside.shape[2])
    longest = max((b.stop - b.start) * step for b, step in zip(box, spacing, strict=True))
    margin = max(MARGIN_MM, MARGIN * longest)
    x, y, z = (
        slice(max(0, b.start - round(margin / step)), min(n, b.stop + round(margin / step)))
        for b, step, n in zip(box, spacing, inside.shape, strict=True)
    )
    return x, y, z


def _size(
    views: Sequence[_View], extent: Sequence[float]
) -> tuple[tuple[float, float], list[float]]:
    """The figure's inches and the panels' share of its width: one scale for all of them."""
    widths, heights = ([float(extent[axis]) for axis in axes] for axes in _axes(views))
    ratios = [max(width, 0.3 * max(widths)) for width in widths]
    tall = 9.4 * max(heights) / sum(ratios)
    fitting = min(1.0, 4.4 / tall)
    return (max(6.6, 0.2 + 9.4 * fitting), max(2.2, tall * fitting) + 0.75), ratios


def _axes(views: Sequence[_View]) -> tuple[list[int], list[int]]:
    return [v.plane.across for v in views], [v.plane.down for v in views]


def _window(scan: Float[np.ndarray, "r a s"]) -> tuple[float, float]:
    finite = scan[np.isfinite(scan)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite[:: max(1, finite.size // 200_000)], [0.5, 99.5])
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1)


def _place(truth: Num[np.ndarray, "r a s"], found: Num[np.ndarray, "r a s"], axis: int) -> int:
    """The slice that holds most of the reference, else of the prediction, else the middle one."""
    others = tuple(a for a in range(3) if a != axis)
    for labels in (truth, found):
        filled = np.count_nonzero(labels, axis=others)
        if filled.any():
            best = np.flatnonzero(filled == filled.max())
            return int(best[len(best) // 2])
    return truth.shape[axis] // 2


def _cut(
    volume: Num[np.ndarray, "r a s"], plane: Plane, place: int
) -> Num[np.ndarray, "down across"]:
    """Rows run down the page: towards P or I; columns towards L or P."""
    return volume.take(place, axis=plane.fixed)[::-1, ::-1].T


def _panel(
    axes: Any,  # noqa: ANN401 -- matplotlib's Axes
    view: _View,
    cuts: list[Num[np.ndarray, "down across"]],
    aspect: float,
) -> None:
    scan, truth, found = cuts
    low, high = view.window
    shown = {"cmap": view.colours, "vmin": low, "vmax": high, "interpolation": "nearest"}
    axes.imshow(scan, aspect=aspect, zorder=0, **shown)
    for labels, colour, width in ((truth, REFERENCE, 1.7), (found, PREDICTION, 1.1)):
        for value in np.unique(labels[labels > 0]):
            inside = np.pad((labels == value).astype(np.float32), 1)
            rows, columns = (np.arange(n) - 1 for n in inside.shape)
            axes.contour(
                columns, rows, inside, levels=[0.5], colors=[colour], linewidths=width, zorder=2
            )
    axes.set(xlim=(-0.5, scan.shape[1] - 0.5), ylim=(scan.shape[0] - 0.5, -0.5))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_edgecolor("#30363d")
    spots = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.96), (0.5, 0.04))
    for letter, (x, y) in zip(view.plane.letters, spots, strict=True):
        axes.text(
            x, y, letter, transform=axes.transAxes, color="white", size=8, weight="bold",
            ha="center", va="center", bbox={"facecolor": PAPER, "alpha": 0.45, "lw": 0, "pad": 1.2},
        )  # fmt: skip


def _caption(figure: Any, title: str, *, drawn: bool) -> None:  # noqa: ANN401 -- Figure
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.03, top=1 - 0.62 / figure.get_figheight()
    )
    top = 1 - 0.16 / figure.get_figheight()
    figure.text(0.012, top, title, color="white", size=10, weight="bold", va="center")
    figure.text(0.80, top, "— reference", color=REFERENCE, size=9, va="center", ha="right")
    note = "— prediction" if drawn else "no prediction"
    figure.text(0.988, top, note, color=PREDICTION, size=9, va="center", ha="right")


def further(predictions: Path, folder: Path) -> list[dict[str, Any]]:
    """Pictures that predict made of further cases, which have no reference."""
    found = []
    beside = predictions / "also"
    for path in sorted([*beside.glob("*_overlay.png"), *beside.glob("*_sky.png")]):
        case = path.stem.rpartition("_")[0]
        shutil.copyfile(path, folder / f"also_{case}.png")
        role = "predicted as well, without reference"
        found.append({"case": case, "role": role, "dice": None, "file": f"also_{case}.png"})
    return found
