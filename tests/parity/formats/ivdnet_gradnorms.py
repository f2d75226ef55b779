"""Gradient norms of all parameters of a 2018 IVD-Net: `*_gradnorms.json` beside state and io.

Tolerance: 1e-5 of each norm. A bias before a batch normalisation has no gradient and its published
norm is rounding alone, so its tolerance is 1e-5 of its weight's norm (measured: 1e-6). One row an
encoder level and path or decoder stage, relative to these scales; one for names that lack or that
the network does not have.
"""

import torch
from companions import choose, fit, mostly_upstream, pair, parameters, plain
from rounding import WAYS, closest, step, weight_of
from row import RELATIVE, Row, json_object, tensor_shapes
from safetensors.torch import load_file

SMALLEST = 1e-4


def recognise(path):
    norms = json_object(path)
    lists = any(isinstance(norm, list) for norm in norms.values())
    return mostly_upstream(norms) and not lists


def compare(path):
    norms = plain(json_object(path))
    state, io = tensors_beside(path, norms)
    wanted = parameters(state)
    rows = names("parameters without a norm", wanted - norms.keys())
    rows += names("norms of no parameter", norms.keys() - wanted)
    odd = {name for name in norms if not isinstance(norms[name], float | int)}
    rows += names("norms that are no number", odd)
    known = {name: float(norms[name]) for name in norms if name in wanted and name not in odd}
    return rows + norm_rows(known, state, io)


def names(title, found):
    """A row that fails if there are such names."""
    return [Row(title, len(found), 0, ", ".join(sorted(found)[:3]))]


def tensors_beside(path, norms):
    """State and io tensors that these norms belong to."""

    def fits(file):
        shapes = plain(tensor_shapes(file))
        shared = len(parameters(shapes) & norms.keys())
        close = 2 * shared > max(len(parameters(shapes)), len(norms))
        return close and any(fit(shapes, tensor_shapes(io)) for io in tensor_files(path))

    def cost(file):
        ours = step(*pair(file), WAYS[0])
        return sum(
            abs(float(ours[f"grad.{name}"].norm()) - norms[name]) / (norms[name] or 1.0)
            for name in ("out.weight", "out.bias")
            if name in norms
        )

    state = choose(path, "state", fits, cost)
    own = state.with_name(path.stem.rpartition("_")[0] + "_io.safetensors")
    if own.is_file() and fit(tensor_shapes(state), tensor_shapes(own)):
        return plain(load_file(state)), load_file(own)
    return pair(state)


def tensor_files(path):
    return sorted(path.parent.glob("*.safetensors"))


def scales(norms):
    """What each norm's difference is measured by."""
    scale = {}
    largest = {}
    for name, norm in norms.items():
        stage = name.split(".")[0]
        largest[stage] = max(largest.get(stage, 0.0), abs(norm))
    for name, norm in norms.items():
        floor = SMALLEST * largest[name.split(".")[0]] or 1.0
        scale[name] = max(abs(norms.get(weight_of(name), norm)), floor)
    return scale


def norm_rows(norms, state, io):
    """A row a stage, its norms relative to their scales."""
    stages = {}
    for name in norms:
        stages.setdefault(name.split(".")[0], []).append(name)
    scale = scales(norms)
    wanted = {
        stage: torch.tensor([norms[n] / scale[n] for n in members]).double()
        for stage, members in stages.items()
    }

    def run(way):
        ours = step(state, io, way)
        found = {
            stage: torch.stack([ours[f"grad.{n}"].double().norm() / scale[n] for n in members])
            for stage, members in stages.items()
        }
        return {"logits_train": ours["logits_train"], **found}

    return closest(run, io, wanted, dict.fromkeys(wanted, RELATIVE))
