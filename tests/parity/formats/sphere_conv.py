"""Chebyshev layers on the sphere: `.npz` with x, the rescaled Laplacian, weights, y and gradients.

`weight` [K, Fin, Fout] was read as [Fin, K, Fout] where the layer was made, so that the coefficient
of polynomial k and channel f is `weight.reshape(Fin, K, Fout)[f, k]`; a file may give these too, as
`weight_eff_fin_K_fout`. Tolerances: 1e-5 of the largest magnitude; the layout exactly.
"""

import zipfile

import numpy as np
import torch
from row import Row, tensor_row
from scipy import sparse

from medseg.geometry.skygraph import table
from medseg.nn.stencil import Stencil, chebyshev

NEEDED = {"x", "weight", "y", "lap_rowcol", "lap_data"}
SHARE = 1e-5


def recognise(path):
    if path.suffix != ".npz":
        return False
    try:
        with np.load(path) as file:
            return set(file.files) >= NEEDED
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        return False


def compare(path):
    with np.load(path) as file:
        numbers = {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}
    given = numbers["weight"]
    weight = effective(given).requires_grad_()
    x = numbers["x"].clone().requires_grad_()
    bias = numbers["bias"].clone().requires_grad_() if "bias" in numbers else None
    operator = stencil(numbers["lap_rowcol"], numbers["lap_data"], x.shape[1])
    y = chebyshev(x.transpose(0, 1), weight, operator=operator, bias=bias).transpose(0, 1)
    found = {"y": y}
    if "weight_eff_fin_K_fout" in numbers:
        found["weight_eff_fin_K_fout"] = weight.transpose(0, 1)
    if "grad_out" in numbers:
        y.backward(numbers["grad_out"])
        found["grad_x"] = x.grad
        found["grad_weight"] = weight.grad.transpose(0, 1).reshape(given.shape)
        found |= {} if bias is None else {"grad_bias": bias.grad}
    rows = [row(name, ours, numbers[name]) for name, ours in found.items() if name in numbers]
    strangers = sorted(numbers.keys() - NEEDED - found.keys() - {"bias", "grad_out"})
    return rows + [Row(name, float("inf"), 0.0, "nothing here gives this") for name in strangers]


def effective(weight):
    """What multiplies polynomial k of channel f, [K, Fin, Fout], of weights stored upstream."""
    order, i, o = weight.shape
    return weight.reshape(i, order, o).transpose(0, 1).contiguous()


def stencil(places, values, pixels):
    """The Laplacian's entries as a table, and as the table of the transposed one."""
    matrix = sparse.coo_array((values.numpy(), places.numpy()), (pixels, pixels)).tocsr()
    one, other = (
        map(torch.tensor, table(sparse.csr_matrix(m))) for m in (matrix, matrix.T.tocsr())
    )
    return Stencil(*one, Stencil(*other))


def row(name, ours, theirs):
    """The largest difference of a part, against a share of the largest magnitude."""
    share = 0.0 if name == "weight_eff_fin_K_fout" else SHARE
    return tensor_row(name, ours, theirs, share * float(theirs.abs().max()))
