"""Two cases in the layouts of BraTS 2020 and 2023."""

import nibabel as nib
import numpy as np


def write(folder):
    """The folder that `--in` names."""
    rng = np.random.default_rng(0)
    old = ("BraTS20_Training_001", "_", ("t1", "t1ce", "t2", "flair"), (1, 2, 4))
    new = ("BraTS-GLI-00003-000", "-", ("t1n", "t1c", "t2w", "t2f"), (1, 2, 3))
    for case, mark, names, values in (old, new):
        (folder / case).mkdir(parents=True)
        for name in names:
            image = nib.Nifti1Image(rng.normal(100, 5, (10, 12, 6)).astype(np.float32), np.eye(4))
            nib.save(image, folder / case / f"{case}{mark}{name}.nii.gz")
        mask = rng.choice([0, *values], (10, 12, 6)).astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / case / f"{case}{mark}seg.nii.gz")
    return folder
