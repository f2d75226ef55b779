"""One plan of a network, built as its complex arm, its real arms and the controls between them.

Arms: `real`; `real_x2`, a real network of twice the degrees of freedom of `real`; `complex`;
`iso_flop`, a real network of the complex arm's multiply-adds; `two_channel`, a real network that
sees real and imaginary parts as channels. Of complex data the other real arms see the magnitude.

Source: Chatterjee et al. 2023, arXiv:2302.04584, which compares `real`, `real_x2` and `complex`;
the two other controls and the way widths are found are our own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from einops import rearrange
from jaxtyping import Complex, Float
from torch import Tensor, nn

from medseg.nn.complex import init
from medseg.nn.complex.layers import ComplexLayers, Options, RealLayers
from medseg.nn.complex.parts import from_parts
from medseg.nn.cost import dof, macs
from medseg.sample import COMPLEX_INPUT

ARMS = ("real", "real_x2", "complex", "iso_flop", "two_channel")
TOLERANCE = {"real_x2": 0.02, "iso_flop": 0.05}
Body = Callable[..., nn.Module]
Off = Callable[[tuple[int, ...]], float]

_REAL = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TRIALS = 6


class FromParts(nn.Module):
    """Complex channels of an image that holds all real parts, then all imaginary ones."""

    def forward(self, image: Float[Tensor, "b parts *s"]) -> Complex[Tensor, "b parts//2 *s"]:
        """Half as many channels."""
        return from_parts(image)


class Magnitude(nn.Module):
    """Magnitudes of an image that holds all real parts, then all imaginary ones."""

    def forward(self, image: Float[Tensor, "b parts *s"]) -> Float[Tensor, "b parts//2 *s"]:
        """Half as many channels; the gradient at 0 is 0."""
        return torch.linalg.vector_norm(rearrange(image, "b (p c) ... -> p b c ...", p=2), dim=0)


def check(arm: str, in_channels: int, *, complex_input: str | None) -> None:
    """Refuse an unknown arm, and data that the arm cannot take."""
    if arm not in ARMS:
        raise ValueError(f"arm {arm!r} is not known; choose one of {', '.join(ARMS)}")
    if in_channels < 1:
        raise ValueError(f"in_channels is {in_channels}; it must be at least 1")
    listed = "; ".join(f"{name}: {meaning}" for name, meaning in COMPLEX_INPUT.items())
    if complex_input is None:
        if arm in ("complex", "two_channel"):
            raise ValueError(
                f"the data are real and arm {arm} wants complex numbers; say how they are made, "
                f"e.g. data.complex_input=zero_imag data.intensity=scale ({listed}), or choose "
                "arm=real"
            )
        return
    if complex_input not in COMPLEX_INPUT:
        raise ValueError(f"complex_input {complex_input!r} is not known; choose one of: {listed}")
    if in_channels % 2:
        raise ValueError(
            f"in_channels is {in_channels}, and complex data have all real parts, then all "
            "imaginary parts: an even number; give 2 for each complex channel"
        )


def assembled(
    body: Body,
    widths: Sequence[int],
    *,
    options: Options,
    arm: str,
    in_channels: int,
    complex_input: str | None,
    size: Sequence[int],
    divisor: int = 1,
    settled: bool = False,
) -> tuple[nn.Sequential, tuple[int, ...]]:
    """The arm's network from image to logits, and its hidden widths.

    Args:
        body: makes the network behind the entry from layers, input channels and `widths`.
        widths: hidden widths of `real`, `complex` and `two_channel`.
        options: what the layers are like.
        arm: one of `ARMS`.
        in_channels: real channels of the image: of complex data two a complex channel.
        complex_input: how the data became complex, a name of `COMPLEX_INPUT`; None for real data.
        size: of the image for which multiply-adds are made equal.
        divisor: widths of the solved arms are multiples of it, of less where the goal needs it.
        settled: the widths are the arm's own, as solved before.
    """
    check(arm, in_channels, complex_input=complex_input)
    if options.equivariant and arm == "two_channel":
        raise ValueError(
            "arm two_channel cannot be equivariant: a turn of the phase mixes its channels; choose "
            "arm complex, or equivariant=false"
        )
    parts = in_channels if complex_input else 2 * in_channels

    def make(kind: str, widths: Sequence[int]) -> nn.Sequential:
        if kind == "complex":
            return nn.Sequential(
                FromParts(), body(ComplexLayers(options), parts // 2, widths=widths)
            )
        if complex_input is None or kind == "two_channel":
            return nn.Sequential(
                nn.Identity(), body(RealLayers(options), in_channels, widths=widths)
            )
        return nn.Sequential(
            Magnitude(), body(RealLayers(options), in_channels // 2, widths=widths)
        )

    def numbers(widths: Sequence[int]) -> int:
        return dof(make("real", widths))

    def products(widths: Sequence[int]) -> int:
        return macs(make("real", widths), (in_channels, *size))

    found = tuple(widths)
    if not settled:
        with torch.device("meta"):
            if arm == "real_x2":
                goal = 2 * numbers(widths)
                found = solved(numbers, goal, widths=widths, arm=arm, divisor=divisor)
            elif arm == "iso_flop":
                goal = macs(make("complex", widths), (parts, *size))
                found = solved(products, goal, widths=widths, arm=arm, divisor=divisor)
    network = make(arm if arm in ("complex", "two_channel") else "real", found)
    initialise(network, options.activation)
    return network, found


def solved(
    cost: Callable[[Sequence[int]], int],
    goal: int,
    *,
    widths: Sequence[int],
    arm: str,
    divisor: int = 1,
) -> tuple[int, ...]:
    """The widths whose cost is nearest to `goal`: one factor for all, then single levels changed.

    Each is a multiple of `divisor`, or of less where it is narrow or the arm's tolerance is out of
    reach; where 1 is still too coarse, the widths are refused.
    """
    known: dict[tuple[int, ...], float] = {}
    tolerance, enough = TOLERANCE[arm], math.log1p(TOLERANCE[arm]) / 2

    def off(widths: tuple[int, ...]) -> float:
        if widths not in known:
            known[widths] = cost(widths) / goal
        return abs(math.log(known[widths]))

    while True:
        steps = tuple(_step(width, divisor) for width in widths)
        best = min(_scaled(widths, steps, known, off, enough), key=off)
        if off(best) > enough:
            best = _stepped(best, steps, off, enough)
        if abs(known[best] - 1) <= tolerance:
            return best
        if divisor == 1:
            break
        divisor //= 2
    raise ValueError(
        f"arm {arm}: no multiple of the widths {list(widths)} comes within {tolerance:.0%} of its "
        f"goal (nearest {list(best)}, {known[best]:.3f} of it); such narrow widths are too coarse, "
        "give a larger width"
    )


def _step(width: int, divisor: int) -> int:
    """The divisor, halved until it is no more than a quarter of the width."""
    while divisor > 1 and width < 4 * divisor:
        divisor //= 2
    return divisor


def _scaled(
    widths: Sequence[int],
    steps: Sequence[int],
    known: Mapping[tuple[int, ...], float],
    off: Off,
    enough: float,
) -> list[tuple[int, ...]]:
    """A few common factors; each follows from the last, as cost goes with the factor's square."""
    factor, tried = 1.0, []
    for _ in range(_TRIALS):
        pairs = zip(widths, steps, strict=True)
        new = tuple(step * max(1, round(width * factor / step)) for width, step in pairs)
        if new in tried:
            break
        tried.append(new)
        if off(new) <= enough:
            break
        factor /= math.sqrt(known[new])
    return tried


def _stepped(
    best: tuple[int, ...], steps: Sequence[int], off: Off, enough: float
) -> tuple[int, ...]:
    """Single levels changed by a step at a time while that brings the goal nearer."""
    while off(best) > enough:
        near = [
            (*best[:level], best[level] + change, *best[level + 1 :])
            for level, step in enumerate(steps)
            for change in (-step, step)
            if best[level] + change > 0
        ]
        new = min(near, key=off)
        if off(new) >= off(best):
            break
        best = new
    return best


def initialise(network: nn.Module, activation: str) -> None:
    """Draw convolutions anew from torch's generator, so that maps keep their power in every arm.

    Complex weights: Rayleigh modulus by the activation's gain; real ones: normal, variance
    2 / fan in. Offsets 0.
    """
    init.initialise(network, activation if activation in init.GAINS else "crelu")
    for module in network.modules():
        if isinstance(module, _REAL):
            nn.init.normal_(module.weight, std=math.sqrt(2 / _fan_in(module)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _fan_in(module: nn.Module) -> float:
    """Products summed in one value of the output; of a transposed convolution on average."""
    weight, stride = cast("Tensor", module.weight), cast("Sequence[int]", module.stride)
    if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
        return weight.shape[0] * math.prod(weight.shape[2:]) / math.prod(stride)
    return math.prod(weight.shape[1:])
