"""Pooling of NESTED maps: `.npz` with x [b, n, c], mean and maximum of four, and the way back.

Unpooled means are each mean four times; the largest go back to their places, 0 elsewhere. Means to
1e-6 of the largest magnitude, all else exactly.
"""

import zipfile

import numpy as np
import torch
from row import Row, tensor_row

from medseg.nn.spherepool import max_pool_places, max_unpool, mean_pool, unpool

KNOWN = ("avg", "avg_unpool", "max", "max_indices", "max_unpool")
MEAN = 1e-6


def recognise(path):
    if path.suffix != ".npz":
        return False
    try:
        with np.load(path) as file:
            return "x" in file.files and bool({"avg", "max"} & set(file.files))
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        return False


def compare(path):
    with np.load(path) as file:
        numbers = {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    theirs = {name: numbers[name] for name in numbers if name != "x"}
    x = numbers["x"].transpose(1, 2)
    mean, (largest, places) = mean_pool(x), max_pool_places(x)
    ours = {
        "avg": mean.transpose(1, 2),
        "avg_unpool": unpool(mean).transpose(1, 2),
        "max": largest.transpose(1, 2),
        "max_indices": places,
        "max_unpool": max_unpool(largest, places).transpose(1, 2),
    }
    rows = [
        tensor_row(name, ours[name], theirs[name], tolerance(name, float(theirs[name].abs().max())))
        for name in KNOWN
        if name in theirs
    ]
    strangers = sorted(theirs.keys() - set(KNOWN))
    return rows + [Row(name, float("inf"), 0.0, "nothing here gives this") for name in strangers]


def tolerance(name, high):
    """How far a part may be off."""
    return MEAN * high if name.startswith("avg") else 0.0
