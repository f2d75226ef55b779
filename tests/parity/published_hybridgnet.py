"""Makes files of the published HybridGNet format from our own network, to test the comparison."""

import torch
from hybridgnet_preset import build, by_name
from hybridgnet_steps import COLUMNS, computed, rounding
from safetensors.torch import save_file

from medseg.geometry import graph
from medseg.geometry.contour import contours
from medseg.nn.published import ORGANS, PRESET

SETS = {name: dict(list(ORGANS.items())[:n]) for name, n in (("L", 2), ("LH", 3), ("LHC", 5))}
PARTS = ("block.0", "block.2", "block.3", "block.5", "skip.0", "skip.1")


def upstream_names(steps, *, order=6, clean=False):
    """All names of the authors' state dict, in either naming."""
    for level in range(1, 7):
        for part in PARTS[: 6 if level < 6 else 4]:
            yield f"encoder.dconv_down{level}.{part}.weight"
            if part != "skip.0":
                yield f"encoder.dconv_down{level}.{part}.bias"
    for name in ("encoder.fc_mu", "encoder.fc_logvar", "dec_lin"):
        yield from (f"{name}.weight", f"{name}.bias")
    for number in range(6, 1, -1):
        yield f"graphConv_up{number}.bias"
        yield from (f"graphConv_up{number}.lins.{k}.weight" for k in range(order))
    yield "graphConv_up1.lins.0.weight"
    for step in range(1, steps + 1):
        head = f"SC_{step}.graphConv_pre" if clean else f"graphConv_pre{step if steps > 1 else ''}"
        yield f"{head}.lins.0.weight"


def middle_names(steps, *, clean=False):
    """Names of the values in between that a file holds."""
    yield from (f"encoder.dconv_down{level}" for level in (4, 5, 6))
    yield from ("mu", "log_var", "dec_lin", "graphConv_up1", "graphConv_up1.lins.0")
    for number in range(2, 7):
        name = f"graphConv_up{number}"
        yield from (f"normalization{number}u", name, f"{name}.aggr_module")
        yield from (f"{name}.lins.{k}" for k in (0, 1))
    for step in range(1, steps + 1):
        yield f"SC_{step}.graphConv_pre" if clean else f"graphConv_pre{step if steps > 1 else ''}"


def state_of(organs, lookups, *, size=64, pooling=True, clean=False, seed=0, **sizes):
    """A random network's state in the authors' names, and the network's arguments."""
    torch.manual_seed(seed)
    arguments = {"organs": organs, "lookups": lookups, "pooling": pooling, "size": size, **sizes}
    ours = build({}, arguments, load=False).state_dict()
    names = list(upstream_names(len(lookups), clean=clean))
    assert len({by_name(name, ours).data_ptr() for name in names}) == sum(
        len(t) if name.startswith("layers.") and t.ndim == 3 else 1 for name, t in ours.items()
    )
    return {name: by_name(name, ours).clone() for name in names}, arguments | PRESET


def write(path, organs, lookups, *, way=(torch.float32, 1, True), clean=False, seed=0, **sizes):
    """A file of a random network in the published format."""
    state, arguments = state_of(organs, lookups, clean=clean, seed=seed, **sizes)
    size, fine = arguments["size"], contours(organs)
    nodes = sum(contour.nodes for contour in fine)
    tensors = {f"param/{name}": tensor for name, tensor in state.items()}
    tensors |= {
        "in/image": torch.rand(2, 1, size, size),
        "in/target": torch.rand(2, nodes, 2),
        "in/eps": torch.randn(3, 2, state["dec_lin.weight"].shape[1]),
    }
    nothing = torch.zeros(1)
    asked = {f"mid/{name}": nothing for name in middle_names(len(lookups), clean=clean)}
    for name in state:
        asked[f"gradnorm_sr3/{name}"] = nothing
        if not name.startswith("encoder."):
            asked[f"grad_sr3/{name}"] = nothing
    with rounding(way):
        found = computed(tensors | asked, arguments, way[0])
        untouched = build(state, arguments).to(way[0]).eval()
        with torch.no_grad():
            encoding = untouched.encode(tensors["in/image"].to(way[0]))
            shape = untouched.decode(encoding.mu, encoding.maps)
    for number, value in enumerate((shape.landmarks, *shape.positions)):
        found[f"out_upstream/{number}"] = value
    if arguments["pooling"]:  # even nodes of each contour are its coarse ones
        few = torch.cat([torch.arange(contour.nodes) % 2 == 0 for contour in fine])
        found["mid/normalization4u"] = found["mid/normalization4u"][:, few]
    history = [found.pop(f"train_sr3/{name}") for name in COLUMNS]
    found = {name: value for name, value in found.items() if kept(name, asked)}
    found["train_sr3/out_kld_total"] = torch.stack(history, -1)
    found |= {
        "mat/A": torch.from_numpy(graph.adjacency(fine)),
        "mat/AD": torch.from_numpy(graph.adjacency(graph.coarse(fine))),
        "mat/D": torch.from_numpy(graph.down(fine)),
        "mat/U": torch.from_numpy(graph.up(fine, circular=False)),
    }
    floats = {name: t.detach().float().contiguous().clone() for name, t in found.items()}
    save_file(tensors | floats, path)


def kept(name, asked):
    return not name.startswith("mid/") or name in asked
