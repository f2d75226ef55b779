"""The files that belong to a published IVD-Net file: its weights, its inputs and outputs.

A companion lies beside the file. It is the one with the same prefix where that fits; otherwise the
one whose tensor names and shapes fit, under the shared name or any other; of several that fit, the
one whose numbers agree best.
"""

import re
from pathlib import Path

import torch
from row import largest, tensor_shapes
from safetensors.torch import load_file

from medseg.models.ivdnet import load_upstream, upstream_arguments, upstream_key

OUTPUT = re.compile(r"(?:(?:eval|grad)\.(?:down_\d+_\d+|bridge|deconv_\d+|up_\d+|out)\b|logits_)")
ROLE = re.compile(r"_(state|io|grad_?norms|norms|meta)$")


def mostly_upstream(names) -> bool:
    """Whether most names are those of a 2018 IVD-Net's tensors, from several of its stages."""
    known = [name for name in names if is_upstream(name.removeprefix("module."))]
    return len({name.split(".")[0] for name in known}) > 2 and 2 * len(known) > len(names)


def is_upstream(name: str) -> bool:
    try:
        return bool(upstream_key(name))
    except ValueError:
        return False


def is_state(shapes) -> bool:
    return mostly_upstream(shapes)


def is_io(shapes) -> bool:
    return not is_state(shapes) and any(OUTPUT.match(name) for name in shapes)


def plain(shapes):
    """Names without the prefix of a wrapped network."""
    return {name.removeprefix("module."): value for name, value in shapes.items()}


def parameters(shapes) -> set[str]:
    """Names of the parameters of a state: all but the running statistics."""
    return {n for n in shapes if not n.endswith(("running_mean", "running_var", "_tracked"))}


def fit(state, io) -> bool:
    """Whether a state can have taken these inputs and made these outputs, by names and shapes."""
    if not is_state(state) or not is_io(io) or len(io.get("x", ())) < 3:
        return False
    state = plain(state)
    try:
        network = upstream_arguments(state)
    except ValueError:
        return False
    batch, modalities, *size = io["x"]
    logits = [batch, network["n_classes"], *size]
    outputs = [shape for name, shape in io.items() if name.startswith("logits_")]
    first = io.get("eval.down_1_0", [batch, network["width"]])
    gradients = [(n.removeprefix("grad."), s) for n, s in io.items() if n.startswith("grad.")]
    return (
        modalities == network["in_channels"]
        and all(list(shape) == logits for shape in outputs)
        and first[1] == network["width"]
        and all(list(state.get(n.removesuffix("_f64"), ())) == list(s) for n, s in gradients)
    )


def beside(path: Path) -> list[Path]:
    """Other tensor files of the folder, those with a shared name first."""
    found = [f for f in path.parent.glob("*.safetensors") if f.resolve() != path.resolve()]
    return sorted(found, key=lambda f: (not f.stem.endswith(("_state", "_io")), f.name))


def choose(path: Path, role: str, fits, cost) -> Path:
    """The companion of a role: the same prefix, else what fits, at best the smallest cost."""
    own = path.with_name(f"{ROLE.sub('', path.stem)}_{role}.safetensors")
    if own.is_file() and fits(own):
        return own
    fitting = [file for file in beside(path) if fits(file)]
    if len(fitting) > 1:
        return min(fitting, key=lambda file: finite(cost(file)))
    if fitting:
        return fitting[0]
    if own.is_file():
        return own
    raise FileNotFoundError(
        f"{path} needs {own.name} beside it; no other .safetensors file there fits it either"
    )


def finite(cost: float) -> float:
    """A cost that can be ordered: what is no number comes last."""
    return cost if cost == cost else float("inf")


def pair(path: Path):
    """State and io tensors, whichever of the two files came."""
    shapes = tensor_shapes(path)
    if is_state(shapes):
        found = choose(
            path,
            "io",
            lambda file: fit(shapes, tensor_shapes(file)),
            lambda file: misfit(path, file),
        )
        return plain(load_file(path)), load_file(found)
    found = choose(
        path,
        "state",
        lambda file: fit(tensor_shapes(file), shapes),
        lambda file: misfit(file, path),
    )
    return plain(load_file(found)), load_file(path)


def misfit(state: Path, io: Path) -> float:
    """How far the outputs of a state are from those of an io file, by their evaluation logits."""
    tensors = load_file(io)
    theirs = tensors.get("logits_eval", tensors.get("logits_eval_f64"))
    if theirs is None:
        return float("inf")
    try:
        with torch.no_grad():
            return largest(load_upstream(load_file(state)).eval()(tensors["x"].float()), theirs)
    except (RuntimeError, ValueError, KeyError):
        return float("inf")
