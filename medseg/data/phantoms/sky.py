"""Made-up skies at two frequencies: a Galactic band, point-source discs and hot spots.

A class is told by its colour (the ratio of the two maps), its shape and its edge. Brightness
overlaps: of the background, of dust, of noise and of the classes themselves, so that no threshold
on a map finds them; neighbours tell what a pixel alone does not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer

from medseg.data.phantoms.cases import Cases, write_cases
from medseg.data.sheet import Record
from medseg.data.skymasks import rotation
from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import Sphere, centres, check_nside
from medseg.io import healpix
from medseg.sample import Sample

CHANNELS = ("low", "high")
LABELS = {"galaxy": 1, "source": 2, "hot_spot": 3}
_LMAX = 24
_SMOOTH_ARCMIN = 900.0
_CMB_UK, _DUST_UK = 50.0, 15.0
_DUST = (0.4, 1.0)
_APART_DEG = 5.0


@dataclass(frozen=True)
class Kind:
    """What objects of a class look like.

    Attributes:
        uk: the range of their brightness, drawn once an object.
        colour: the share of it that the low and the high frequency see.
        edge: the brightness at the rim of a disc as a share of that in its middle.
        count: how few and how many there are in a sky.
        radius_deg: the range of their radii.
    """

    uk: tuple[float, float]
    colour: tuple[float, float]
    edge: float = 1.0
    count: tuple[int, int] = (1, 1)
    radius_deg: tuple[float, float] = (0.0, 0.0)


KINDS: Mapping[str, Kind] = {
    "galaxy": Kind((90.0, 150.0), (0.6, 1.2)),
    "source": Kind((90.0, 150.0), (1.2, 0.6), count=(4, 9), radius_deg=(5.0, 14.0)),
    "hot_spot": Kind((220.0, 320.0), (1.0, 1.0), 0.75, count=(4, 8), radius_deg=(6.0, 14.0)),
}


class Sky:
    """Made-up skies of whole HEALPix maps; case i of a split never changes when a split grows.

    Label values are those of `LABELS`, 0 elsewhere. A pixel is what its centre is, and all but the
    noise is a function of direction, so cases of one seed show one sky at every nside. Sources lie
    above the band, the band above hot spots; discs do not touch each other.

    Args:
        n_train: training cases.
        n_val: validation cases.
        n_test: test cases.
        seed: another seed makes other skies.
        nside: of the maps, 8 or more.
        noise_uk: standard deviation of each pixel's noise in µK.
    """

    def __init__(
        self,
        *,
        n_train: int = 64,
        n_val: int = 8,
        n_test: int = 16,
        seed: int = 0,
        nside: int = 16,
        noise_uk: float = 14.0,
    ) -> None:
        self.cases = Cases(n_train, n_val, n_test, seed)
        if check_nside(nside) < 8:
            raise ValueError(f"nside is {nside}; the discs are seen from nside 8 on")
        if noise_uk < 0:
            raise ValueError(f"noise_uk is {noise_uk}; give a standard deviation, 0 or more")
        self.nside, self.noise_uk = nside, noise_uk
        self._space = Sphere(nside, frame="G")

    def records(self) -> list[Record]:
        """One record a case; nothing has been drawn yet."""
        return self.cases.records()

    def draw(
        self, record: Record
    ) -> tuple[Float[np.ndarray, "channel n"], Integer[np.ndarray, " n"]]:
        """The maps in µK (float32) and the labels of one case, NESTED."""
        behind, before, objects, grain = self.cases.stream(record).spawn(4)
        cmb = _smooth(_CMB_UK).draw(self.nside, seed=behind)
        dust = np.array(_DUST)[:, None] * _smooth(_DUST_UK).draw(self.nside, seed=before)
        labels, light = _paint(objects, centres(self.nside))
        maps = cmb + dust + light + self.noise_uk * grain.standard_normal(light.shape)
        return maps.astype(np.float32), labels

    def load(self, record: Record, *, with_target: bool = True) -> Sample:
        """Draw one case."""
        image, labels = self.draw(record)
        return Sample(
            id=record.case,
            image=image,
            space=self._space,
            channels=CHANNELS,
            target=labels if with_target else None,
            subject=record.subject,
            split=record.split,
        )

    def write(self, folder: Path) -> Path:
        """Write every case as HEALPix FITS maps and a sheet; returns the sheet.

        The folder takes its place when all is written; one that was there is replaced.
        """
        columns = ["case", "subject", *CHANNELS, "label", "split"]
        return write_cases(folder, columns, rows=self._write_cases)

    def _write_cases(self, folder: Path) -> Iterator[list[str]]:
        """Write the files of each case and yield its row."""
        for record in self.records():
            image, labels = self.draw(record)
            names = [f"{record.case}_{name}.fits" for name in (*CHANNELS, "label")]
            for name, values, unit in zip(
                names, [*image, labels], ["uK_CMB", "uK_CMB", None], strict=True
            ):
                healpix.write(folder / name, values, grid=self._space, meta={"unit": unit})
            yield [record.case, record.subject, *names, record.split]


@cache
def _smooth(uk: float) -> Prior:
    """A field without small structure, the same at every nside; `uk` is its standard deviation."""
    degree = np.arange(_LMAX + 1)
    spectrum = np.zeros((4, _LMAX + 1))
    spectrum[0, 2:] = 1 / (degree[2:] * (degree[2:] + 1))
    prior = Prior(spectrum, beam_arcmin=_SMOOTH_ARCMIN)
    power = float(((2 * degree + 1) * prior.seen[0]).sum() / (4 * np.pi))
    return Prior(spectrum * uk**2 / power, beam_arcmin=_SMOOTH_ARCMIN)


def _paint(
    dice: np.random.Generator, at: Float[np.ndarray, "n 3"]
) -> tuple[Integer[np.ndarray, " n"], Float[np.ndarray, "channel n"]]:
    """Labels in some directions, and the light of what lies there."""
    labels = np.zeros(len(at), np.uint8)
    light = np.zeros((len(CHANNELS), len(at)))
    taken: list[tuple[np.ndarray, float]] = []
    for name in ("hot_spot", "galaxy", "source"):
        kind = KINDS[name]
        count = int(dice.integers(kind.count[0], kind.count[1] + 1))
        for _ in range(count):
            uk = dice.uniform(*kind.uk)
            if name == "galaxy":
                depth = np.where(_band(dice, at), 0.0, np.inf)
            else:
                axis, radius = _place(dice, kind, taken)
                depth = np.arccos(np.clip(at @ axis, -1, 1)) / radius
            inside = depth < 1
            labels[inside] = LABELS[name]
            shine = uk * (1 - (1 - kind.edge) * depth[inside] ** 2)
            light[:, inside] = np.array(kind.colour)[:, None] * shine
    return labels, light


def _place(
    dice: np.random.Generator, kind: Kind, taken: list[tuple[np.ndarray, float]]
) -> tuple[Float[np.ndarray, " 3"], float]:
    """A disc that keeps off the others, by direction and radius in radians, added to them."""
    gap = np.radians(_APART_DEG)
    while True:
        axis = dice.standard_normal(3)
        axis /= np.linalg.norm(axis)
        radius = float(np.radians(dice.uniform(*kind.radius_deg)))
        if all(np.arccos(np.clip(axis @ other, -1, 1)) > radius + r + gap for other, r in taken):
            taken.append((axis, radius))
            return axis, radius


def _band(dice: np.random.Generator, at: Float[np.ndarray, "n 3"]) -> np.ndarray:
    """Whether directions lie in a band around a random great circle, each edge with its waves."""
    x, y, z = (at @ rotation(dice)).T
    latitude, longitude = np.degrees(np.arcsin(np.clip(z, -1, 1))), np.arctan2(y, x)
    waves = np.arange(1, 7)
    edges = []
    for _ in range(2):
        height = dice.uniform(8, 16)
        sizes, phases = dice.normal(0, 1.5, len(waves)), dice.uniform(0, 2 * np.pi, len(waves))
        swing = (sizes * np.cos(longitude[:, None] * waves + phases)).sum(1)
        edges.append(np.maximum(height + swing, 3))
    return (latitude < edges[0]) & (latitude > -edges[1])
