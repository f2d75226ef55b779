"""Makes files of the published IVD-Net formats from our own network, to test the comparison."""

import hashlib
import json

import torch
from formats.ivdnet_network import forward
from rounding import WAYS, step
from safetensors.torch import save_file

from medseg.models.ivdnet import IVDNet, upstream_key


def upstream_names(paths, depth, factorised=True):
    """All names of the authors' state dict."""
    tensors = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def unit(prefix, at=0):
        yield from (f"{prefix}.{at}.{name}" for name in tensors[:2])
        yield from (f"{prefix}.{at + 1}.{name}" for name in tensors)

    def block(prefix, factorised):
        for part in ("conv_1", "conv_2_output", "conv_3"):
            yield from unit(f"{prefix}.{part}")
        for branch in range(1, 6):
            yield from unit(f"{prefix}.conv_2_{branch}")
            if factorised:
                yield from unit(f"{prefix}.conv_2_{branch}", 3)

    for level in range(1, depth + 1):
        for path in range(paths):
            yield from block(f"down_{level}_{path}", factorised)
        yield from unit(f"deconv_{level}")
        yield from block(f"up_{level}", False)
    yield from block("bridge", factorised)
    yield from ("out.weight", "out.bias")


def write(folder, prefix, *, modalities=2, classes=2, width=2, size=(32, 64), factorised=True,
          seed=0):  # fmt: skip
    """State, io, gradient norms and `meta.json` of a random network."""
    torch.manual_seed(seed)
    network = IVDNet(modalities, classes, width=width, factorised=factorised, history="crop")
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.add_(0.1 * torch.rand_like(tensor))
    ours = network.state_dict()
    names = list(upstream_names(modalities, 4, factorised))
    assert len(names) == len(ours)
    state = {name: ours[upstream_key(name)].clone() for name in names}
    io = {"x": torch.rand(2, modalities, *size), "y": torch.randint(0, classes, (2, *size))}
    outputs = {name: t.clone() for name, t in forward(state, io["x"], 2).items()}
    exact = {n for n in outputs if n.endswith("_f64")} - {"logits_eval_f64"}
    outputs = {name: t for name, t in outputs.items() if name not in exact}
    trained = step(state, io, WAYS[0])
    chosen = ("logits_train", "loss_train", "grad.out.weight", "grad.deconv_1.0.weight")
    io |= outputs | {name: trained[name].clone() for name in chosen}
    save_file(state, folder / f"{prefix}_state.safetensors")
    save_file(io, folder / f"{prefix}_io.safetensors")
    norms = {n: float(trained[f"grad.{n}"].norm()) for n in names if f"grad.{n}" in trained}
    (folder / f"{prefix}_gradnorms.json").write_text(json.dumps(norms))
    meta = {
        "class_": "IVD_Net_asym" if factorised else "IVD_Net",
        "input_nc": 1,
        "output_nc": classes,
        "ngf": width,
        f"params_ngf{width}": sum(p.numel() for p in network.parameters()),
        "x_shape": [2, modalities, *size],
        "loss_train": float(trained["loss_train"]),
        "logits_mean": float(outputs["logits_eval"].double().mean()),
        "sha256_state": hashlib.sha256(
            (folder / f"{prefix}_state.safetensors").read_bytes()
        ).hexdigest(),
    }
    (folder / "meta.json").write_text(json.dumps(meta))
