"""What HybridGNet's decoder is made of: graphs, Chebyshev layers, pooling, the norm, lookups.

Tolerances: graphs exactly; lookups with the adaptive count exactly (the same float32 operations in
the same order), of the fixed count, where both take as many samples, 1e-5; all else 1e-5.
"""

import re

import torch
from hybridgnet_preset import members, organs_of
from row import Row, tensor_row, tensor_shapes
from safetensors.torch import load_file
from torch.nn import functional

from medseg.geometry import graph
from medseg.geometry.contour import contours
from medseg.nn.graph import ChebConv
from medseg.nn.lookup import lookup, lookup_adaptive

TOLERANCE = 1e-5
GROUPS = {"mat", "cheb", "norm", "pool", "roi"}


def recognise(path):
    shapes = tensor_shapes(path)
    return bool(shapes) and {name.split("/")[0] for name in shapes} <= GROUPS


def compare(path):
    tensors = load_file(path)
    found = {group: members(tensors, group) for group in GROUPS}
    rows = [row for group, theirs in found.items() if theirs for row in ROWS[group](theirs, found)]
    seen = {row.name for row in rows} | {name for name in tensors if is_given(name)}
    unknown = sorted(tensors.keys() - seen)
    return rows + [Row(name, float("inf"), 0.0, "nothing here gives this") for name in unknown]


def is_given(name):
    """Whether a tensor is what an operator is applied to."""
    return bool(re.search(r"(/x|/x_\w+|/bias|/lin\d+|roi/fm|roi/pos)$", name))


def matrices(theirs, _):
    """Every graph matrix, from the organs that its A shows."""
    rows = []
    for name, matrix in theirs.items():
        group, _, kind = name.rpartition("/")
        organs = organs_of(theirs[f"{group}/A" if group else "A"])
        rows.append(tensor_row(f"mat/{name}", ours_of(kind, organs), matrix, 0.0))
    return rows


def ours_of(kind, organs):
    """A, AD, D or U of a set of organs."""
    fine = contours(organs)
    made = {
        "A": lambda: graph.adjacency(fine),
        "AD": lambda: graph.adjacency(graph.coarse(fine)),
        "D": lambda: graph.down(fine),
        "U": lambda: graph.up(fine, circular=False),
    }
    return torch.from_numpy(made[kind]()) if kind in made else torch.empty(0)


def largest_graph(found, nodes):
    """The published graph with so many nodes."""
    for name, matrix in found["mat"].items():
        if name.split("/")[-1] == "A" and len(matrix) == nodes:
            return name, matrix
    raise KeyError(f"graph of {nodes} nodes among its mat/…/A")


def layers(theirs, found):
    """Chebyshev layers of every order."""
    x = theirs["x"]
    _, adjacency = largest_graph(found, x.shape[1])
    rows = []
    for order in sorted({name.split("/")[0] for name in theirs if "/" in name}):
        count = len([name for name in theirs if name.startswith(f"{order}/lin")])
        weight = torch.stack([theirs[f"{order}/lin{k}"] for k in range(count)])
        bias = theirs.get(f"{order}/bias")
        layer = ChebConv(
            weight.shape[2],
            weight.shape[1],
            adjacency=adjacency.double().numpy(),
            order=count,
            bias=bias is not None,
        )
        state = {"weight": weight} | ({} if bias is None else {"bias": bias})
        layer.load_state_dict(state)
        with torch.no_grad():
            ours = layer(x)
        rows.append(tensor_row(f"cheb/{order}/out", ours, theirs[f"{order}/out"], TOLERANCE))
    return rows


def norms(theirs, _):
    """The norm without learned numbers: every node's features by themselves."""
    ours = functional.layer_norm(theirs["x"], theirs["x"].shape[-1:])
    return [tensor_row("norm/out", ours, theirs["out"], TOLERANCE)]


def pooled(theirs, found):
    """Halving and doubling of contours."""
    rows = []
    if "down" in theirs:
        fine = theirs["x_fine"]
        _, adjacency = largest_graph(found, fine.shape[1])
        ours = ours_of("D", organs_of(adjacency)).float() @ fine
        rows.append(tensor_row("pool/down", ours, theirs["down"], TOLERANCE))
    if "up" in theirs:
        _, adjacency = largest_graph(found, theirs["up"].shape[1])
        ours = ours_of("U", organs_of(adjacency)).float() @ theirs["x_coarse"]
        rows.append(tensor_row("pool/up", ours, theirs["up"], TOLERANCE))
    return rows


def lookups(theirs, _):
    """Image features for every window."""
    rows = []
    positions, maps = theirs["pos"], theirs["fm"]
    for name in sorted(theirs.keys() - {"pos", "fm"}):
        window = int(name.removeprefix("w"))
        ours = lookup_adaptive(positions, maps, window=window)
        rows.append(tensor_row(f"roi/{name}", ours, theirs[name], 0.0))
        same = same_count(positions, maps.shape[-1], window)
        fixed = lookup(positions, maps, window=window, shift=0.0)
        note = f"{int(same.sum())} of {same.numel()} lookups take as many samples"
        row = tensor_row("", fixed[same], theirs[name][same], TOLERANCE)
        rows.append(Row(f"roi/{name} fixed count", row.difference, TOLERANCE, note))
    return rows


def same_count(positions, side, window):
    """Which boxes are, rounded in float32, no wider than their number of samples."""
    reach = window // 2
    centre = positions * side
    extent = ((centre + reach + 1) - 0.5) - ((centre - reach) - 0.5)
    return (extent.ceil() == 2 * reach + 1).all(-1)


ROWS = {"mat": matrices, "cheb": layers, "norm": norms, "pool": pooled, "roi": lookups}
