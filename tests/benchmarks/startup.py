"""Start-up: a whole `medseg predict` of a small scan against `import lightning` alone."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 5


def _small(folder):
    """A model and a scan so small that computing with them takes no time."""
    import nibabel
    import numpy as np

    from medseg import package

    sizes = {"in_channels": 1, "n_classes": 2, "width": 4, "depth": 2}
    network = {"name": "unet", "class": "UNet", "arguments": sizes}
    spec = {
        "task": {"name": "segment", "arguments": {}},
        "network": network,
        "channels": ["image"],
        "labels": {"disc": [1]},
        "spacing_mm": None,
        "intensity": "zscore",
        "slice_axis": 2,
        "ndim": 2,
        "patch_size": [8, 8],
    }
    package.save(folder / "model", package.build(network), spec=spec)
    values = np.random.default_rng(0).normal(size=(16, 16, 4)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "scan.nii.gz")


def _seconds(command):
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def bench() -> list[dict]:
    """One row; the two run in turn, and the fastest of each counts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _small(folder)
        out = folder / "out"
        ours = [sys.executable, "-m", "medseg.cli", "predict", folder / "model",
                folder / "scan.nii.gz", "--out", out, "--overwrite"]  # fmt: skip
        peer = [sys.executable, "-c", "import lightning"]
        times = [(_seconds(ours), _seconds(peer)) for _ in range(ROUNDS)]
        whole = (out / "scan.nii.gz").is_file() and (out / "scan.json").is_file()
    ours_s, peer_s = (min(column) for column in zip(*times, strict=True))
    return [
        {
            "subject": "predict start-up",
            "ours_s": ours_s,
            "peer_s": peer_s,
            "peer": "import lightning",
            "ratio": peer_s / ours_s,
            "bound": 1 / 0.6,
            "equal": whole,
            "note": "a whole `medseg predict` of a 16x16x4 scan; no values to compare",
        }
    ]
