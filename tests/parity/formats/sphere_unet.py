"""A decoder step of the authors' spherical U-Net in evaluation mode, on the Laplacian in the file.

`xlow` [b n/4 c] and `skip` [b n c] give `y` [b n d]; the state dict has `__` for its dots, and
`lap_rowcol`, `lap_data` are the rescaled Laplacian. Tolerance: 1e-5 of the largest value.
"""

import functools
import zipfile

import numpy as np
import torch
from row import tensor_row
from torch import nn

from medseg.nn.publishedsphere import coefficients, unit_key
from medseg.nn.spherepool import unpool
from medseg.nn.sphereunits import Unit, joined
from medseg.nn.stencil import Stencil, chebyshev

TENSORS = {"xlow", "skip", "y", "lap_rowcol", "lap_data"}


def recognise(path):
    if path.suffix != ".npz":
        return False
    try:
        with np.load(path) as file:
            names = set(file.files)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        return False
    return names >= TENSORS and any(unit_key(name.replace("__", ".")) for name in names)


def compare(path):
    with np.load(path) as file:
        tensors = {name: torch.from_numpy(file[name]) for name in file.files}
    operator = stencil(tensors["lap_rowcol"], tensors["lap_data"], tensors["skip"].shape[1])
    found = {"rise": {}, "first": {}}
    for name, tensor in tensors.items():
        if name not in TENSORS:
            place, inner = unit_key(name.replace("__", "."))
            weight = inner == "conv.weight"
            found[place][inner] = coefficients(tensor) if weight else tensor
    rise, join = (unit(state, operator) for state in found.values())
    x, skip = (tensors[name].transpose(1, 2) for name in ("xlow", "skip"))
    with torch.no_grad():
        ours = join(joined(rise(unpool(x)), skip))
    return [tensor_row("y", ours.transpose(1, 2), tensors["y"])]


def unit(state, operator):
    """Our unit with these tensors, on this operator."""
    order, i, o = state["conv.weight"].shape
    made = Unit(i, o, convolve=functools.partial(OnOperator, order=order, operator=operator))
    made.load_state_dict(state)
    return made.eval()


class OnOperator(nn.Module):
    """The convolution of `ChebConv` on an operator that is given."""

    def __init__(self, i, o, *, order, operator):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(order, i, o))
        self.bias = nn.Parameter(torch.empty(o))
        self.operator = operator

    def forward(self, x):
        rows = x.permute(2, 0, 1)
        y = chebyshev(rows, self.weight, operator=self.operator, bias=self.bias)
        return y.permute(1, 2, 0)


def stencil(places, values, pixels):
    """The table of a symmetric sparse matrix; what a row lacks is itself with weight 0."""
    rows, columns = places[:, order := torch.argsort(places[0], stable=True)]
    counts = torch.bincount(rows, minlength=pixels)
    slot = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    index = torch.arange(pixels)[:, None].repeat(1, int(counts.max()))
    weight = torch.zeros(index.shape)
    index[rows, slot], weight[rows, slot] = columns, values[order]
    return Stencil(index, weight)
