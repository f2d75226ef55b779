"""A training step of the complex U-Net: our layers, and the same net of complextorch's layers."""

import time

import torch
from torch import nn

ROUNDS = 7
BATCH = 4
SIZE = 96
WIDTHS = {"small": (16, 32, 64), "default": (16, 32, 64, 128, 256)}
BOUND = 1 / 0.75


class Concatenated(nn.Module):
    """A real 1-convolution of real and imaginary parts."""

    def __init__(self, channels, n_classes):
        super().__init__()
        self.layer = nn.Conv2d(2 * channels, n_classes, 1)

    def forward(self, z):
        return self.layer(torch.cat([z.real, z.imag], 1))


class TheirLayers:
    """Makers of complextorch's layers, in place of ours."""

    def __init__(self, options):
        import complextorch.nn as theirs

        self.options, self.nn = options, theirs

    def conv(self, i, o, *, kernel=3, stride=1):
        return self.nn.Conv2d(i, o, kernel, stride=stride, padding=(kernel - 1) // 2)

    def transposed(self, i, o, *, stride):
        return self.nn.ConvTranspose2d(i, o, 3, stride=stride, padding=1, output_padding=stride - 1)

    def norm(self, channels):
        return self.nn.BatchNorm2d(channels)

    def activation(self, channels):
        del channels
        return self.nn.CReLU(inplace=False)

    def head(self, channels, n_classes):
        return Concatenated(channels, n_classes)


def bench():
    """Forward and backward of a small and of the default 2-D U-Net, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [step(name, widths) for name, widths in WIDTHS.items()]
    finally:
        torch.set_num_threads(threads)


def nets(widths):
    """Both nets of the same plan, with the same weights, from image to logits."""
    from medseg.models.complexnet import UNetBody
    from medseg.nn.complex.arms import FromParts, initialise
    from medseg.nn.complex.layers import ComplexLayers, Options

    torch.manual_seed(0)
    given = {"n_classes": 4, "strides": (2,) * (len(widths) - 1)}
    ours = nn.Sequential(FromParts(), UNetBody(ComplexLayers(Options()), 1, widths=widths, **given))
    peer = nn.Sequential(FromParts(), UNetBody(TheirLayers(Options()), 1, widths=widths, **given))
    initialise(ours, "crelu")
    copied(ours, peer)
    return ours, peer


def copied(ours, peer):
    """Our convolutions' weights in the peer's; its norms and ours begin alike."""
    from medseg.nn.complex.parts import as_complex

    mine = [p for m in ours.modules() if hasattr(m, "fan_in") for p in m.parameters()]
    with torch.no_grad():
        convolutions = [p for p in peer.parameters() if p.is_complex()]
        for source, goal in zip(mine, convolutions, strict=True):
            goal.copy_(as_complex(source))
        source, goal = ours[1].head.layer, peer[1].head.layer
        goal.bias.copy_(source.bias)
        goal.weight.copy_(torch.cat([source.weight[:, ::2], source.weight[:, 1::2]], 1))


def step(name, widths):
    """The least time of some rounds, in turns, and whether logits and one gradient agree."""
    ours, peer = nets(widths)
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(BATCH, 2, SIZE, SIZE, generator=generator)
    target = torch.randint(4, (BATCH, SIZE, SIZE), generator=generator)
    seconds, logits, first = {}, {}, {}
    for turn in range(ROUNDS + 1):
        for side, net in {"ours": ours, "peer": peer}.items():
            net.zero_grad()
            start = time.perf_counter()
            found = net(image)
            nn.functional.cross_entropy(found, target).backward()
            if turn:
                took = time.perf_counter() - start
                seconds[side] = min(took, seconds.get(side, took))
            logits[side], first[side] = found.detach(), gradient(net)
    off = far(logits["ours"], logits["peer"])
    steep = far(first["ours"], first["peer"])
    return {
        "subject": f"training step of the {name} complex U-Net, {BATCH} x {SIZE} x {SIZE}",
        "ours_s": seconds["ours"],
        "peer_s": seconds["peer"],
        "peer": "the same net of complextorch's layers, one thread",
        "ratio": seconds["peer"] / seconds["ours"],
        "bound": BOUND,
        "equal": off < 1e-3 and steep < 1e-2,
        "note": f"widths {widths}; logits differ by {off:.0e}, first gradient by {steep:.0e}",
    }


def gradient(net):
    """Of the first convolution, as pairs of real numbers."""
    found = next(net.parameters()).grad
    return torch.view_as_real(found) if found.is_complex() else found.clone()


def far(found, wanted):
    """The largest difference, of the largest value."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()
