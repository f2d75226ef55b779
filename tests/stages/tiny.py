"""Small scans and real, untrained networks for the tests of stages."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from medseg import package


def model(folder, channels=("image",), *, seed=0, **fields):
    """A packaged U-Net with random weights; fields replace those of model.json."""
    ndim = fields.get("ndim", 2)
    sizes = {"in_channels": len(channels), "n_classes": 3}
    network = {
        "name": "unet",
        "class": "UNet",
        "arguments": {**sizes, "width": 4, "depth": 2, "ndim": ndim},
    }
    spec = {
        "task": {"name": "segment", "arguments": {}},
        "network": network,
        "channels": list(channels),
        "optional_channels": False,
        "labels": {"disc": [1, 2], "cord": [7]},
        "instances": [],
        "spacing_mm": None,
        "intensity": "zscore",
        "slice_axis": 2,
        "ndim": ndim,
        "patch_size": [8] * ndim,
        "postprocess": {},
        **fields,
    }
    torch.manual_seed(seed)
    package.save(Path(folder), package.build(spec["network"]), spec=spec)
    return Path(folder)


def scan(path, *, seed=0, shape=(13, 18, 7), affine=None, values=None):
    """A NIfTI file of noise, in an oblique frame unless an affine is given."""
    if values is None:
        values = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    tilt = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
    if affine is None:
        affine = np.eye(4)
        affine[:3, :3] = tilt * [1.0, 1.2, 2.5]
        affine[:3, 3] = [-7.5, 3.25, 11]
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, 2)
    image.set_qform(affine, 1)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return Path(path)
