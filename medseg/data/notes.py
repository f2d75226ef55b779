"""What is worth a look in raw cases and yet no problem: `medseg check` lists it and goes on."""

from collections.abc import Iterator, Mapping

import numpy as np

from medseg.geometry.grid import Grid
from medseg.sample import Sample

SHEAR = 1e-3
SPACING_RATIO = 3.0


def of_file(sample: Sample, name: str) -> Iterator[str]:
    """A header that does not say where the voxels lie, or whose axes are not at right angles."""
    if sample.meta.get("qform_code") == 0 and sample.meta.get("sform_code") == 0:
        yield (
            f"{name}: the header has neither qform nor sform (both codes are 0), so left and right "
            "are a guess; convert the scan again from DICOM"
        )
    axes = sample.grid.affine[:3, :3] / np.sqrt((sample.grid.affine[:3, :3] ** 2).sum(0))
    lean = np.abs(axes.T @ axes - np.eye(3)).max()
    if lean > SHEAR:
        degrees = np.degrees(np.arcsin(min(1.0, lean)))
        yield f"{name}: the axes are sheared by {degrees:.2g} degrees; lengths are approximate"


def of_spacings(grids: Mapping[str, Grid]) -> Iterator[str]:
    """Cases whose spacing along an axis of R, A, S differs by more than a factor of three."""
    spacings = {case: grid.canonical().spacing_mm for case, grid in grids.items()}
    for axis, letter in enumerate("RAS"):
        along = {case: spacing[axis] for case, spacing in spacings.items()}
        if not along:
            return
        fine, coarse = min(along, key=along.__getitem__), max(along, key=along.__getitem__)
        if along[coarse] > SPACING_RATIO * along[fine]:
            yield (
                f"spacing along {letter} runs from {along[fine]:g} mm ({fine}) to "
                f"{along[coarse]:g} mm ({coarse}); data.spacing_mm brings all cases to one"
            )
