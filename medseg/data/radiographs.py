"""Files of radiographs with contours, as generators and adapters write them.

An image is an 8-bit PNG; its label is a PNG whose bit k says "inside the k-th organ"; its landmarks
are a CSV file (organ, index, x, y) in pixels from the image's top left corner.
Source: organs, their order and their counts of nodes after Gaggion et al. 2022,
doi:10.1109/TMI.2022.3224660.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from medseg.data.landmarks import write_points_csv
from medseg.data.sheet import Record
from medseg.geometry.contour import Contour, contours
from medseg.geometry.grid import Grid
from medseg.io import image as image_file
from medseg.sample import Sample

NODES = {
    "right_lung": 44,
    "left_lung": 50,
    "heart": 26,
    "right_clavicle": 23,
    "left_clavicle": 23,
}
COLUMNS = ("case", "subject", "image", "label", "split", "landmarks", "spacing_mm")


@dataclass(frozen=True, eq=False)
class Radiograph:
    """Pixels of an image (columns first), label flags on them, landmarks; one may be none."""

    pixels: UInt8[np.ndarray, "w h"]
    flags: UInt8[np.ndarray, "w h"] | None
    landmarks: Float[np.ndarray, "n 2"] | None
    spacing_mm: float

    def sample(self, record: Record, *, with_target: bool = True) -> Sample:
        """The radiograph as a case, as its files would be read."""
        flags = None if self.flags is None else np.ascontiguousarray(self.flags[..., None])
        return Sample(
            id=record.case,
            image=np.ascontiguousarray(self.pixels[None, ..., None], dtype=np.float32),
            space=self._grid,
            channels=("image",),
            target=flags if with_target else None,
            landmarks=self.landmarks if with_target else None,
            subject=record.subject,
            split=record.split,
        )

    @property
    def _grid(self) -> Grid:
        return image_file.plane(self.pixels.shape, self.spacing_mm)[0]

    def write(self, folder: Path, record: Record, *, organs: Sequence[Contour]) -> list[str]:
        """Write the files into a folder; returns their row of the sheet."""
        case, grid = record.case, self._grid
        image, label, points = f"{case}.png", "", ""
        image_file.write(folder / image, self.pixels[..., None], grid=grid, meta={})
        if self.flags is not None:
            label = f"{case}_label.png"
            image_file.write(folder / label, self.flags[..., None], grid=grid, meta={})
        if self.landmarks is not None and not np.isnan(self.landmarks).all():
            points = f"{case}_landmarks.csv"
            write_points_csv(folder / points, self.landmarks, contours=organs)
        about = [case, record.subject, image, label, record.split, points]
        return [*about, f"{self.spacing_mm:.6g}"]


def write_sheet(folder: Path, rows: Sequence[Sequence[str]]) -> Path:
    """Write the sheet of a folder's radiographs."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    path = folder / "samples.csv"
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def chosen(organs: Mapping[str, Any]) -> tuple[Contour, ...]:
    """The contours a recipe asks for; only the published ones with their own counts exist."""
    found = contours(organs)
    for contour in found:
        if contour.name not in NODES:
            known = ", ".join(NODES)
            raise ValueError(f"data.organs names '{contour.name}'; these data have {known}")
        if contour.nodes != NODES[contour.name] or not contour.closed:
            raise ValueError(
                f"data.organs.{contour.name} is {organs[contour.name]}; its annotation is a closed "
                f"contour of {NODES[contour.name]} nodes"
            )
    return found
