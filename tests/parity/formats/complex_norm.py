"""Complex batch and group norms of three libraries: two training steps, one in evaluation.

`param.*`, `buf_init.*`, batches `x0` and `x1`, outputs, buffers after each, gradients of the first
step, `y_eval_of_x0`. Converted: a gain (2, 2, C) goes with an epsilon that the running covariance
holds, (C, 2, 2) with a covariance by n - 1; two real norms keep a running variance by n - 1 and
normalise by n. Groups are told by the file's name, `_g2`. Tolerance: 1e-5 of the largest value,
1e-4 for gradients of weights.
"""

import re
from zipfile import BadZipFile

import numpy as np
import torch
from row import Row, tensor_row

from medseg.nn.complex.norm import BatchNorm, GroupNorm

KEYS = {"x0", "x1", "y0_train", "y1_train", "y_eval_of_x0", "cotangent0", "grad0_x"}
WEIGHTS = 1e-4
MOMENTUM = 0.1
COMMON = {"relative": False, "eps": 1e-5}


def recognise(path):
    if path.suffix != ".npz":
        return False
    try:
        with np.load(path) as file:
            return set(file.files) >= KEYS
    except (BadZipFile, OSError, ValueError):
        return False


def compare(path):
    with np.load(path) as file:
        found = {name: torch.from_numpy(file[name]) for name in file.files}
    if "param.bn.weight" in found:
        note = "no layer of ours: z · norm(|z|) / |z|, a real norm of the magnitude"
        return [Row("nothing compared", 0.0, 0.0, note)]
    if "param.bn_r.weight" in found or found["param.weight"].is_complex():
        return split(found)
    return white(found, path.stem)


def white(found, name):
    """The whitening norms."""
    weight = found["param.weight"]
    channels, last = found["x0"].shape[1], weight.shape[-1] == 2
    if "buf_init.running_mean" in found:
        own = {"unbiased": True} if last else {"eps_in_running": True}
        layer = BatchNorm(channels, symmetric=False, momentum=MOMENTUM, **own, **COMMON)
    else:
        groups = int(re.search(r"_g(\d+)$", name)[1])
        layer = GroupNorm(groups, channels, symmetric=False, **COMMON)

    def gain(theirs):
        return theirs if last else theirs.movedim(-1, 0)

    with torch.no_grad():
        layer.gain.copy_(gain(weight))
        layer.bias.copy_(pair(found["param.bias"]))
    if isinstance(layer, BatchNorm):
        load(layer, pair(found["buf_init.running_mean"]), gain(found["buf_init.running_var"]))
    rows = step(layer, found, 0)
    rows += [
        tensor_row("grad0.weight", layer.gain.grad, *allowed(gain(found["grad0.weight"]))),
        tensor_row("grad0.bias", layer.bias.grad, *allowed(pair(found["grad0.bias"]))),
    ]
    for number in (0, 1):
        rows += step(layer, found, number) if number else []
        if isinstance(layer, BatchNorm):
            mean, square = (found[f"buf_after{number}.running_{key}"] for key in ("mean", "var"))
            rows += running(layer, number, pair(mean), gain(square))
    return [*rows, evaluated(layer, found)]


def split(found):
    """Two real norms, by part (bn_r, bn_i) or with complex gains and stacked statistics."""
    layer = BatchNorm(found["x0"].shape[1], mode="split", momentum=MOMENTUM, **COMMON)

    def both(prefix, key):
        if "param.bn_r.weight" in found:
            return torch.stack([found[f"{prefix}.bn_{part}.{key}"] for part in "ri"], -1)
        return pair(found[f"{prefix}.{key}"])

    def square(prefix):
        return torch.diag_embed(both(prefix, "running_var"))

    with torch.no_grad():
        layer.gain.copy_(both("param", "weight"))
        layer.bias.copy_(both("param", "bias"))
    load(layer, both("buf_init", "running_mean"), square("buf_init"))
    rows = []
    count = found["x0"].numel() // found["x0"].shape[1]
    for number in (0, 1):
        before = layer.running_covariance.clone()
        rows += step(layer, found, number)
        if not number:
            theirs = {key: allowed(both("grad0", key)) for key in ("weight", "bias")}
            rows.append(tensor_row("grad0.weight", layer.gain.grad, *theirs["weight"]))
            rows.append(tensor_row("grad0.bias", layer.bias.grad, *theirs["bias"]))
        by_n = layer.running_covariance - (1 - MOMENTUM) * before
        layer.running_covariance.add_(by_n / (count - 1))
        prefix = f"buf_after{number}"
        found_mean = both(prefix, "running_mean")
        rows += running(layer, number, found_mean, square(prefix), parts=2)
    return [*rows, evaluated(layer, found)]


def pair(theirs):
    """Numbers per channel as (C, 2), from complex ones or from (2, C)."""
    return torch.view_as_real(theirs) if theirs.is_complex() else theirs.T


def load(layer, mean, square):
    """Their running statistics into ours."""
    layer.running_mean.copy_(mean)
    layer.running_covariance.copy_(three(square))


def three(square):
    """rr, ii and ri of matrices."""
    return torch.stack([square[:, 0, 0], square[:, 1, 1], square[:, 0, 1]], -1)


def step(layer, found, number):
    """A step in training; gradients of the first."""
    x = found[f"x{number}"].clone().requires_grad_()
    y = layer(x)
    if number:
        return [complex_row(f"y{number}_train", y, found)]
    y.backward(found["cotangent0"])
    return [complex_row("y0_train", y, found), complex_row("grad0_x", x.grad, found)]


def complex_row(name, ours, found):
    """A row of complex numbers, by their parts."""
    return tensor_row(name, *map(torch.view_as_real, (ours.detach(), found[name])))


def allowed(theirs):
    """Gradients of weights, and how far ours may be."""
    return theirs, WEIGHTS * float(theirs.abs().max())


def running(layer, number, mean, square, *, parts=3):
    """Rows of the running statistics; two real norms keep two numbers of the covariance."""
    ours = layer.running_covariance[:, :parts]
    return [
        tensor_row(f"buf_after{number}.running_mean", layer.running_mean, mean),
        tensor_row(f"buf_after{number}.running_var", ours, three(square)[:, :parts]),
    ]


def evaluated(layer, found):
    """The row of the first batch in evaluation."""
    with torch.no_grad():
        return complex_row("y_eval_of_x0", layer.eval()(found["x0"]), found)
