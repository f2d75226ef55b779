"""Voxel grids: where each voxel lies in the patient, in millimetres (RAS+, as in NIfTI)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Num

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
        """The same field of view at (nearly) another spacing: whole voxels, faces in place."""
        counts = [
            max(1, round(n * old / new))
            for n, old, new in zip(self.shape, self.spacing_mm, spacing_mm, strict=True)
        ]
        return self.reshaped((counts[0], counts[1], counts[2]))


@dataclass(frozen=True)
class Orientation:
    """For each world axis (R, A, S): which array axis serves it, and whether it runs backwards."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, grid: Grid) -> "Orientation":
        """Closest axis permutation: the one with the largest product of direction cosines.

        All six permutations are compared, so the answer does not depend on the array's axis order.
        """
        direction = grid.affine[:3, :3] / np.sqrt((grid.affine[:3, :3] ** 2).sum(0))
        orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
        scores = [
            round(float(sum(abs(direction[world, axis]) for world, axis in enumerate(o))), 9)
            for o in orders
        ]
        axes = orders[int(np.argmax(scores))]
        flips = tuple(bool(direction[world, axis] < 0) for world, axis in enumerate(axes))
        return cls(axes, (flips[0], flips[1], flips[2]))

    def apply(self, array: Num[np.ndarray, "*any"]) -> Num[np.ndarray, "*any"]:
        """Bring an array's last three axes to R, A, S order (a view)."""
        lead = array.ndim - 3
        moved = array.transpose(*range(lead), *(lead + a for a in self.axes))
        i, j, k = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return moved[..., i, j, k]

    def undo(self, array: Num[np.ndarray, "*any"]) -> Num[np.ndarray, "*any"]:
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
