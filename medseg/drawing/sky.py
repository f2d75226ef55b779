"""Maps of the sky in Mollweide's projection, as astronomers draw them, with a scale that says more.

Equal areas stay equal; longitude 0 is in the middle and grows to the left, north is up. Pixels
that are not seen are grey. Drawn with numpy and Pillow alone.

Source: Snyder 1987, Map projections, USGS professional paper 1395, p. 249, for the projection.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt8

from medseg.drawing.contours import COLOURS, FAINT, INK, PAPER
from medseg.geometry.sphere import nside_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

HOLE = (128, 128, 132)
SCALES = {
    "diverging": (
        "#0b2a5b", "#1f5fa8", "#6ba7d6", "#c4dcee", "#f7f6f2", "#f6cdb0", "#e68a5f", "#b93a34",
        "#651021",
    ),
    "sequential": ("#12082e", "#3b1a6b", "#7b2a7d", "#bd4273", "#ec7257", "#fbb357", "#fcf3b0"),
}  # fmt: skip
SHADES = 512
SMOOTH = 2
LINES_DEG = 30
UNSEEN = -1e30
TAIL = 99.0
GAP = 14
TITLE, BAR = 24, 40


@dataclass(frozen=True, eq=False)
class Panel:
    """One map of a picture of several.

    Attributes:
        values: of all pixels, in NESTED order; NaN where nothing is known.
        title: over the map.
        mask: which pixels are shown; the others are grey.
        colours: `diverging`, `sequential` or `labels`.
        limits: the values at the scale's ends; without them it shares the picture's.
        unit: of its own scale, if it has one.
        legend: names of labels 0, 1, ….
    """

    values: Num[np.ndarray, " n"]
    title: str = ""
    mask: Bool[np.ndarray, " n"] | None = None
    colours: str = "diverging"
    limits: tuple[float, float] | None = None
    unit: str = ""
    legend: Sequence[str] = ()

    @property
    def shares(self) -> bool:
        """Whether its scale is the picture's."""
        return self.colours == "diverging" and self.limits is None


def panels(
    chosen: Sequence[Panel],
    *,
    unit: str = "",
    limits: tuple[float, float] | None = None,
    width: int = 420,
    columns: int | None = None,
) -> bytes:
    """Maps side by side as PNG bytes, with one scale for all that have no limits of their own.

    Args:
        chosen: the maps, row by row.
        unit: of the common scale.
        limits: of the common scale; if None, such that a hundredth of all values lie beyond.
        width: of each map in pixels.
        columns: maps in a row; all of up to three, else three.
    """
    from PIL import Image

    columns = columns or min(len(chosen), 3)
    common = [panel for panel in chosen if panel.shares]
    limits = limits or common_limits(common)
    made = [mollweide(p, width=width, limits=limits if p.shares else None) for p in chosen]
    rows = [made[start : start + columns] for start in range(0, len(made), columns)]
    heights = [max(picture.height for picture in row) + GAP for row in rows]
    across, down = columns * (width + GAP) + GAP, sum(heights) + GAP
    sheet = Image.new("RGB", (across, down + (BAR if common else 0)), PAPER)
    for row, top in zip(rows, np.cumsum([GAP, *heights[:-1]]), strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (GAP + column * (width + GAP), int(top)))
    if common:
        long = min(across, 2 * width)
        sheet.paste(_bar(long, limits, unit, "diverging"), ((across - long) // 2, down))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def mollweide(
    panel: Panel, *, width: int = 640, limits: tuple[float, float] | None = None
) -> "Image":
    """One map of the whole sky with its title, `width` pixels wide.

    Without limits it has a scale of its own below it: the panel's, or such that a hundredth lies
    beyond, symmetric about zero for `diverging`.

    Raises:
        ValueError: other colours, or values that are not a whole sky.
    """
    from PIL import Image, ImageDraw

    bar = limits is None
    limits = limits or panel.limits or common_limits([panel])
    fine = width * SMOOTH
    place, inside = _projected(nside_of(len(panel.values)), fine)
    colour = np.where(_shown(panel)[:, None], _coloured(panel, limits), np.array(HOLE, np.uint8))
    picture = np.empty((*place.shape, 3), np.uint8)
    picture[:] = _rgb(PAPER)
    picture[inside] = colour[place[inside]]
    lines = _graticule(fine)
    picture[lines] = (0.75 * picture[lines] + 0.25 * _rgb(FAINT)).astype(np.uint8)
    sky = Image.fromarray(picture).reduce(SMOOTH)
    top = TITLE if panel.title else 4
    sheet = Image.new("RGB", (width, top + sky.height + (BAR if bar else 4)), PAPER)
    sheet.paste(sky, (0, top))
    draw = ImageDraw.Draw(sheet)
    draw.text((width / 2, top / 2), panel.title, fill=INK, font=_font(15), anchor="mm")
    if bar and panel.colours == "labels":
        sheet.paste(_legend(width, panel), (0, top + sky.height))
    elif bar:
        scale = _bar(width, limits, panel.unit, panel.colours)
        sheet.paste(scale, (0, top + sky.height))
    return sheet


def common_limits(chosen: Sequence[Panel]) -> tuple[float, float]:
    """Ends of one scale for maps, a hundredth of whose shown values lie beyond it."""
    parts = [np.asarray(panel.values[_shown(panel)], dtype=float) for panel in chosen]
    known = np.concatenate(parts) if parts else np.empty(0)
    if not known.size:
        return (-1.0, 1.0)
    if chosen[0].colours == "diverging":
        high = float(np.percentile(np.abs(known), TAIL)) or 1.0
        return (-high, high)
    low, high = (float(v) for v in np.percentile(known, [100 - TAIL, TAIL]))
    return (low, high if high > low else low + 1.0)


def _shown(panel: Panel) -> Bool[np.ndarray, " n"]:
    values = np.asarray(panel.values, dtype=float)
    seen: Bool[np.ndarray, " n"] = np.isfinite(values) & (values > UNSEEN)
    return seen if panel.mask is None else seen & panel.mask


@lru_cache(maxsize=8)
def _projected(nside: int, width: int) -> tuple[Int[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """The NESTED pixel at each place of the picture, and where there is sky."""
    import healpy

    longitude, latitude, inside = _directions(width)
    theta, phi = np.pi / 2 - latitude[inside], longitude[inside] % (2 * np.pi)
    place = np.zeros(inside.shape, np.int64)
    place[inside] = healpy.ang2pix(nside, theta, phi, nest=True)
    return place, inside


def _directions(
    width: int,
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Longitude and latitude of each place, in radians, and where there is sky."""
    height = width // 2
    u = ((np.arange(width) + 0.5) / width * 2 - 1)[None, :]
    v = (1 - (np.arange(height) + 0.5) / height * 2)[:, None]
    inside = u**2 + v**2 < 1
    slope = np.arcsin(v)
    latitude = np.arcsin((2 * slope + np.sin(2 * slope)) / np.pi)
    longitude = -np.pi * u / np.cos(slope)
    return longitude, np.broadcast_to(latitude, inside.shape), inside


@lru_cache(maxsize=8)
def _graticule(width: int) -> Bool[np.ndarray, "h w"]:
    """Where a line of longitude or latitude runs, every thirty degrees."""
    longitude, latitude, inside = _directions(width)
    step = np.radians(LINES_DEG)
    found = np.zeros(inside.shape, bool)
    # A line runs where two places beside each other lie in different zones.
    zone = np.floor(latitude / step)
    found[1:] |= zone[1:] != zone[:-1]
    zone = np.floor(longitude / step)
    found[:, 1:] |= zone[:, 1:] != zone[:, :-1]
    return found & inside


def _coloured(panel: Panel, limits: tuple[float, float]) -> UInt8[np.ndarray, "n 3"]:
    if panel.colours == "labels":
        label = np.where(_shown(panel), panel.values, 0).astype(np.int64)
        return _palette()[label % len(COLOURS)]
    low, high = limits
    part = (np.where(_shown(panel), panel.values, low) - low) / (high - low)
    shade = np.clip(part * (SHADES - 1) + 0.5, 0, SHADES - 1).astype(np.int64)
    return _shades(panel.colours)[shade]


@lru_cache(maxsize=4)
def _shades(colours: str) -> UInt8[np.ndarray, "shade 3"]:
    if colours not in SCALES:
        raise ValueError(f"colours={colours}; there are {', '.join(SCALES)} and labels")
    known = np.array([_rgb(name) for name in SCALES[colours]], dtype=float)
    at = np.linspace(0, len(known) - 1, SHADES)
    parts = [np.interp(at, np.arange(len(known)), known[:, k]) for k in range(3)]
    return np.stack(parts, 1).round().astype(np.uint8)


def _palette() -> UInt8[np.ndarray, "label 3"]:
    """Label 0 pale, the others told apart by the colour-blind too."""
    return np.array([_rgb(name) for name in (COLOURS[-1], *COLOURS[:-1])], np.uint8)


def _bar(width: int, limits: tuple[float, float], unit: str, colours: str) -> "Image":
    """The scale with its ends, its middle and the unit."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (width, BAR), PAPER)
    long = width // 2
    left = (width - long) // 2
    shade = (np.arange(long) * SHADES) // long
    rows = np.repeat(_shades(colours)[shade][None], 10, axis=0)
    sheet.paste(Image.fromarray(rows), (left, 6))
    draw = ImageDraw.Draw(sheet)
    low, high = limits
    for part in (0.0, 0.5, 1.0):
        text = f"{low + part * (high - low):.3g}"
        draw.text((left + part * long, 28), text, fill=FAINT, font=_font(12), anchor="mm")
    draw.text((left + long + 12, 11), unit, fill=INK, font=_font(13), anchor="lm")
    return sheet


def _legend(width: int, panel: Panel) -> "Image":
    """A swatch and a name for each label there is."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (width, BAR), PAPER)
    draw = ImageDraw.Draw(sheet)
    shown = _shown(panel)
    labels = range(int(panel.values[shown].max()) + 1 if shown.any() else 0)
    names = [panel.legend[k] if k < len(panel.legend) else str(k) for k in labels]
    font = _font(13)
    sizes = [34 + draw.textlength(name, font=font) for name in names]
    x = max((width - sum(sizes)) / 2, 4)
    for label, (name, size) in enumerate(zip(names, sizes, strict=True)):
        colour = tuple(int(part) for part in _palette()[label % len(COLOURS)])
        draw.rectangle((x, 13, x + 12, 25), fill=colour)
        draw.text((x + 18, 19), name, fill=INK, font=font, anchor="lm")
        x += size
    return sheet


@lru_cache(maxsize=8)
def _font(size: int) -> "FreeTypeFont":
    """DejaVu, which has µ and ², as matplotlib brings it."""
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size)


def _rgb(name: str) -> UInt8[np.ndarray, " 3"]:
    return np.array([int(name[k : k + 2], 16) for k in (1, 3, 5)], np.uint8)
