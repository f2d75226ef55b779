"""Gradient norms of all parameters of a 2018 IVD-Net: `*_gradnorms.json` beside state and io.

Tolerance 1e-5 of the largest norm; a bias before a batch normalisation has no gradient, and its
published norm is rounding alone. One row an encoder level, path or decoder stage.
"""

import torch
from formats.ivdnet_network import closest, pair, step
from row import Row, companion, json_object


def recognise(path):
    norms = json_object(path)
    return "out.weight" in norms and all(isinstance(norm, float | int) for norm in norms.values())


def compare(path):
    norms = json_object(path)
    state, io = pair(companion(path, "_gradnorms.json", "_state.safetensors"))
    stages = {}
    for name in norms:
        stages.setdefault(name.split(".")[0], []).append(name)
    wanted = {s: torch.tensor([norms[n] for n in names]).double() for s, names in stages.items()}
    unknown = sorted(norms.keys() - state.keys())
    if unknown:
        return [Row(name, float("inf"), 0.0, "no such tensor in the state") for name in unknown]

    def run(dtype, count):
        ours = step(state, io, dtype, count)
        return {
            stage: torch.stack([ours[f"grad.{name}"].norm().double() for name in names])
            for stage, names in stages.items()
        }

    bound = 1e-5 * max(norms.values())
    return closest(run, wanted, dict.fromkeys(wanted, bound))
