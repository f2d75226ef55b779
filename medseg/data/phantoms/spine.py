"""Dixon scans of made-up spines: seven discs as instances, four contrasts, exact algebra.

Source: the contrasts and their relation (in = water + fat, opposed = |water - fat|) after Dixon
1984, doi:10.1148/radiology.153.1.6089263. Water and fat carry the receive field and the noise and
are whole numbers, so the other two contrasts follow from them without rounding.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer

from medseg.data.phantoms.anatomy import Canvas, column, paint_column, smooth
from medseg.data.phantoms.cases import Cases, write_cases
from medseg.data.phantoms.surroundings import habit, paint_surroundings
from medseg.data.sheet import Record
from medseg.geometry.grid import Grid, Orientation
from medseg.io import nifti
from medseg.sample import Sample

CHANNELS = ("fat", "inphase", "opposed", "water")
FINER = 2
_FULL_SCALE = 1000.0
_ORIENTATIONS = (
    Orientation((0, 1, 2), (False, False, False)),
    Orientation((0, 1, 2), (True, False, False)),
    Orientation((2, 0, 1), (False, True, True)),
    Orientation((2, 0, 1), (True, False, True)),
    Orientation((0, 2, 1), (False, False, True)),
)


class Spine:
    """Made-up people, each scanned once; case i of a split never changes when a split grows.

    Discs are numbered from the lowest up: 1 is L5/S1, 7 is T11/T12. The splits draw from random
    streams of their own, so no person stands on both sides. Files differ in axis order, the field
    of view is oblique by up to some 7 degrees and lies anywhere in the scanner.

    Args:
        n_train: training cases.
        n_val: validation cases.
        n_test: test cases.
        seed: another seed makes other people.
        shape: voxels along R, A, S.
        spacing_mm: voxel size along R, A, S; the anatomy is scaled to the height of the field.
        noise: standard deviation of the noise, as a share of the brightest water.
    """

    def __init__(
        self,
        *,
        n_train: int = 16,
        n_val: int = 4,
        n_test: int = 8,
        seed: int = 0,
        shape: Sequence[int] = (14, 64, 96),
        spacing_mm: Sequence[float] = (4.0, 3.0, 3.0),
        noise: float = 0.035,
    ) -> None:
        self.cases = Cases(n_train, n_val, n_test, seed)
        if len(shape) != 3 or min(shape) < 8:
            raise ValueError(f"shape is {list(shape)}; give three axes of at least 8 voxels")
        if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
            raise ValueError(f"spacing_mm is {list(spacing_mm)}; give three positive lengths")
        self.noise = noise
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.spacing_mm = tuple(float(mm) for mm in spacing_mm)

    def records(self) -> list[Record]:
        """One record a case; nothing has been drawn yet."""
        return self.cases.records()

    def load(self, record: Record, *, with_target: bool = True) -> Sample:
        """Draw one case: whole-numbered float32 contrasts and the disc numbers."""
        rng = self.cases.stream(record)
        water, fat, discs = _render(rng, self.shape, self.spacing_mm)
        water, fat = _scan(rng, water, fat, self.noise)
        image = np.stack([fat, water + fat, np.abs(water - fat), water])
        turn = _ORIENTATIONS[int(rng.integers(len(_ORIENTATIONS)))]
        grid = _grid(rng, self.shape, self.spacing_mm, turn)
        return Sample(
            id=record.case,
            image=np.ascontiguousarray(turn.undo(image)),
            space=grid,
            channels=CHANNELS,
            target=np.ascontiguousarray(turn.undo(discs)) if with_target else None,
            subject=record.subject,
            split=record.split,
        )

    def write(self, folder: Path) -> Path:
        """Write every case as int16 NIfTI files and a sheet; returns the sheet.

        The folder takes its place when all is written; one that was there is replaced.
        """
        columns = ["case", "subject", *CHANNELS, "label", "split"]
        return write_cases(folder, columns, rows=self._write_cases)

    def _write_cases(self, folder: Path) -> Iterator[list[str]]:
        """Write the files of each case and yield its row."""
        for record in self.records():
            sample = self.load(record)
            labels = np.array(sample.target, np.uint8)
            names = [f"{record.case}_{name}.nii.gz" for name in (*CHANNELS, "label")]
            for name, values in zip(names[:-1], sample.image, strict=True):
                nifti.write(
                    folder / name,
                    values.astype(np.int16),
                    grid=sample.grid,
                    meta={},
                    dtype=np.int16,
                )
            nifti.write(folder / names[-1], labels, grid=sample.grid, meta={}, dtype=np.uint8)
            yield [record.case, record.subject, *names, record.split]


def _render(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: Sequence[float]
) -> tuple[Float[np.ndarray, "x y z"], Float[np.ndarray, "x y z"], Integer[np.ndarray, "x y z"]]:
    """Water, fat and disc numbers on the voxels, as means over a lattice twice as fine."""
    extent = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    axes = [
        (np.arange(n * FINER) + 0.5) * mm / FINER - n * mm / 2
        for n, mm in zip(shape, spacing_mm, strict=True)
    ]
    canvas = Canvas(axes)
    spine = column(rng, extent)
    paint_surroundings(canvas, spine, person=habit(rng, extent[1], scale=spine.scale), rng=rng)
    discs = np.zeros(shape, np.uint8)
    for number, (place, share) in enumerate(paint_column(canvas, spine, rng=rng), start=1):
        whole = np.zeros(canvas.shape, np.float32)
        whole[place] = share
        discs[_coarse(whole) >= 0.5] = number
    return _coarse(canvas.water), _coarse(canvas.fat), discs


def _coarse(fine: Float[np.ndarray, "a b c"]) -> Float[np.ndarray, "x y z"]:
    """Means over blocks: what a voxel sees of the tissues it holds."""
    a, b, c = (n // FINER for n in fine.shape)
    return fine.reshape(a, FINER, b, FINER, c, FINER).mean((1, 3, 5))


def _scan(
    rng: np.random.Generator,
    water: Float[np.ndarray, "x y z"],
    fat: Float[np.ndarray, "x y z"],
    noise: float,
) -> tuple[Float[np.ndarray, "x y z"], Float[np.ndarray, "x y z"]]:
    """Receive field, noise in both channels of the coil, and rounding to whole numbers."""
    shape = water.shape
    near = np.linspace(rng.uniform(0, 0.5), 0, shape[1], dtype=np.float32)[None, :, None]
    field = np.exp(0.15 * smooth(rng, shape, cells=(2, 3, 3)) + near - 0.25)
    scale = _FULL_SCALE * rng.uniform(0.8, 1.4)

    def measured(signal: np.ndarray) -> np.ndarray:
        real = signal * field + noise * rng.standard_normal(shape, np.float32)
        imaginary = noise * rng.standard_normal(shape, np.float32)
        return np.rint(scale * np.hypot(real, imaginary)).astype(np.float32)

    return measured(water), measured(fat)


def _grid(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    spacing_mm: Sequence[float],
    turn: Orientation,
) -> Grid:
    """An oblique field of view somewhere in the scanner, on the file's own axes."""
    turned = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(rng.uniform(-4, 4, 3))):
        one, two = [a for a in range(3) if a != axis]
        step = np.eye(3)
        step[one, one] = step[two, two] = np.cos(angle)
        step[one, two], step[two, one] = -np.sin(angle), np.sin(angle)
        turned = turned @ step
    affine = np.eye(4)
    affine[:3, :3] = turned * np.array(spacing_mm)
    middle = (np.array(shape) - 1) / 2
    affine[:3, 3] = rng.uniform(-40, 40, 3) - affine[:3, :3] @ middle
    inverse = np.argsort(turn.axes)
    stored = Grid((shape[inverse[0]], shape[inverse[1]], shape[inverse[2]]), np.eye(4))
    return Grid(stored.shape, affine @ np.linalg.inv(turn.grid(stored).affine))
