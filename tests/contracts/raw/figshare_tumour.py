"""Two slices in the layout of figshare 1512427, one of each size, and their folds."""

import h5py
import numpy as np


def write(folder):
    """The folder that `--in` names."""
    rng = np.random.default_rng(0)
    for number, home, side in ((1, "brainTumorDataPublic_1-766", 64), (767, "767-1532", 32)):
        (folder / home).mkdir(parents=True)
        with h5py.File(folder / home / f"{number}.mat", "w") as file:
            data = file.create_group("cjdata")
            data["label"] = np.array([[1 + number % 3]], np.float64)
            data["PID"] = np.frombuffer(f"10{number:04d}".encode(), np.uint8)[:, None].astype("u2")
            data["image"] = rng.integers(0, 4000, (side, side)).astype(np.int16)
            mask = np.zeros((side, side), np.uint8)
            mask[5:11, 8:20] = 1
            data["tumorMask"] = mask
            data["tumorBorder"] = np.array([[8.0, 5, 19, 5, 19, 10, 8, 10]])
    with h5py.File(folder / "cvind.mat", "w") as file:
        file["cvind"] = (np.arange(1, 1533) % 5 + 1.0)[None]
    return folder
