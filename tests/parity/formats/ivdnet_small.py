"""Corners of the published IVD-Net block numbers, small enough to lie here: `ivdnet_small.npz`.

The top left corner of a block's output depends on a corner of its input that is six pixels larger,
so weights, input corner and output corner of the published files still check every kernel,
dilation, padding, normalisation and residual. `shrink` made the file.
"""

import zipfile
from pathlib import Path

import numpy as np
import torch
from formats.ivdnet_blocks import network_of
from row import tensor_row, tensor_shapes
from safetensors.torch import load_file

from medseg.models.ivdnet import centre_crop

NAME = "ivdnet_small.npz"
CORNER, REACH = 4, 6
BLOCKS = ("sym", "asym", "deconv")


def recognise(path):
    if path.name != NAME:
        return False
    try:
        with np.load(path) as file:
            return bool(file.files)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        return False


def compare(path):
    with np.load(path) as file:
        numbers = {key: as_read(file[key]) for key in file.files}
    rows = []
    for name in BLOCKS:
        network = network_of(unpacked(numbers, name)).eval()
        theirs = numbers[f"{name}.y"]
        with torch.no_grad():
            ours = network(numbers[f"{name}.x"])
        corner = tuple(slice(0, n) for n in theirs.shape)
        rows.append(tensor_row(f"{name}.y", ours[corner], theirs))
    for name in ("crop", "crop_odd"):
        size = tuple(int(n) for n in numbers[f"{name}.size"])
        ours = centre_crop(numbers[f"{name}.x"], size)
        rows.append(tensor_row(f"{name}.y", ours, numbers[f"{name}.y"], 0.0))
    return rows


def as_read(array):
    """A tensor, or the texts of an array of bytes."""
    return (
        [text.decode() for text in array.tolist()]
        if array.dtype.kind == "S"
        else torch.from_numpy(array)
    )


def shrink(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the small file, from `ivdnet_blocks.safetensors`."""
    tensors = load_file(path)
    small = {}
    for name in BLOCKS:
        state = sorted(key for key in tensor_shapes(path) if key.startswith(f"{name}.sd."))
        state = [key for key in state if not key.endswith("num_batches_tracked")]
        small[f"{name}.keys"] = np.array([key.removeprefix(f"{name}.sd.") for key in state], "S40")
        shapes = [[*tensors[key].shape, *[0] * (4 - tensors[key].ndim)] for key in state]
        small[f"{name}.shapes"] = np.array(shapes, np.uint8)
        small[f"{name}.values"] = torch.cat([tensors[key].flatten() for key in state]).numpy()
        x, y = tensors[f"{name}.x"][:1], tensors[f"{name}.y"][:1]
        whole = name == "deconv"
        small[f"{name}.x"] = (x if whole else x[..., : CORNER + REACH, : CORNER + REACH]).numpy()
        small[f"{name}.y"] = (y if whole else y[..., :CORNER, :CORNER]).numpy()
    for name, key, size in (("crop", "crop.y_8x12", (8, 12)),
                            ("crop_odd", "crop_odd.y_request4x4", (4, 4))):  # fmt: skip
        small[f"{name}.x"] = tensors[f"{name}.x"][:1, :1].numpy()
        small[f"{name}.y"] = tensors[key][:1, :1].numpy()
        small[f"{name}.size"] = np.array(size, np.uint8)
    return small


def unpacked(numbers, name):
    """The state dict of a block, from its keys, shapes and joined values."""
    state, start = {}, 0
    for key, row in zip(numbers[f"{name}.keys"], numbers[f"{name}.shapes"].tolist(), strict=True):
        shape = [n for n in row if n]
        count = int(np.prod(shape))
        tensor = numbers[f"{name}.values"][start : start + count].reshape(shape)
        state[key] = tensor
        start += count
        if key.endswith("running_var"):
            state[key.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    return state
