"""Dropout for complex features: what survives keeps its phase.

Both parts share one mask, scaled once by 1/(1 - p); a mask of their own each would turn the phase.
All three layers act in training only and draw from torch's generator, as `nn.Dropout` does.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn


class Dropout(nn.Module):
    """Every value is dropped with probability p, the others grow by 1/(1 - p)."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = _probability(p)

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """The mean over masks is z."""
        if not self.training or not self.p:
            return z
        return z * _mask(torch.empty_like(z, dtype=z.real.dtype), self.p)


class ChannelDropout(nn.Module):
    """Every channel of a case is dropped as a whole with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = _probability(p)

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """The mean over masks is z."""
        if not self.training or not self.p:
            return z
        shape = z.shape[:2] + (1,) * (z.ndim - 2)
        return z * _mask(torch.empty(shape, dtype=z.real.dtype, device=z.device), self.p)


class PhaseNoise(nn.Module):
    """Every value's phase is turned by a normal number of standard deviation `sigma`, in radians.

    Magnitudes stay; the mean over noises is z exp(-sigma²/2).
    """

    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        if not sigma >= 0:
            raise ValueError(f"sigma is {sigma}; give radians, 0 or more")
        self.sigma = sigma

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """Nothing is turned in evaluation."""
        if not self.training or not self.sigma:
            return z
        turn = torch.empty_like(z, dtype=z.real.dtype).normal_(std=self.sigma)
        return z * torch.polar(torch.ones_like(turn), turn)


def _mask(empty: Float[Tensor, "*s"], p: float) -> Float[Tensor, "*s"]:
    """The tensor itself, filled with 0 with probability p and else 1/(1 - p)."""
    return empty.bernoulli_(1 - p).div_(1 - p)


def _probability(p: float) -> float:
    """A share that leaves something; anything else is refused."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout is {p}; give a share from 0 up to, but not, 1")
    return p
