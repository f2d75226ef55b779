"""A radiograph with its contours: nodes, uncertainty, heart and chest width, and a verdict.

One colour an organ, from the palette of Okabe & Ito (2008) that the colour-blind tell apart. The
soft band is where the contour runs with 90 % probability, node by node across its own direction.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from medseg.geometry.contour import Contour, slices
from medseg.metrics.cardiothoracic import lines

COLOURS = (
    "#56b4e9", "#e69f00", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#0072b2", "#ffffff",
)  # fmt: skip
PAPER = "#0d1117"
INK = "#e6edf3"
FAINT = "#8b949e"
GOOD = "#009e73"
BAD = "#d55e00"
NORMAL_90 = 1.645
DPI = 110
TALL = 6.4
PANEL = 2.9
MOST_PIXELS = 1024


def draw(
    image: Num[np.ndarray, "h w"],
    landmarks: Float[np.ndarray, "n 2"] | None,
    *,
    contours: Sequence[Contour],
    sd: Float[np.ndarray, "n 2"] | None = None,
    reference: Float[np.ndarray, "n 2"] | None = None,
    title: str = "",
    badge: tuple[str, bool] | None = None,
    notes: Sequence[str] = (),
    measured: bool = True,
) -> bytes:
    """The picture as PNG bytes, the same for the same arguments.

    Args:
        image: rows first, bright where dense.
        landmarks: x and y in pixels of the image; NaN is not drawn, None draws no contour.
        contours: the organs, in node order.
        sd: standard deviation of each landmark along x and y, in pixels.
        reference: the known landmarks, dashed.
        title: over the picture.
        badge: a short verdict, and whether it is a good one.
        notes: sentences beside the picture.
        measured: whether the widths of heart and chest are drawn, where both are there.
    """
    from matplotlib.figure import Figure

    height, width = image.shape
    wide = min(max(TALL * width / height, 3.0), 1.6 * TALL)
    figure = Figure(figsize=(wide + PANEL, TALL + 0.45), dpi=DPI, facecolor=PAPER)
    across, up = figure.get_size_inches()
    axes = figure.add_axes((0.0, 0.0, wide / across, TALL / up))
    _image(axes, image)
    if reference is not None:
        _reference(axes, reference, contours)
    if landmarks is not None:
        for number, (contour, own) in enumerate(_organs(contours)):
            spread = None if sd is None else sd[own]
            _organ(axes, landmarks[own], spread, contour, COLOURS[number % len(COLOURS)])
        if measured:
            _widths(axes, landmarks, contours, height / 512)
    figure.text(0.1 / across, 1 - 0.22 / up, title, color=INK, size=12, weight="bold", va="center")
    panel = figure.add_axes((wide / across, 0.0, PANEL / across, TALL / up))
    shown = {"sd": sd is not None and landmarks is not None, "reference": reference is not None}
    _panel(panel, contours if landmarks is not None else (), shown, badge, notes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=PAPER, metadata={"Software": None})
    return buffer.getvalue()


def _organs(contours: Sequence[Contour]) -> list[tuple[Contour, slice]]:
    return list(zip(contours, slices(contours).values(), strict=True))


def _image(axes: Any, image: Num[np.ndarray, "h w"]) -> None:  # noqa: ANN401 -- Axes
    height, width = image.shape
    step = max(1, -(-max(height, width) // MOST_PIXELS))
    shown = np.asarray(image[::step, ::step], dtype=np.float32)
    finite = shown[np.isfinite(shown)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    axes.imshow(
        shown, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=(0, width, height, 0),
        interpolation="bilinear", zorder=0,
    )  # fmt: skip
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()


def _reference(
    axes: Any,  # noqa: ANN401 -- Axes
    reference: Float[np.ndarray, "n 2"],
    contours: Sequence[Contour],
) -> None:
    for contour, own in _organs(contours):
        path = _path(reference[own], contour)
        axes.plot(*path.T, color="black", linewidth=2.0, alpha=0.5, zorder=2)
        axes.plot(*path.T, color="white", linewidth=1.1, linestyle=(0, (4, 2.5)), zorder=3)


def _path(points: Float[np.ndarray, "n 2"], contour: Contour) -> Float[np.ndarray, "m 2"]:
    """The nodes to join by a line, back to the first one where the contour is closed."""
    return np.concatenate([points, points[:1]]) if contour.closed else points


def _organ(
    axes: Any,  # noqa: ANN401 -- Axes
    points: Float[np.ndarray, "n 2"],
    sd: Float[np.ndarray, "n 2"] | None,
    contour: Contour,
    colour: str,
) -> None:
    if sd is not None:
        from matplotlib.collections import PolyCollection

        quads = _band(points, sd, contour)
        axes.add_collection(
            PolyCollection(list(quads), facecolors=colour, alpha=0.4, linewidths=0, zorder=1), False
        )
    path = _path(points, contour)
    axes.plot(*path.T, color="black", linewidth=2.6, alpha=0.45, zorder=4)
    axes.plot(*path.T, color=colour, linewidth=1.4, zorder=5)
    axes.scatter(*points.T, s=7, color=colour, edgecolors="black", linewidths=0.4, zorder=6)


def _band(
    points: Float[np.ndarray, "n 2"], sd: Float[np.ndarray, "n 2"], contour: Contour
) -> Float[np.ndarray, "quad 4 2"]:
    """A quadrilateral from each node to the next, as wide as the contour is uncertain there."""
    if contour.closed:
        along = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
    else:
        along = np.gradient(points, axis=0)
    across = np.stack([along[:, 1], -along[:, 0]], axis=1)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    reach = NORMAL_90 * np.sqrt(((across * sd) ** 2).sum(1, keepdims=True))
    inner, outer = points - across * reach, points + across * reach
    ends = [np.roll(side, -1, axis=0) for side in (outer, inner)]
    quads = np.stack([inner, outer, *ends], axis=1)
    quads = quads if contour.closed else quads[:-1]
    return quads[np.isfinite(quads).all((1, 2))]


def _widths(
    axes: Any,  # noqa: ANN401 -- Axes
    landmarks: Float[np.ndarray, "n 2"],
    contours: Sequence[Contour],
    tick: float,
) -> None:
    found = lines(landmarks, contours)
    if found is None:
        return
    for line, below in zip(found, (False, True), strict=True):
        (left, y), (right, _) = line.left, line.right
        up, down = y - 7 * tick, y + 7 * tick
        bar = ([left, left, left, right, right, right], [up, down, y, y, up, down])
        axes.plot(*bar, color="black", linewidth=2.8, alpha=0.55, zorder=7)
        axes.plot(*bar, color=INK, linewidth=1.2, zorder=7)
        text = "chest" if below else f"heart · CTR {line.width / found[1].width:.2f}"
        middle = left + (right - left) / (4 if below else 2)
        axes.text(
            middle, y + (16 if below else -10) * tick, text, color=INK, size=8.5,
            ha="center", va="center", zorder=8,
            bbox={"facecolor": PAPER, "alpha": 0.55, "lw": 0, "pad": 1.5},
        )  # fmt: skip


def _panel(
    axes: Any,  # noqa: ANN401 -- Axes
    contours: Sequence[Contour],
    shown: dict[str, bool],
    badge: tuple[str, bool] | None,
    notes: Sequence[str],
) -> None:
    import textwrap

    axes.set(xlim=(0, PANEL), ylim=(TALL, 0))
    axes.set_axis_off()
    y = 0.3
    if badge is not None:
        text, good = badge
        box = {"facecolor": GOOD if good else BAD, "lw": 0, "boxstyle": "round,pad=0.45"}
        words = textwrap.fill(text, 30)
        axes.text(0.26, y, words, color="white", size=9.5, weight="bold", va="top", bbox=box)
        y += 0.45 + 0.18 * words.count("\n") + 0.12
    for number, contour in enumerate(contours):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot([0.2, 0.5], [y, y], color=colour, linewidth=2.2)
        axes.scatter([0.35], [y], s=12, color=colour, edgecolors="black", linewidths=0.4)
        axes.text(0.62, y, contour.name.replace("_", " "), color=INK, size=9.5, va="center")
        y += 0.25
    if shown["sd"]:
        axes.fill_between([0.2, 0.5], y - 0.06, y + 0.06, color=FAINT, alpha=0.5, linewidth=0)
        axes.text(0.62, y, "90 % of where it runs", color=FAINT, size=9, va="center")
        y += 0.25
    if shown["reference"]:
        axes.plot([0.2, 0.5], [y, y], color="white", linewidth=1.1, linestyle=(0, (4, 2.5)))
        axes.text(0.62, y, "reference", color=FAINT, size=9, va="center")
        y += 0.25
    for note in notes:
        words = textwrap.fill(note, 40)
        axes.text(0.2, y, words, color=FAINT, size=8.5, va="top", linespacing=1.25)
        y += 0.17 * (1 + words.count("\n")) + 0.09
