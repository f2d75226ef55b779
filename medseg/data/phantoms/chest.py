"""Made-up chest radiographs whose contours are known exactly, down to the annotated nodes.

Source: organs, order and direction of the nodes after Gaggion et al. 2022,
doi:10.1109/TMI.2022.3224660. The anatomy is drawn from curves of our own.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from medseg.data.phantoms import thorax
from medseg.data.phantoms.cases import Cases
from medseg.data.phantoms.film import Place, cover, expose
from medseg.data.phantoms.obstacles import obstruct
from medseg.data.phantoms.thorax import Thorax
from medseg.data.radiographs import NODES, Radiograph, chosen, write_sheet
from medseg.data.sheet import Record
from medseg.provenance import atomic_folder
from medseg.sample import Sample

MARGIN = 0.012


class Chest:
    """Made-up people, each with one radiograph; a case never changes when its split grows.

    They vary in size and shape, cardiothoracic ratio (0.39 to 0.61 before nodes are picked), tilt,
    place and size in the picture, exposure and noise. The splits draw from random streams of their
    own, so no person stands on both sides.

    Args:
        n_train: training cases.
        n_val: validation cases.
        n_test: test cases.
        seed: another seed makes other people.
        size: side of the square pictures in pixels.
        organs: which contours are annotated, in this order, with their published counts of nodes.
        noise: standard deviation of the noise, as a share of the whole range.
        occluded: how common markers, bars, devices, tubes and borders are; 0 leaves them out.
        unannotated: the share of cases without clavicles among their landmarks and flags.
    """

    def __init__(
        self,
        *,
        n_train: int = 96,
        n_val: int = 8,
        n_test: int = 12,
        seed: int = 0,
        size: int = 256,
        organs: Mapping[str, Any] = MappingProxyType(NODES),
        noise: float = 0.02,
        occluded: float = 0.25,
        unannotated: float = 0.25,
    ) -> None:
        self.cases = Cases(n_train, n_val, n_test, seed)
        if size < 32:
            raise ValueError(f"size is {size}; a chest needs at least 32 pixels a side")
        if noise < 0:
            raise ValueError(f"noise is {noise}; give a share of the range, 0 or more")
        for name, share in (("occluded", occluded), ("unannotated", unannotated)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; give a share from 0 to 1")
        self.size, self.noise = size, noise
        self.contours = chosen(organs)
        self.organs = [contour.name for contour in self.contours]
        self.occluded, self.unannotated = occluded, unannotated

    def records(self) -> list[Record]:
        """One record a case; nothing has been drawn yet."""
        return self.cases.records()

    def load(self, record: Record, *, with_target: bool = True) -> Sample:
        """Draw one case: grey values 0 to 255, label flags and landmarks in pixels."""
        return self.draw(record)[0].sample(record, with_target=with_target)

    def write(self, folder: Path) -> Path:
        """Write every case as PNG and CSV files and a sheet; returns the sheet.

        The folder takes its place when all is written; one that was there is replaced.
        """
        with atomic_folder(folder) as part:
            rows = [
                self.draw(record)[0].write(part, record, organs=self.contours)
                for record in self.records()
            ]
            write_sheet(part, rows)
        return folder / "samples.csv"

    def draw(self, record: Record) -> tuple[Radiograph, dict[str, Float[np.ndarray, "m 2"]]]:
        """One case, and the whole contour of each of its annotated organs in pixels, finely."""
        rng = self.cases.stream(record)
        chest = thorax.draw(rng)
        place = _placed(rng, chest, self.size)
        picture = expose(rng, chest, size=self.size, place=place)
        picture = obstruct(rng, picture, chance=self.occluded)
        bare = rng.random() < self.unannotated
        shown = [n for n in self.organs if not (bare and n.endswith("clavicle"))]
        curves = {name: place.put(chest.outlines[name].dense) for name in shown}
        flags = np.zeros((self.size, self.size), np.uint8)
        for name, curve in curves.items():
            inside = cover(curve, self.size).T >= 0.5
            flags |= (inside << self.organs.index(name)).astype(np.uint8)
        nodes = [
            place.put(chest.outlines[name].nodes)
            if name in shown
            else np.full((NODES[name], 2), np.nan)
            for name in self.organs
        ]
        pixels = _developed(rng, picture, noise=self.noise)
        image = Radiograph(pixels, flags, np.concatenate(nodes), place.pixel_mm)
        return image, curves


def _placed(rng: np.random.Generator, chest: Thorax, size: int) -> Place:
    """Somewhere in the picture, a little turned, with every node inside."""
    angle = np.deg2rad(np.clip(rng.normal(0, 2.5), -7, 7))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.concatenate([o.dense for o in chest.outlines.values()]) @ turn.T
    low, high = points.min(0), points.max(0)
    need = float((high - low).max()) / (1 - 2 * MARGIN)
    pixel_mm = round(max(rng.uniform(325, 420), need) / size + 5e-5, 4)
    free = size * (1 - 2 * MARGIN) - (high - low) / pixel_mm
    shift = size * MARGIN + free * rng.uniform((0.25, 0.15), (0.75, 0.7)) - low / pixel_mm
    return Place(turn, shift, pixel_mm)


def _developed(
    rng: np.random.Generator, picture: Float[np.ndarray, "h w"], *, noise: float
) -> np.ndarray:
    """Exposure, grain and whole grey values, columns first."""
    gamma = np.exp(rng.uniform(-0.45, 0.45))
    grain = noise * rng.uniform(0.4, 1.3) * rng.standard_normal(picture.shape, np.float32)
    low, high = rng.uniform(0, 0.12), rng.uniform(0.82, 1)
    values = low + (high - low) * picture**gamma + grain
    return np.ascontiguousarray(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8).T)
