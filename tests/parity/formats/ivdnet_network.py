"""A 2018 IVD-Net as `*_state.safetensors` with `*_io.safetensors`: outputs, loss, gradients.

Either file may be given. Width, modalities, classes, kernels and sizes follow from the tensors.
Tolerances: float64 1e-10; float32 logits in evaluation 2e-4, in training 5e-5; stages, loss and
gradients 1e-5 of their largest value.
"""

import torch
from companions import is_io, is_state, pair
from rounding import SAME, agreeing, closest, exact_rows, step, strain
from row import FLOAT64, Row, tensor_row, tensor_shapes

from medseg.models.ivdnet import load_upstream

EVALUATION, TRAINING = 2e-4, 5e-5
INPUTS = {"x", "y"}
THREADS = (2, 1, 4)


def recognise(path):
    shapes = tensor_shapes(path)
    return is_state(shapes) or is_io(shapes)


def compare(path):
    state, io = pair(path)
    if "x" not in io:
        raise ValueError("the inputs and outputs hold no image x")
    evaluation = {n: t for n, t in io.items() if n.startswith(("eval.", "logits_eval"))}
    training = {n: t for n, t in io.items() if n not in evaluation and n not in INPUTS}
    return evaluated(state, io["x"], evaluation) + trained(state, io, training)


def stages(network):
    """Upstream's stage names and our modules."""
    for level, paths in enumerate(network.encoder, start=1):
        for path, block in enumerate(paths):
            yield f"down_{level}_{path}", block
    yield "bridge", network.bridge
    for step_, (up, block) in enumerate(zip(network.up, network.decoder, strict=True), start=1):
        yield f"deconv_{step_}", up
        yield f"up_{step_}", block
    yield "out", network.head


def evaluated(state, x, wanted):
    """Rows for everything in evaluation mode, of the thread count that comes closest."""
    tries = []
    for threads in THREADS if wanted else ():
        outputs = forward(state, x, threads)
        rows = [evaluation_row(name, theirs, outputs) for name, theirs in wanted.items()]
        same = agreeing(outputs["logits_eval"], wanted.get("logits_eval")) > SAME
        if same or all(row.passed for row in rows):
            return rows
        tries.append((strain(rows), len(tries), rows))
    return min(tries)[2] if tries else []


def forward(state, x, threads):
    """Every stage's output and the logits in evaluation mode, in float32 and float64."""
    outputs = {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for dtype, ending in ((torch.float32, ""), (torch.float64, "_f64")):
            network = load_upstream(state).to(dtype).eval()
            for name, module in stages(network):
                key = f"eval.{name}{ending}"
                module.register_forward_hook(lambda _m, _i, y, key=key: outputs.update({key: y}))
            with torch.no_grad():
                outputs[f"logits_eval{ending}"] = network(x.to(dtype))
    finally:
        torch.set_num_threads(before)
    return outputs


def evaluation_row(name, theirs, outputs):
    """The row of one output; float64 values are compared with ours in float64."""
    exact = theirs.dtype == torch.float64
    key = name.removesuffix("_f64") + ("_f64" if exact else "")
    if key not in outputs:
        return Row(name, float("inf"), 0.0, "the network has no such output")
    logits = name.startswith(("logits", "eval.out"))
    tolerance = FLOAT64 if exact else EVALUATION if logits else None
    return tensor_row(name, outputs[key], theirs, tolerance)


def trained(state, io, wanted):
    """Rows for one step in training mode."""
    if wanted and "y" not in io:
        return [Row(name, float("inf"), 0.0, "no labels y to train with") for name in wanted]
    exact = {name: t for name, t in wanted.items() if t.dtype == torch.float64}
    plain = {name: t for name, t in wanted.items() if name not in exact}
    rows = exact_rows(state, io, exact) if exact else []
    if plain:
        rows += closest(lambda way: step(state, io, way), io, plain, {"logits_train": TRAINING})
    return rows
