"""Complex activations: by part, by magnitude, or by phase.

Those by magnitude keep a voxel's phase and commute with a turn of it (U(1)-equivariant); those by
phase keep it too, or give zero, but depend on where it points; those by part mix it.

Source: CReLU Trabelsi et al. 2018, arXiv:1705.09792; modReLU Arjovsky et al. 2016,
arXiv:1511.06464; zReLU Guberman 2016, arXiv:1602.09046; cardioid Virtue et al. 2017,
arXiv:1707.00070; tanh of the magnitude Hirose and Yoshida 2012. No code followed. Differs: a zero
stays zero with a finite gradient everywhere, and zReLU's quarter plane holds its edges.
"""

from collections.abc import Callable

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from medseg.nn.complex.parts import interleaved, merged

TINY = 1e-24  # under the roots, far below the square of any magnitude that counts


def squared(z: Complex[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """|z|², the same for z and for z turned by a quarter; float32 magnitudes below 1e-19 vanish."""
    real, imag = torch.view_as_real(z.resolve_conj()).unbind(-1)
    return real * real + imag * imag


class Split(nn.Module):
    """A real elementwise module on both parts by themselves: the phase changes.

    It sees 2c real channels, re0, im0, re1, im1, …: `nn.PReLU()` learns one slope for all of them,
    `nn.PReLU(2 * c)` one a channel and part.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """Channels-last, whatever the input's layout: the parts are then one real tensor."""
        return merged(self.module(interleaved(z)))


class CReLU(Split):
    """relu(x) + i relu(y), a new tensor."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU())


class ModReLU(nn.Module):
    """relu(|z| + b) z/|z|: a learned magnitude -b below which there is nothing; equivariant.

    Args:
        channels: one b a channel; None: one for all.
        bias: where b starts. At 0 the layer is the identity, below it has a dead disc.
    """

    def __init__(self, channels: int | None = None, bias: float = 0.0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((channels or 1,), bias))

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """Zero at zero, whatever b is."""
        last = z.movedim(1, -1)
        power = squared(last)
        inverse = torch.where(power > TINY, torch.rsqrt(power + TINY), 0.0)
        gain = torch.relu(1 + self.bias * inverse)
        return (last * gain).movedim(-1, 1)


class ZReLU(nn.Module):
    """z where both parts are positive, else zero; `closed`: zero counts as positive."""

    def __init__(self, *, closed: bool = True) -> None:
        super().__init__()
        self.closed = closed

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """A copy of z with three quarters of the plane cleared."""
        low = torch.minimum(z.real, z.imag)
        kept = low >= 0 if self.closed else low > 0
        return z * kept.to(low.dtype)


class Cardioid(nn.Module):
    """z (1 + cos(arg z + turn)) / 2: full gain along one direction, none against it.

    With channels, every channel learns its turn in radians (from 0); without, the direction is the
    positive real axis.
    """

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.turn = None if channels is None else nn.Parameter(torch.zeros(channels))

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """Zero at zero, where the direction is none."""
        last = z.movedim(1, -1)
        along = last.real
        if self.turn is not None:
            along = along * torch.cos(self.turn) - last.imag * torch.sin(self.turn)
        gain = 0.5 + 0.5 * along * torch.rsqrt(squared(last) + TINY)
        return (last * gain).movedim(-1, 1)


class ModSiLU(nn.Module):
    """z sigmoid(|z|); equivariant."""

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """Half of z near zero, z itself far from it."""
        return z * torch.sigmoid(z.abs())


class ModTanh(nn.Module):
    """tanh(|z| / scale) z/|z|: magnitudes stay below 1; equivariant. `scale` is fixed."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale is {scale}; give a positive magnitude, such as 1")
        self.scale = scale

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """Near zero z / scale."""
        last = z.movedim(1, -1)
        magnitude = torch.sqrt(squared(last) + TINY)
        return (last * (torch.tanh(magnitude / self.scale) / magnitude)).movedim(-1, 1)


class AmplitudeThreshold(nn.Module):
    """Nothing below a magnitude, z above it; equivariant.

    Args:
        threshold: the magnitude, where it starts if it is learned.
        beta: steepness of the soft threshold, z sigmoid(beta (|z| - threshold)).
        channels: a threshold a channel; None: one for all.
        soft: the threshold is learned. A hard one keeps |z| >= threshold exactly, but has no
            gradient and so stays where it is.
    """

    def __init__(
        self,
        threshold: float = 0.1,
        beta: float = 10.0,
        *,
        channels: int | None = None,
        soft: bool = True,
    ) -> None:
        super().__init__()
        start = torch.full((channels or 1,), float(threshold))
        self.beta, self.soft = beta, soft
        if soft:
            self.threshold = nn.Parameter(start)
        else:
            self.register_buffer("threshold", start)

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *s"]:
        """Zero at zero."""
        last = z.movedim(1, -1)
        above = last.abs() - self.threshold
        if self.soft:
            return (last * torch.sigmoid(self.beta * above)).movedim(-1, 1)
        return (last * (above >= 0).to(above.dtype)).movedim(-1, 1)


KINDS: dict[str, Callable[[int | None], nn.Module]] = {
    "crelu": lambda _: CReLU(),
    "modrelu": ModReLU,
    "zrelu": lambda _: ZReLU(),
    "cardioid": lambda _: Cardioid(),
    "modsilu": lambda _: ModSiLU(),
    "threshold": lambda channels: AmplitudeThreshold(channels=channels),
}


def activation(kind: str, channels: int | None = None) -> nn.Module:
    """An activation by name; `channels` gives modReLU and threshold a number of their own each.

    The cardioid is the fixed one: `Cardioid(channels)` learns its direction.
    """
    if kind not in KINDS:
        raise ValueError(f"complex activation is {kind!r}; choose one of {', '.join(KINDS)}")
    return KINDS[kind](channels)
