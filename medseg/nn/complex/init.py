"""First values of complex weights: of Rayleigh modulus and even phase, or orthonormal rows.

The total variance of a weight, E|w|², is gain / fan_in (He) or gain / (fan_in + fan_out) (Glorot),
half of it in the real and half in the imaginary part; fans count complex numbers, within a group.

Source: Trabelsi et al. 2018, sec. 3.6; arXiv:1705.09792. Differs: the gain follows the activation.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.complex.parts import ComplexParameter, as_complex

Criterion = Literal["he", "glorot"]
Scheme = Literal["rayleigh", "semi_unitary"]

# What an activation divides E|z|² by.
GAINS = {
    "none": 1.0,
    "modrelu": 1.0,
    "crelu": 2.0,
    "zrelu": 4.0,
    "cardioid": 8 / 3,
    "modsilu": 1.63,
    "threshold": 1.0,
}


def gain(activation: str) -> float:
    """The gain that keeps E|z|² from layer to layer, for the activation between them.

    Circular Gaussian input is assumed, for modSiLU and threshold of variance 1, biases at their
    start.
    """
    if activation not in GAINS:
        known = ", ".join(sorted(GAINS))
        raise ValueError(f"no gain is known for {activation!r}; give a number, or one of {known}")
    return GAINS[activation]


def rayleigh_(
    weight: Float[Tensor, "o i *k 2"],
    *,
    fan_in: float,
    fan_out: float | None = None,
    criterion: Criterion = "he",
    gain: float = 2.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "o i *k 2"]:
    """Rayleigh modulus, phase even on the circle: both parts are normal and independent.

    Gain 2 is the published value of both criteria.
    """
    scale = (variance(fan_in, fan_out, criterion=criterion, gain=gain) / 2) ** 0.5
    with torch.no_grad():
        return weight.normal_(0.0, scale, generator=generator)


def semi_unitary_(
    weight: Float[Tensor, "o i *k 2"],
    *,
    fan_in: float,
    fan_out: float | None = None,
    criterion: Criterion = "he",
    gain: float = 2.0,
    groups: int = 1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "o i *k 2"]:
    """In each group, rows (or columns, if those are fewer) orthogonal and of equal length.

    Drawn evenly from all such matrices; the mean of |w|² is exactly that of `rayleigh_`.
    """
    with torch.no_grad():
        size = (groups, weight.shape[0] // groups, weight[0].numel() // 2)
        noise = weight.new_empty(*size, 2).normal_(generator=generator)
        matrix = as_complex(noise)
        wide = size[1] < size[2]
        q, r = torch.linalg.qr(matrix.mH if wide else matrix)
        q = q * torch.sgn(r.diagonal(dim1=-2, dim2=-1))[:, None]
        q = (q.mH if wide else q).resolve_conj()
        scale = variance(fan_in, fan_out, criterion=criterion, gain=gain) * max(size[1:])
        return weight.copy_(torch.view_as_real(q * scale**0.5).reshape(weight.shape))


def variance(
    fan_in: float, fan_out: float | None = None, *, criterion: Criterion = "he", gain: float = 2.0
) -> float:
    """E|w|² that a criterion asks for."""
    if criterion == "he":
        return gain / fan_in
    if fan_out is None:
        raise ValueError("the Glorot criterion needs fan_out; give it, or take criterion='he'")
    return gain / (fan_in + fan_out)


def initialise(
    network: nn.Module,
    activation: str = "crelu",
    *,
    scheme: Scheme = "rayleigh",
    criterion: Criterion = "he",
    generator: torch.Generator | None = None,
) -> None:
    """Draw the weights of every complex convolution and linear map anew, biases zero.

    The gain is the activation's, or 2 for the Glorot criterion.
    """
    factor = gain(activation) if criterion == "he" else 2.0
    for layer in network.modules():
        weight, fan_in = getattr(layer, "weight", None), getattr(layer, "fan_in", None)
        if not isinstance(weight, ComplexParameter) or fan_in is None:
            continue
        fans = {"fan_in": fan_in, "fan_out": layer.fan_out}
        if scheme == "rayleigh":
            rayleigh_(weight, **fans, criterion=criterion, gain=factor, generator=generator)
        else:
            fans["groups"] = getattr(layer, "groups", 1)
            semi_unitary_(weight, **fans, criterion=criterion, gain=factor, generator=generator)
        if isinstance(layer.bias, Tensor):
            nn.init.zeros_(layer.bias)
