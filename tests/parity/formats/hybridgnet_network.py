"""A 2022 HybridGNet with its weights, inputs, outputs, gradients and three training steps.

Variant, organs and sizes follow from the tensors. Tolerances, with what was measured at sides of 64
and 256, with published and with fresh weights, between float32 and float64: landmarks and positions
1e-5 of the side (7e-6, once 1.1e-5); other values 1e-5 of the largest or of 1; gradients 5e-5 of
the largest (4e-6), and their norms 2e-4 (6e-5, for the log variance at a side of 256). Gradients
that cancel behind a normalisation are rounding alone, so norms in the encoder are measured by the
largest of their block. What no way of rounding meets is bound by twice the distance between our own
ways.

Without a lookup the untouched outputs are the same as the others. With one, how many samples the
published lookup takes hangs on the last bit of a position, so there the published positions are put
into our network.
"""

import torch
from hybridgnet_preset import arguments_of, is_upstream, members
from hybridgnet_steps import COLUMNS, closest, rectified
from row import Row, tensor_row, tensor_shapes
from safetensors.torch import load_file

from medseg.geometry import graph
from medseg.geometry.contour import contours

LANDMARKS, VALUES, GRADIENTS, NORMS, SUMS = 1e-5, 1e-5, 5e-5, 2e-5, 2e-4
GIVEN = {"param", "in", "mat"}


def recognise(path):
    shapes = tensor_shapes(path)
    return "in/image" in shapes and any(is_upstream(name) for name in members(shapes, "param"))


def compare(path):
    tensors = load_file(path)
    arguments = arguments_of(tensors)
    wanted = {n: t for n, t in tensors.items() if n.split("/")[0] not in GIVEN}
    history = wanted.pop("train_sr3/out_kld_total", None)
    if history is not None:
        wanted |= {f"train_sr3/{name}": history[:, i] for i, name in enumerate(COLUMNS)}
    wanted = rectified(wanted, arguments)
    tolerances = {name: tolerance(name, wanted) for name in wanted}
    rows = [*matrices(members(tensors, "mat"), arguments), *untouched(wanted, arguments)]
    return rows + closest(tensors, arguments, wanted, tolerances)


def matrices(theirs, arguments):
    """Rows of the graphs, exactly ours."""
    fine = contours(arguments["organs"])
    ours = {
        "A": graph.adjacency(fine),
        "AD": graph.adjacency(graph.coarse(fine)),
        "D": graph.down(fine),
        "U": graph.up(fine, circular=False),
    }
    return [
        tensor_row(f"mat/{name}", torch.from_numpy(ours[name]), matrix, 0.0)
        if name in ours
        else Row(f"mat/{name}", float("inf"), 0.0, "there is no such matrix here")
        for name, matrix in theirs.items()
    ]


def untouched(wanted, arguments):
    """Without a lookup, a row that the published outputs are the same with a fixed count."""
    pair = [wanted.get(name) for name in ("out_upstream/0", "out_sr3/0")]
    if arguments["lookups"] or any(tensor is None for tensor in pair):
        return []
    return [tensor_row("out_upstream/0 = out_sr3/0", *pair, 0.0)]


def tolerance(name, wanted):
    """How far a value may be from the published one."""
    group, _, rest = name.partition("/")
    high = float(wanted[name].abs().max()) if wanted[name].numel() else 0.0
    if group.startswith("out_") or name == "train_sr3/out_after3":
        return LANDMARKS
    if group == "grad_sr3":
        return GRADIENTS * high
    if group == "gradnorm_sr3" and not rest.startswith("encoder.dconv"):
        return SUMS * high
    if group == "gradnorm_sr3":
        block = ".".join(rest.split(".")[:2])
        norms = members(wanted, "gradnorm_sr3")
        return NORMS * max(float(n) for key, n in norms.items() if key.startswith(f"{block}."))
    return VALUES * max(high, 1.0)
