"""Chebyshev convolution on the sphere on one thread, against torch-geometric's; memory by size."""

import subprocess
import sys
import time
from statistics import median

import torch

ROUNDS = 7
NSIDE, CHANNELS, ORDER = 64, 64, 5
GRAPH = {"kind": "healpix8", "laplacian": "normalized"}
NSIDES = (32, 64, 128, 256)
STEP = """
import sys
import torch
from medseg.nn.sphere import ChebConv
torch.set_num_threads(1)
def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))
def step(nside):
    x = torch.zeros(1, 16, 12 * nside**2).requires_grad_()
    layer(x).square().mean().backward()
layer = ChebConv(16, 16, order=5, kind="healpix8")
step(4)
before = status("VmRSS")
step(int(sys.argv[1]))
print(status("VmHWM") - before)
"""


def bench():
    """Forward, forward and backward, and what a training step takes at four sizes of the sky."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*layers(), memory()]
    finally:
        torch.set_num_threads(threads)


def layers():
    """Both layers on the same skies; ours also on maps whose pixels lie innermost."""
    ours, peer, x, cotangent = pair()
    rows = x.detach()[0].T.contiguous().requires_grad_()
    inside = rows.detach().T[None].requires_grad_()
    rows_cotangent = cotangent[0].T.contiguous()
    contestants = [
        (ours, inside, rows_cotangent.T[None]),
        (peer, rows, rows_cotangent),
        (ours, x, cotangent),
    ]
    y, theirs = ours(x), peer(rows)
    same = near(y, theirs.T[None], 5e-6)
    y.backward(cotangent)
    theirs.backward(rows_cotangent)
    weight = torch.stack([linear.weight.grad.T for linear in peer.layer.lins])
    same_back = near(x.grad, rows.grad.T[None], 5e-6) and near(ours.weight.grad, weight, 1e-5)
    found = [
        result("forward", race(forward, contestants), 9.0),
        result("forward and backward", race(step, contestants), 7.0),
    ]
    return [
        row | {"equal": good} for row, good in zip(found, (same, same and same_back), strict=True)
    ]


class Peer(torch.nn.Module):
    """torch-geometric's layer on one graph."""

    def __init__(self, edges, weight, lambda_max):
        from torch_geometric.nn import ChebConv

        super().__init__()
        self.layer = ChebConv(CHANNELS, CHANNELS, ORDER)
        self.given = edges, weight, None, torch.tensor(lambda_max)

    def forward(self, x):
        return self.layer(x, *self.given)


def pair():
    """Both layers with the same weights, a sky and a cotangent."""
    from medseg.geometry import skygraph
    from medseg.geometry.sphere import Sphere
    from medseg.nn.sphere import ChebConv

    torch.manual_seed(0)
    sphere = Sphere(NSIDE)
    adjacency = skygraph.graph(sphere, GRAPH["kind"]).adjacency().T.tocoo()
    edges = torch.stack([torch.tensor(adjacency.row), torch.tensor(adjacency.col)]).long()
    lambda_max = skygraph.operator(sphere, **GRAPH).lambda_max
    peer = Peer(edges, torch.tensor(adjacency.data).float(), lambda_max)
    ours = ChebConv(CHANNELS, CHANNELS, order=ORDER, **GRAPH)
    with torch.no_grad():
        peer.layer.bias.copy_(ours.bias)
        for linear, weight in zip(peer.layer.lins, ours.weight, strict=True):
            linear.weight.copy_(weight.T)
    x, cotangent = torch.randn(2, 1, CHANNELS, sphere.npix)
    return ours, peer, x.requires_grad_(), cotangent


def result(what, seconds, bound):
    """A row; the ratio is the median over the rounds, each measured in turns."""
    ours, peer, contiguous = seconds
    return {
        "subject": f"Chebyshev K={ORDER}, {CHANNELS} to {CHANNELS}, nside {NSIDE}: {what}",
        "ours_s": min(ours),
        "peer_s": min(peer),
        "peer": "torch-geometric",
        "ratio": median(p / o for o, p in zip(ours, peer, strict=True)),
        "bound": bound,
        "note": f"8 neighbours, 1 thread, maps as inside a network; "
        f"{median(p / o for o, p in zip(contiguous, peer, strict=True)):.1f}x on maps whose "
        f"pixels lie innermost",
    }


def forward(layer, x, _):
    """A prediction."""
    with torch.no_grad():
        layer(x)


def step(layer, x, cotangent):
    """A step of training, to gradients of weights and input."""
    layer.zero_grad()
    x.grad = None
    layer(x).backward(cotangent)


def race(function, contestants):
    """Processor seconds of each in every round, in turns after one warm-up."""
    found = [[] for _ in contestants]
    for _ in range(ROUNDS + 1):
        for times, contestant in zip(found, contestants, strict=True):
            start = time.process_time()
            function(*contestant)
            times.append(time.process_time() - start)
    return [times[1:] for times in found]


def near(mine, theirs, share):
    """Within a share of the largest magnitude."""
    return float((mine - theirs).detach().abs().max()) <= share * float(theirs.detach().abs().max())


def memory():
    """Peak memory of a step in a process of its own, its graph made there too."""
    kib = [peak(nside) for nside in NSIDES]
    per_pixel = [k * 1024 / (12 * nside**2) for k, nside in zip(kib, NSIDES, strict=True)]
    listed = ", ".join(f"{nside}: {k / 1024:.0f} MiB" for nside, k in zip(NSIDES, kib, strict=True))
    return {
        "subject": "memory of a step a pixel, nside 256 for 64",
        "peer": "linear in pixels",
        "ratio": per_pixel[1] / per_pixel[-1],
        "bound": 0.8,
        "equal": True,
        "note": f"K=5, 16 to 16, graph and all: nside {listed}",
    }


def peak(nside):
    """KiB that the process grows by."""
    command = [sys.executable, "-c", STEP, str(nside)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
