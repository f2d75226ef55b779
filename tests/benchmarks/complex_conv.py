"""Complex convolutions, forward and backward on one thread, against torch's complex64 kernels."""

import time

import torch
from torch import nn

ROUNDS = 7
CASES = [
    ("complex conv2d 32 to 32, 128 x 128, batch 8", 2, 32, (8, 32, 128, 128), 0.75),
    ("complex conv3d 16 to 16, 48 x 48 x 48, batch 1", 3, 16, (1, 16, 48, 48, 48), 1.0),
]


def bench():
    """A row for two and three axes each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [row(*case) for case in CASES]
    finally:
        torch.set_num_threads(threads)


def row(subject, ndim, width, shape, share):
    """Both on the same contiguous input; ours also on a channels-last one, as inside a network."""
    from medseg.nn.complex.conv import Conv
    from medseg.nn.complex.parts import as_complex, channels_last

    torch.manual_seed(0)
    ours = Conv(width, width, ndim=ndim)
    peer = {2: nn.Conv2d, 3: nn.Conv3d}[ndim](width, width, 3, padding=1, dtype=torch.complex64)
    with torch.no_grad():
        peer.weight.copy_(as_complex(ours.weight))
        ours.bias.copy_(torch.view_as_real(peer.bias))
    z, cotangent = (torch.randn(shape, dtype=torch.complex64) for _ in range(2))
    inside = [channels_last(tensor) for tensor in (z, cotangent)]
    contestants = [(ours, z, cotangent), (peer, z, cotangent), (ours, *inside)]
    ours_s, peer_s, inside_s = race(contestants)
    (y, z_grad), (peer_y, peer_z_grad) = (step(*c) for c in contestants[:2])
    same = [near(y, peer_y, 1e-5), near(z_grad, peer_z_grad, 1e-5)]
    same.append(near(as_complex(ours.weight.grad), peer.weight.grad, 1e-4))
    return {
        "subject": subject,
        "ours_s": ours_s,
        "peer_s": peer_s,
        "peer": "torch complex64",
        "ratio": peer_s / ours_s,
        "bound": 1 / share,
        "equal": all(same),
        "note": f"1 thread, {ours_s / peer_s:.2f} of the time; "
        f"{inside_s / peer_s:.2f} on channels-last maps, as inside a network",
    }


def step(layer, z, cotangent):
    """Forward and backward; the output and the input's gradient."""
    layer.zero_grad()
    z = z.detach().requires_grad_()
    y = layer(z)
    y.backward(cotangent)
    return y.detach(), z.grad


def race(contestants):
    """Least seconds of each, in turns after one warm-up."""
    found = [[] for _ in contestants]
    for _ in range(ROUNDS + 1):
        for times, contestant in zip(found, contestants, strict=True):
            start = time.perf_counter()
            step(*contestant)
            times.append(time.perf_counter() - start)
    return [min(times[1:]) for times in found]


def near(mine, theirs, share):
    """Within a share of the largest magnitude."""
    return float((mine.detach() - theirs).abs().max()) <= share * float(theirs.abs().max())
