"""Notes of `medseg check`: a guess is said, and nothing is refused for it."""

from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.data.notes import of_file
from medseg.io import formats


def test_a_header_without_codes_is_noted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((8, 7, 6), np.float32), None)
    image.header.set_zooms((1, 1, 2))
    nib.save(image, tmp_path / "x.nii.gz")
    (note,) = of_file(formats.read(tmp_path / "x.nii.gz"), "x")
    assert "both codes are 0" in note
    nib.save(nib.Nifti1Image(np.ones((8, 7, 6), np.float32), np.eye(4)), tmp_path / "y.nii.gz")
    assert not list(of_file(formats.read(tmp_path / "y.nii.gz"), "y"))
