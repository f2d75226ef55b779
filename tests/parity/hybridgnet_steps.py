"""Everything that a published HybridGNet file can hold, computed by our network in one way.

A way of rounding is a type, a number of threads and whether oneDNN is used, as for IVD-Net: the
published numbers are float32 of one machine, and where rectifiers or maxima flip, only the same
rounding comes closer than twice the distance between ways.
"""

import contextlib
import re

import torch
from hybridgnet_preset import build, by_name, members
from rounding import WAYS as ALL
from rounding import strain, widened
from row import tensor_row
from torch.nn import functional

from medseg.geometry import graph
from medseg.geometry.contour import contours
from medseg.models.hybridgnet import published_key

COLUMNS = ("out", "kld", "total")
KL, RATE, DECAY = 1e-5, 1e-4, 1e-5
NOTHING = torch.zeros(0)
WAYS = sorted(ALL, key=lambda way: way[:2] != (torch.float32, 1))  # threads wait for busy cores


def closest(tensors, arguments, wanted, tolerances):
    """Rows of the way that comes closest; what it misses is bound by the distance of our ways."""
    tries = []
    for way in WAYS:
        with rounding(way):
            ours = {name: t.detach() for name, t in computed(tensors, arguments, way[0]).items()}
        rows = [
            tensor_row(name, ours.get(name, NOTHING), theirs, tolerances[name])
            for name, theirs in wanted.items()
        ]
        if all(row.passed for row in rows):
            return rows
        tries.append((strain(rows), len(tries), rows, ours))
    _, _, rows, _ = min(tries, key=lambda entry: entry[:2])
    return [row if row.passed else widened(row, [ours for *_, ours in tries]) for row in rows]


@contextlib.contextmanager
def rounding(way):
    """Threads and kernels of one way."""
    _, threads, onednn = way
    before = torch.get_num_threads()
    flags = torch.backends.mkldnn.flags
    torch.set_num_threads(threads)
    try:
        with flags(enabled=onednn, allow_tf32=torch.backends.mkldnn.allow_tf32):
            yield
    finally:
        torch.set_num_threads(before)


def computed(tensors, arguments, dtype):
    """Our values by the file's names, in one type."""
    state = members(tensors, "param")
    given = {name: t.to(dtype) for name, t in members(tensors, "in").items()}
    network = build(state, arguments, sampling="fixed").to(dtype).eval()
    found = evaluated(network, given["image"])
    found |= middle(network, given["image"], tensors)
    if "target" in given:
        found |= learned(network, given, tensors)
    if "target" in given and "eps" in given:
        found |= trained(build(state, arguments, sampling="fixed").to(dtype), given)
    untouched = build(state, arguments).to(dtype).eval()
    return found | upstream(untouched, given["image"], members(tensors, "out_upstream"))


@torch.no_grad()
def evaluated(network, image):
    """Landmarks and positions of the batch, and the landmarks of its first image alone."""
    encoding = network.encode(image)
    shape = network.decode(encoding.mu, encoding.maps)
    found = {f"out_sr3/{i}": t for i, t in enumerate((shape.landmarks, *shape.positions))}
    found |= {"mid/mu": encoding.mu, "mid/log_var": encoding.logvar}
    found |= {f"mid/encoder.dconv_down{i}": t for i, t in enumerate(network.encoder(image), 1)}
    return found | {"out_sr3_batch1/0": network(image[:1])}


@contextlib.contextmanager
def watched(network):
    """Inputs and outputs of the decoder's layers, by their names, filled in as it runs."""
    seen = {}
    names = re.compile(r"start|layers\.\d+|heads\.\d+|out")
    hooks = [
        module.register_forward_hook(
            lambda _module, inputs, output, name=name: seen.update({name: (inputs[0], output)})
        )
        for name, module in network.named_modules()
        if names.fullmatch(name)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def middle(network, image, tensors):
    """The decoder's values in between."""
    with watched(network) as seen:
        network(image)
    found = {"mid/dec_lin": seen["start"][1]}
    state = network.state_dict()
    for name in members(tensors, "mid"):
        base, _, part = name.partition(".lins.")
        base = base.removesuffix(".aggr_module")
        if "graphConv" not in base:
            continue
        module = published_key(f"{base}.lins.0.weight").partition("/")[0].removesuffix(".weight")
        entered, left = seen[module]
        if name == base or not module.startswith("layers."):
            found[f"mid/{name}"] = left
            continue
        terms = polynomials(network, int(module.split(".")[1]), state[f"{module}.weight"])
        if part:
            weight = state[f"{module}.weight"][int(part)]
            found[f"mid/{name}"] = functional.linear(terms[int(part)] @ entered, weight)
        else:  # what the last step of the recursion passed on along the edges
            found[f"mid/{name}"] = terms[1] @ terms[-2] @ entered
    return found | normalised(seen)


def polynomials(network, number, weight):
    """Chebyshev polynomials of a layer's graph; the first three layers act on the coarse one."""
    fine = network.organs
    few = graph.coarse(fine) if network.pooling and number < 3 else fine
    laplacian = graph.scaled_laplacian(graph.adjacency(few))
    return torch.from_numpy(graph.chebyshev(laplacian, len(weight))).to(weight)


def normalised(seen):
    """What follows a norm and a rectifier, taken from the input of the next layer."""
    names = [*(f"layers.{i}" for i in range(1, 5)), "out"]
    found = {}
    for number, name in enumerate(names):
        width = seen[f"layers.{number}"][1].shape[-1]
        found[f"mid/normalization{6 - number}u"] = seen[name][0][..., :width]
    return found


def rectified(wanted, arguments):
    """Published values of the norms as our next layer sees them: rectified, and unpooled once."""
    fine = contours(arguments["organs"])
    changed = {}
    for name, theirs in wanted.items():
        if name.startswith("mid/normalization"):
            changed[name] = theirs.relu()
        if name == "mid/normalization4u" and arguments["pooling"]:
            up = torch.from_numpy(graph.up(fine, circular=False)).to(theirs)
            changed[name] = up @ theirs.relu()
    return wanted | changed


def losses(network, encoding, latent, target):
    """The published loss and its parts: coordinates at every position, and the divergence."""
    shape = network.decode(latent, encoding.maps)
    down = torch.from_numpy(graph.down(network.organs)).to(target)
    mu, logvar = encoding.mu, encoding.logvar
    parts = {
        "out": functional.mse_loss(shape.landmarks, target),
        "kld": -0.5 * (1 + logvar - mu**2 - logvar.exp()).mean(),
    }
    for number, position in enumerate(shape.positions, 1):
        near = target if position.shape == target.shape else down @ target
        name = f"pre{number}" if len(shape.positions) > 1 else "pre"
        parts[name] = functional.mse_loss(position, near)
    parts["total"] = sum(KL * value if name == "kld" else value for name, value in parts.items())
    return parts


def learned(network, given, tensors):
    """Loss and gradients with the latent's mean."""
    encoding = network.encode(given["image"])
    parts = losses(network, encoding, encoding.mu, given["target"])
    network.zero_grad()
    parts["total"].backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    found = {f"loss_sr3/{name}": value.reshape(1) for name, value in parts.items()}
    for name in members(tensors, "grad_sr3"):
        found[f"grad_sr3/{name}"] = by_name(name, gradients)
    for name in members(tensors, "gradnorm_sr3"):
        found[f"gradnorm_sr3/{name}"] = by_name(name, gradients).norm().reshape(1)
    return found


def trained(network, given):
    """Three steps of Adam, each with the latent drawn by its own noise, and what they lead to."""
    optimiser = torch.optim.Adam(network.train().parameters(), lr=RATE, weight_decay=DECAY)
    rows = []
    for noise in given["eps"]:
        encoding = network.encode(given["image"])
        latent = encoding.mu + noise * (0.5 * encoding.logvar).exp()
        parts = losses(network, encoding, latent, given["target"])
        optimiser.zero_grad()
        parts["total"].backward()
        optimiser.step()
        rows.append(torch.stack([parts[name].detach() for name in COLUMNS]))
    with torch.no_grad():
        after = network.eval()(given["image"])
    columns = {f"train_sr3/{name}": torch.stack(rows)[:, i] for i, name in enumerate(COLUMNS)}
    return columns | {"train_sr3/out_after3": after}


@torch.no_grad()
def upstream(network, image, theirs):
    """Outputs with the adaptive lookup, each at the positions that the published network took."""
    heads = [module for _, module in sorted(network.heads.named_children())]
    positions, hooks = {}, []
    for number, head in enumerate(heads, 1):
        if str(number) not in theirs:
            return {}

        def put(_module, _inputs, output, number=number):
            positions[number] = output
            return theirs[str(number)].to(output)

        hooks.append(head.register_forward_hook(put))
    landmarks = network(image)
    for hook in hooks:
        hook.remove()
    found = {0: landmarks, **positions}
    return {f"out_upstream/{number}": value for number, value in found.items()}
