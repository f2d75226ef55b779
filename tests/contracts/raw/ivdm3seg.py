"""Two cases in the layout of the IVDM3Seg challenge."""

import nibabel as nib
import numpy as np


def write(folder):
    """The folder that `--in` names."""
    rng = np.random.default_rng(0)
    for case in ("01", "02"):
        (folder / case).mkdir(parents=True)
        for name in ("fat", "inn", "opp", "wat"):
            image = nib.Nifti1Image(rng.normal(100, 5, (6, 12, 10)).astype(np.float32), np.eye(4))
            nib.save(image, folder / case / f"{case}_{name}.nii")
        mask = np.zeros((6, 12, 10), np.uint8)
        mask[2:4, 4:7, 3:6] = 1
        nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / case / f"{case}_Labels.nii")
    return folder
