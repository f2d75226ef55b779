"""Blocks of the 2018 IVD-Net by themselves, in evaluation mode, and its centre crop.

`NAME.sd.*` with `NAME.x` and `NAME.y` is an inception or a transposed block, `NAME.x` with
`NAME.y_..AxB` a crop to A x B. Channels and sizes follow from the tensors. Tolerance: 1e-5 of the
largest value, 1e-10 in float64, none for a crop.
"""

import re

import torch
from row import FLOAT64, tensor_row, tensor_shapes
from safetensors.torch import load_file

from medseg.models.ivdnet import Inception, centre_crop, up_block, upstream_block_key

CROP = re.compile(r"(.+)\.y_\D*(\d+)x(\d+)$")


def recognise(path):
    names = tensor_shapes(path)
    blocks = any(
        name.endswith((".sd.conv_2_output.0.weight", "deconv.sd.0.weight")) for name in names
    )
    return blocks or any(CROP.match(name) and name.startswith("crop") for name in names)


def compare(path):
    tensors = load_file(path)
    rows = []
    for name in sorted({key.split(".sd.")[0] for key in tensors if ".sd." in key}):
        prefix = f"{name}.sd."
        state = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        rows.append(block(name, state, tensors[f"{name}.x"], tensors[f"{name}.y"]))
    for key, theirs in tensors.items():
        if match := CROP.match(key):
            ours = centre_crop(tensors[f"{match[1]}.x"], (int(match[2]), int(match[3])))
            rows.append(tensor_row(key, ours, theirs, 0.0))
    return rows


def block(name, state, x, theirs):
    """The row of one block."""
    network = network_of(state).to(x.dtype).eval()
    with torch.no_grad():
        ours = network(x)
    return tensor_row(f"{name}.y", ours, theirs, FLOAT64 if x.dtype == torch.float64 else None)


def network_of(state):
    """Our block with the weights of an upstream block's state dict."""
    if "0.weight" in state:
        i, o = state["0.weight"].shape[:2]
        network = up_block(i, o, stride=(2, 2), ndim=2)
        network.load_state_dict(state)
        return network
    o, i = state["conv_1.0.weight"].shape[:2]
    network = Inception(i, o, ndim=2, factorised="conv_2_2.3.weight" in state)
    network.load_state_dict({upstream_block_key(key): tensor for key, tensor in state.items()})
    return network
