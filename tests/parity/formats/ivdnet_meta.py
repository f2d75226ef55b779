"""Provenance of an IVD-Net fixture, `meta.json`: parameter counts, the state's hash, statistics."""

import hashlib
import re

import torch
from row import Row, json_object
from safetensors.torch import load_file

from medseg.models.ivdnet import IVDNet, load_upstream


def recognise(path):
    meta = json_object(path)
    return str(meta.get("class_", "")).startswith("IVD_Net") and "ngf" in meta


def compare(path):
    meta = json_object(path)
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
    return rows + statistics(path, meta)


def statistics(path, meta):
    """Rows for mean and deviation of the logits, where the weights lie beside."""
    for state in sorted(path.parent.glob("*_state.safetensors")):
        if hashlib.sha256(state.read_bytes()).hexdigest() != meta.get("sha256_state"):
            continue
        x = load_file(state.with_name(state.name.replace("_state.", "_io.")))["x"]
        with torch.no_grad():
            logits = load_upstream(load_file(state)).eval()(x).double()
        ours = {"logits_mean": logits.mean(), "logits_std": logits.std()}
        return [
            Row(key, abs(float(value) - meta[key]), 1e-5 * abs(meta[key]))
            for key, value in ours.items()
            if key in meta
        ]
    return []
