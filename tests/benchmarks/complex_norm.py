"""Complex batch norms by whitening: ours against complextorch's, for time and for one phase."""

import math
import time

SHAPE = (4, 32, 96, 96)
ROUNDS = 9


def bench():
    """One row for a step of training, one for numbers that all have the same phase."""
    import torch
    from complextorch.nn import BatchNorm2d

    from medseg.nn.complex.norm import BatchNorm

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours = BatchNorm(SHAPE[1], symmetric=False, relative=False)
        return [speed(ours, BatchNorm2d(SHAPE[1])), one_phase(BatchNorm, BatchNorm2d)]
    finally:
        torch.set_num_threads(threads)


def speed(ours, theirs):
    """Forwards and backwards, each in the layout that its own network has."""
    import torch

    chance = torch.Generator().manual_seed(0)
    z, slope = torch.randn(2, *SHAPE, dtype=torch.complex64, generator=chance)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (z, slope)]
    sides = [(ours, *last), (theirs, z, slope)]
    seconds, values = [[], []], [None, None]
    for _ in range(ROUNDS):
        for number, (layer, x, g) in enumerate(sides):
            x = x.detach().requires_grad_()
            begin = time.perf_counter()
            y = layer(x)
            y.backward(g)
            seconds[number].append(time.perf_counter() - begin)
            values[number] = torch.stack([y.detach(), x.grad])
    ours_s, peer_s = map(min, seconds)
    worst = float((values[0] - values[1]).abs().max())
    return {
        "subject": "complex BatchNorm, forwards and backwards, 4x32x96x96, one thread",
        "ours_s": ours_s,
        "peer_s": peer_s,
        "peer": "complextorch BatchNorm2d",
        "ratio": peer_s / ours_s,
        "bound": 1.25,
        "equal": worst < 1e-4,
        "note": f"largest difference of values and gradients {worst:.1e}",
    }


def one_phase(ours, theirs):
    """The share of finite outputs where all numbers lie on a line of the plane."""
    import torch

    chance = torch.Generator().manual_seed(0)
    size = 1000 * torch.rand(2, 8, 32, 32, generator=chance)
    z = torch.polar(size, torch.full_like(size, math.pi / 4))
    shares = []
    for make in (ours, theirs):
        out = make(8)(z)
        shares.append(float(torch.isfinite(torch.view_as_real(out)).float().mean()))
    return {
        "subject": "complex BatchNorm of one phase times 1000: share of finite outputs",
        "peer": "complextorch BatchNorm2d",
        "ratio": shares[0],
        "bound": 1.0,
        "equal": shares[0] == 1 and shares[1] < 1,
        "note": f"theirs {shares[1]:.2f}",
    }
