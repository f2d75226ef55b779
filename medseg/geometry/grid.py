"""Voxel grids: where each voxel lies in the patient, in millimetres (RAS+, as in NIfTI)."""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Num, Shaped

_CODES = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice: `affine` takes voxel indices (i, j, k) to RAS+ millimetres.

    The affine may be oblique, sheared or left-handed; a singular or non-finite one is refused.
    """

    shape: tuple[int, int, int]
    affine: Float[np.ndarray, "4 4"]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        affine.setflags(write=False)
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"a grid has three axes of at least one voxel, not shape {shape}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise ValueError(
                f"the affine is not a finite 4x4 matrix:\n{affine}\n"
                "mend the header's sform or qform (e.g. copy it from the scan it belongs to)"
            )
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise ValueError(
                f"the affine is singular, so voxels have no volume:\n{affine}\n"
                "mend the header's sform, qform or pixdim"
            )
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Length of one step along each axis, rounded to a nanometre so that equal grids agree."""
        lengths = np.sqrt((self.affine[:3, :3] ** 2).sum(0))
        return (
            round(float(lengths[0]), 6),
            round(float(lengths[1]), 6),
            round(float(lengths[2]), 6),
        )

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres; the determinant, so that shear counts."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def diagonal_mm(self) -> float:
        """Diagonal of the field of view: the cap for a distance to something that is not there."""
        extent = np.array(self.shape) * np.array(self.spacing_mm)
        return float(np.sqrt((extent**2).sum()))

    @property
    def corners_mm(self) -> Float[np.ndarray, "8 3"]:
        """World positions of the eight corner voxels' centres."""
        last = np.array(self.shape) - 1
        picks = np.array(np.meshgrid(*[(0, 1)] * 3, indexing="ij")).reshape(3, -1).T
        return self.to_world(picks * last)

    def to_world(self, index: Num[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """RAS+ millimetres of (fractional) voxel indices."""
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, world_mm: Num[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Fractional voxel indices of RAS+ millimetres."""
        return (world_mm - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def misalignment_mm(self, other: "Grid") -> float:
        """How far the worst corner voxel moves between two grids; infinite where shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        moved = self.corners_mm - other.corners_mm
        return float(np.sqrt((moved**2).sum(1)).max())

    @property
    def orientation(self) -> "Orientation":
        """The axis permutation and flips that bring the grid closest to RAS+."""
        return Orientation.of(self)

    @property
    def axcodes(self) -> str:
        """Three letters: towards which side of the patient each axis runs, as in 'LAS'."""
        orientation = self.orientation
        codes = ["", "", ""]
        for world, axis in enumerate(orientation.axes):
            codes[axis] = _CODES[world][0 if orientation.flips[world] else 1]
        return "".join(codes)

    def canonical(self) -> "Grid":
        """The same points on axes closest to RAS+."""
        return self.orientation.grid(self)

    def crop(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> "Grid":
        """The sub-grid of `shape` voxels that begins at index `start` (which may be negative)."""
        affine = np.array(self.affine)
        affine[:3, 3] = self.to_world(np.array(start, dtype=np.float64))
        return Grid(shape, affine)

    def reshaped(self, shape: tuple[int, int, int]) -> "Grid":
        """The same field of view cut into `shape` voxels: outer faces stay where they are.

        Only the counts enter the sampling positions, so orientation and rounding cannot.
        """
        ratio = np.array(self.shape) / np.array(shape)
        affine = np.array(self.affine)
        affine[:3, :3] = self.affine[:3, :3] * ratio
        affine[:3, 3] = self.to_world((ratio - 1) / 2)
        return Grid(shape, affine)

    def respaced(self, spacing_mm: tuple[float, float, float]) -> "Grid":
        """The same field of view at (nearly) another spacing: whole voxels, faces in place.

        Counts are rounded to a thousandth first, so that header noise cannot decide a half.
        """
        if not (np.isfinite(spacing_mm).all() and min(spacing_mm) > 0):
            raise ValueError(f"spacing_mm is {spacing_mm}; three positive millimetres are wanted")
        counts = [
            max(1, round(round(n * old / new, 3)))
            for n, old, new in zip(self.shape, self.spacing_mm, spacing_mm, strict=True)
        ]
        return self.reshaped((counts[0], counts[1], counts[2]))


def _leads_backwards(direction: Float[np.ndarray, "3"]) -> bool:
    """Whether the first component that is not zero is negative."""
    return bool(next((c for c in np.round(direction, 5) if c), 1.0) < 0)


@dataclass(frozen=True)
class Orientation:
    """For each world axis (R, A, S): which array axis serves it, and whether it runs backwards."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, grid: Grid) -> "Orientation":
        """Closest axis permutation: the one with the largest sum of direction cosines.

        Where two are equally close (axes at 45 degrees) the patient's own frame decides, so that
        a turned or mirrored copy of the grid always gets the same canonical axes.
        """
        direction = grid.affine[:3, :3] / np.sqrt((grid.affine[:3, :3] ** 2).sum(0))
        ranked = []
        for axes in itertools.permutations(range(3)):
            cosines = np.round(direction[range(3), axes], 5)
            flips = tuple(
                bool(cosine < 0 or (cosine == 0 and _leads_backwards(direction[:, axis])))
                for cosine, axis in zip(cosines, axes, strict=True)
            )
            turned = np.round(direction[:, axes] * np.where(flips, -1, 1), 5) + 0.0
            closeness = round(float(np.abs(cosines).sum()), 5)
            ranked.append(((closeness, *turned.ravel().tolist()), axes, flips))
        _, (a, b, c), (d, e, f) = max(ranked)
        return cls((a, b, c), (d, e, f))

    def apply(self, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Bring an array's last three axes to R, A, S order (a view)."""
        lead = array.ndim - 3
        moved = array.transpose(*range(lead), *(lead + a for a in self.axes))
        i, j, k = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return moved[..., i, j, k]

    def undo(self, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Take R, A, S axes back to the array's own order (a view)."""
        lead = array.ndim - 3
        i, j, k = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        moved = array[..., i, j, k]
        return moved.transpose(*range(lead), *(lead + int(i) for i in np.argsort(self.axes)))

    def grid(self, grid: Grid) -> Grid:
        """The grid of an array that `apply` has turned."""
        turn = np.zeros((4, 4))
        turn[3, 3] = 1
        for world, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            turn[axis, world] = -1 if flip else 1
            turn[axis, 3] = grid.shape[axis] - 1 if flip else 0
        shape = tuple(grid.shape[a] for a in self.axes)
        return Grid((shape[0], shape[1], shape[2]), grid.affine @ turn)
