"""What tests of complex layers share: improper numbers, their covariance, tolerances."""

import torch

MODES = ("whiten", "circular", "split")
FLOAT32 = {"atol": 1e-5, "rtol": 1e-5}
FLOAT64 = {"atol": 1e-9, "rtol": 1e-9}


def improper(*shape, seed=0, dtype=torch.complex128):
    """Complex numbers with a mean, unequal variances and correlated parts."""
    chance = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, *shape, generator=chance, dtype=torch.float64)
    return torch.complex(1.5 * a + 0.3, 0.4 * a + 0.6 * b - 0.2).to(dtype)


def perturbed(layer, seed=1):
    """The layer with gain and bias away from where they start."""
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=chance).to(p))
    return layer


def channels_last(z):
    return z.movedim(1, -1).contiguous().movedim(-1, 1)


def covariance(z):
    """Matrix (c, 2, 2) of the parts of channels, by n, and their mean."""
    parts = torch.view_as_real(z).transpose(0, 1).flatten(1, -2).double()
    mean = parts.mean(1)
    d = parts - mean[:, None]
    return torch.einsum("cni,cnj->cij", d, d) / d.shape[1], mean
