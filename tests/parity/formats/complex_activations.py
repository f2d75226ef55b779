"""Complex activations of other libraries: `z`, an array an activation, `grad_sumabs2.NAME`.

The gradient is that of the sum of |f(z)|². Which library a file is from shows in its names, since
two of them mean different things by one. Entries that are wrong by themselves, and those of no
layer of ours, are listed with that as their note. Tolerance: 1e-5 of the largest value.
"""

import zipfile

import numpy as np
import torch
from row import Row, tensor_row
from torch import nn

from medseg.nn.complex.activation import (
    AmplitudeThreshold,
    Cardioid,
    CReLU,
    ModReLU,
    ModSiLU,
    ModTanh,
    Split,
    ZReLU,
)

GRADIENT = "grad_sumabs2."
PARTS = {
    "CReLU": CReLU,
    "CSigmoid": lambda: Split(nn.Sigmoid()),
    "CTanh": lambda: Split(nn.Tanh()),
    "CVSplitTanh": lambda: Split(nn.Tanh()),
    "CPReLU": lambda: Split(nn.PReLU()),
    "CELU": lambda: Split(nn.ELU()),
    "CCELU": lambda: Split(nn.CELU()),
    "CGELU": lambda: Split(nn.GELU()),
}
OURS = {
    "complextorch": PARTS
    | {
        "zReLU": ZReLU,
        "modReLU": lambda: ModReLU(bias=-0.1),
        "AdaptiveModReLU": lambda: ModReLU(bias=-0.1),
        "CVCardiod": Cardioid,
        "CVPolarTanh": ModTanh,
        "zAbsReLU": lambda: AmplitudeThreshold(0.0, soft=False),
    },
    "torchcvnn": PARTS
    | {"zReLU": lambda: ZReLU(closed=False), "modReLU": ModReLU, "Cardioid": Cardioid},
    "pytorch-complex": PARTS
    | {
        "zReLU": lambda: ZReLU(closed=False),
        "CmodReLU": lambda: ModReLU(bias=-0.12406414747238159),
        "AdaptiveCmodReLU": lambda: ModReLU(bias=-0.03081992082297802),
        "CSiLU": ModSiLU,
    },
}
SIGNS = {"CVCardiod": "complextorch", "Cardioid": "torchcvnn", "CmodReLU": "pytorch-complex"}
WRONG = {
    "torchcvnn": {"zAbsReLU": "wrong by itself: its mask is the opposite of its documentation"},
    "pytorch-complex": {
        "Tanh": "wrong by itself: not the hyperbolic tangent",
        "Sigmoid": "wrong by itself: not the logistic function",
        "modReLU": "wrong by itself: NaN at zero",
        "Hirose": "wrong by itself: NaN at zero",
    },
}


def arrays(path):
    """The arrays of a file by name; none if it is no such file."""
    if path.suffix != ".npz":
        return {}
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        return {}


def recognise(path):
    names = arrays(path)
    return "z" in names and any(name.startswith(GRADIENT) for name in names)


def compare(path):
    found = {name: torch.from_numpy(array) for name, array in arrays(path).items()}
    library = library_of(path, found)
    z = found["z"].reshape(-1, 1)
    rows = []
    for name, theirs in found.items():
        kind = name.removeprefix(GRADIENT)
        if kind in WRONG.get(library, {}):
            rows.append(Row(name, 0.0, 0.0, WRONG[library][kind]))
        elif kind in OURS[library]:
            value, gradient = values(OURS[library][kind](), z)
            ours = gradient if name.startswith(GRADIENT) else value
            rows.append(row(name, ours.reshape(theirs.shape), theirs))
        elif name != "z":
            rows.append(Row(name, 0.0, 0.0, "no layer of ours"))
    return rows


def library_of(path, names):
    """Whose activations a file holds, by its name or else by a name that only they use."""
    known = [library for library in OURS if path.name.startswith(library)]
    known += [library for name, library in SIGNS.items() if name in names]
    if not known:
        raise ValueError(f"its library is none of {', '.join(OURS)}; name the file after it")
    return known[0]


def values(layer, z):
    """What a layer gives, and the gradient of the sum of its squared magnitudes."""
    z = z.clone().requires_grad_()
    value = layer(z)
    (gradient,) = torch.autograd.grad(value.abs().square().sum(), z)
    return value.detach(), gradient


def row(name, ours, theirs):
    """A row of complex numbers, by the larger part of their difference."""
    return tensor_row(name, torch.view_as_real(ours), torch.view_as_real(theirs))
