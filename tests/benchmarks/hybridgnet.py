"""HybridGNet at 1024 x 1024 on two threads: plain layers, torch-geometric, the cost of samples."""

import time

import torch
from torch import nn

ROUNDS = 5
SAMPLES = 50
ORGANS = {"right_lung": 44, "left_lung": 50, "heart": 26}
PUBLISHED = {
    "norm": "batch_stats",
    "bottleneck": "flatten",
    "size": 1024,
    "circular": False,
    "align": "index",
    "residual": False,
}


NORMS = {
    "batch_stats": lambda c: nn.BatchNorm2d(c, track_running_stats=False),
    "instance": lambda c: nn.InstanceNorm2d(c, affine=True),
    "batch": nn.BatchNorm2d,
    "group": lambda c: nn.GroupNorm(max(1, c // 8), c),
}


class PlainBlock(nn.Module):
    """The encoder's residual block, one layer after the other."""

    def __init__(self, before, after, norm):
        super().__init__()
        layers = [norm(before), nn.ReLU(), nn.Conv2d(before, after, 3, padding=1)]
        layers += [norm(after), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1)]
        self.block = nn.Sequential(*layers)
        self.skip = nn.Identity()
        if before != after:
            self.skip = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), norm(after))
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.block(x) + self.skip(x))


class PlainPyramid(nn.Module):
    """The encoder from torch's layers alone."""

    def __init__(self, channels, widths, norm):
        super().__init__()
        pairs = zip((channels, *widths), widths, strict=False)
        self.stages = nn.ModuleList(PlainBlock(a, b, NORMS[norm]) for a, b in pairs)
        self.pool = nn.MaxPool2d(2)
        self.channels = widths

    def forward(self, x, *, lowest=1):
        maps = [self.stages[0](x)]
        for stage in self.stages[1:]:
            maps.append(stage(self.pool(maps[-1])))
        return maps[lowest - 1 :]


def bench():
    """Both networks, the graph layers, and samples; always on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            torch.manual_seed(0)
            image = torch.rand(1, 1, 1024, 1024)
            models = {"default": network(), "published": network(**PUBLISHED)}
            rows = [whole(name, model, image) for name, model in models.items()]
            return [*rows, chebyshev(models["published"]), samples(models["default"], image)]
    finally:
        torch.set_num_threads(threads)


def network(**options):
    """A network of the kind 2-IGSC 6-5 with drawn weights."""
    from medseg.models.hybridgnet import HybridGNet

    return HybridGNet(ORGANS, **options).eval()


def plain(model):
    """A copy of the network whose encoder is made of plain layers."""
    from copy import deepcopy

    norm = PUBLISHED["norm"] if model.size else "group"
    encoder = PlainPyramid(1, model.encoder.channels, norm)
    encoder.load_state_dict(model.encoder.state_dict())
    copy = deepcopy(model)
    copy.encoder = encoder.eval()
    return copy


def race(ours, peer, times=1):
    """Least seconds of both, in turns, so that what else the machine does meets both."""
    found = {ours: [], peer: []}
    for function in (ours, peer) * (ROUNDS + 1):
        start = time.perf_counter()
        for _ in range(times):
            function()
        found[function].append((time.perf_counter() - start) / times)
    return [min(taken[1:]) for taken in found.values()]


def same(mine, theirs, within=1e-4):
    """Whether the values agree."""
    return bool(torch.allclose(mine, theirs, atol=within, rtol=within))


def whole(name, model, image):
    """A prediction, against the network whose encoder is made of plain layers."""
    other = plain(model)
    ours_s, peer_s = race(lambda: model(image), lambda: other(image))
    mine, theirs = model.encode(image), other.encode(image)
    equal = same(model(image), other(image)) and same(mine.mu, theirs.mu)
    return {
        "subject": f"HybridGNet 2-IGSC 6-5, {name}",
        "ours_s": ours_s,
        "peer_s": peer_s,
        "peer": "plain layers",
        "ratio": peer_s / ours_s,
        "bound": 1.5,
        "equal": equal,
        "note": "1024 x 1024, batch 1, 2 threads; both with our decoder",
    }


def chebyshev(model):
    """The decoder's five Chebyshev layers on the features of one image."""
    from torch_geometric.nn import ChebConv

    from medseg.geometry.graph import adjacency, coarse, edges

    graphs = [torch.tensor(edges(adjacency(c))) for c in (coarse(model.organs), model.organs)]
    cases = []
    for layer in model.layers:
        order, after, before = layer.weight.shape
        few = len(layer.basis) == model.n_coarse
        peer = ChebConv(before, after, order).eval()
        for own, weight in zip(peer.lins, layer.weight, strict=True):
            own.weight.copy_(weight)
        peer.bias.copy_(layer.bias)
        x = torch.randn(1, len(layer.basis), before)
        cases.append((layer, peer, x, graphs[0] if few else graphs[1]))

    def ours():
        return [layer(x) for layer, _, x, _ in cases]

    def theirs():
        return [peer(x, graph) for _, peer, x, graph in cases]

    ours_s, peer_s = race(ours, theirs, times=20)
    return {
        "subject": "the decoder's 5 Chebyshev layers",
        "ours_s": ours_s,
        "peer_s": peer_s,
        "peer": "torch-geometric",
        "ratio": peer_s / ours_s,
        "bound": 2.0,
        "equal": all(map(same, ours(), theirs())),
        "note": "lungs and heart, order 6, one image",
    }


def samples(model, image):
    """Many decodings of one encoding, against predictions without them."""
    latent = model.encode(image).mu.shape[1]
    noise = torch.randn(SAMPLES, latent)
    noise[0] = 0

    def single():
        return model(image)

    def sampled():
        mu, logvar, maps = model.encode(image)
        return model.decode(mu + noise * (0.5 * logvar).exp(), maps).landmarks

    ours_s, single_s = race(sampled, single)
    alone = model(image, noise[1:2])
    return {
        "subject": f"{SAMPLES} samples of the latent",
        "ours_s": ours_s,
        "peer_s": 1.5 * single_s,
        "peer": "1.5 predictions",
        "ratio": 1.5 * single_s / ours_s,
        "bound": 1.0,
        "equal": same(sampled()[:2], torch.cat([single(), alone])),
        "note": f"encoded once, decoded in one batch: {ours_s / single_s:.2f} predictions",
    }
