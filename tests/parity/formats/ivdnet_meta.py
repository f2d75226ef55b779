"""Provenance of an IVD-Net fixture, `meta.json`, beside its state and io.

Parameter counts exactly, the state's hash, what the state and the image say of classes, width and
sizes; loss and statistics of the logits to 1e-5.
"""

import hashlib
import re

import torch
from companions import choose, fit, is_state, pair, plain
from rounding import closest, step
from row import RELATIVE, Row, json_object, largest, tensor_shapes

from medseg.models.ivdnet import IVDNet, load_upstream, upstream_arguments

STATISTICS = {"logits_mean", "logits_std", "loss_train", "max_abs_f32_vs_f64", "sha256_state"}


def recognise(path):
    meta = json_object(path)
    return str(meta.get("class_", "")).startswith("IVD_Net") and "ngf" in meta


def compare(path):
    meta = json_object(path)
    rows = counts(meta)
    if not STATISTICS & meta.keys():
        return rows
    state = state_beside(path, meta)
    if "sha256_state" in meta:
        found = hashlib.sha256(state.read_bytes()).hexdigest()
        differs = found != meta["sha256_state"]
        note = f"{state.name} beside has {found[:12]}…" if differs else state.name
        rows.append(Row("sha256_state", float(differs), 0, note))
    weights, io = pair(state)
    return rows + described(meta, weights, io) + statistics(meta, weights, io)


def counts(meta):
    """A row for every parameter count."""
    modalities = meta.get("x_shape", [1, 4])[1]
    factorised = "asym" in meta["class_"]
    rows = []
    for key, published in meta.items():
        if match := re.fullmatch(r"params_ngf(\d+)", key):
            arguments = {"width": int(match[1]), "factorised": factorised}
            with torch.device("meta"):
                network = IVDNet(modalities, meta["output_nc"], **arguments)
            ours = sum(parameter.numel() for parameter in network.parameters())
            rows.append(Row(key, abs(ours - published), 0))
    return rows


def state_beside(path, meta):
    """The state whose hash this is, else the one that fits what is said of it."""
    files = sorted(path.parent.glob("*.safetensors"))
    states = [file for file in files if is_state(tensor_shapes(file))]
    if not states:
        name = path.with_name("…_state.safetensors")
        raise FileNotFoundError(f"{path} needs the weights it tells of beside it, {name.name}")
    for state in states:
        if hashlib.sha256(state.read_bytes()).hexdigest() == meta.get("sha256_state"):
            return state

    def fits(file):
        shapes = tensor_shapes(file)
        if not is_state(shapes) or not any(fit(shapes, tensor_shapes(io)) for io in files):
            return False
        return not any(row.difference for row in network_rows(meta, plain(shapes)))

    try:
        return choose(path, "state", fits, lambda file: states.index(file))
    except FileNotFoundError:
        return states[0]


def network_rows(meta, shapes):
    """Rows for what the weights' shapes say."""
    network = upstream_arguments(shapes)
    ours = {
        "input_nc": shapes["down_1_0.conv_1.0.weight"][1],
        "output_nc": network["n_classes"],
        "ngf": network["width"],
    }
    rows = [differing(key, value, meta[key]) for key, value in ours.items() if key in meta]
    return [*rows, differing("class_", network["factorised"], "asym" in meta["class_"])]


def described(meta, weights, io):
    """Rows for what the companion files' shapes say."""
    rows = network_rows(meta, {name: tuple(t.shape) for name, t in weights.items()})
    if "x_shape" in meta:
        rows.append(differing("x_shape", [*io["x"].shape], meta["x_shape"]))
    return rows


def differing(name, ours, published):
    """A row that fails where two values are not the same."""
    note = "" if ours == published else f"{ours}, published {published}"
    return Row(name, float(ours != published), 0, note)


def statistics(meta, weights, io):
    """Rows for numbers that follow from weights and image."""
    with torch.no_grad():
        logits = load_upstream(weights).eval()(io["x"]).double()
    ours = {"logits_mean": logits.mean(), "logits_std": logits.std()}
    if {"logits_eval", "logits_eval_f64"} <= io.keys():
        # A difference of two published tensors: it is theirs alone, our rounding has no part in it.
        ours["max_abs_f32_vs_f64"] = largest(io["logits_eval"], io["logits_eval_f64"])
    rows = [
        Row(key, abs(float(value) - meta[key]), RELATIVE * abs(meta[key]))
        for key, value in ours.items()
        if key in meta
    ]
    if "loss_train" in meta and "y" in io:
        wanted = {"loss_train": torch.tensor([float(meta["loss_train"])])}
        rows += closest(lambda way: step(weights, io, way), io, wanted, {})
    return rows
