"""Two cases in the layout of the JSRT download with SCR masks and published landmarks."""

import numpy as np
from PIL import Image

SIDE = 64
ORGANS = ("left lung", "right lung", "heart", "left clavicle", "right clavicle")


def write(folder):
    """The folder that `--in` names."""
    rng = np.random.default_rng(0)
    for fold, case in (("fold1", "JPCLN001"), ("fold2", "JPCNN002")):
        (folder / "All247images").mkdir(exist_ok=True)
        values = rng.integers(0, 4096, (SIDE, SIDE)).astype(">u2")
        values.tofile(folder / "All247images" / f"{case}.IMG")
        for place, organ in enumerate(ORGANS):
            home = folder / "scratch" / fold / "masks" / organ
            home.mkdir(parents=True)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[10 : 20 + 6 * place, 8 * place : 8 * place + 12] = 255
            Image.fromarray(mask).save(home / f"{case}.gif")
        points = rng.uniform(100, 900, 332)
        home = folder / "landmarks"
        home.mkdir(exist_ok=True)
        np.save(home / f"{case}.npy", points)
    (folder / "train_files.txt").write_text("JPCLN001.png\n")
    (folder / "test_files.txt").write_text("JPCNN002.png\n")
    return folder
