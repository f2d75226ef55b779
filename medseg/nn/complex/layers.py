"""The layers of a network, real or complex, from one set of makers.

A network that is built through `Layers` alone is the same plan in both: that is what makes the
arms of a comparison comparable.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn import conv as real
from medseg.nn.complex import activation, attention, dropout, head, norm, pool, upsample
from medseg.nn.complex import conv as cplx
from medseg.nn.complex.whitening import Mode
from medseg.nn.conv import Size, sizes

NORMS = ("batch", "circular", "split", "group", "instance", "rms", "none")
HEADS = ("concat", "magnitude", "real", "invariant", "none")
UPSAMPLES = ("transposed", "nearest", "linear", "fourier")
ACTIVATIONS = ("crelu", "modrelu", "zrelu", "cardioid", "modsilu", "threshold", "prelu")
_KNOWN = {"norm": NORMS, "activation": ACTIVATIONS, "head": HEADS, "upsample": UPSAMPLES}
_MODES: dict[str, Mode] = {"batch": "whiten", "circular": "circular", "split": "split"}
_EQUIVARIANT = {
    "norm": ("rms", "none"),
    "activation": ("modrelu", "modsilu", "threshold"),
    "head": ("invariant", "magnitude"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all layers of a network share; names as of the complex arm.

    Args:
        ndim: 2 or 3.
        norm: batch (whitened in complex nets), circular and split (batch too, by one variance, by
            parts), group (of about 8 channels), instance (without gain), rms (uncentred), none.
        activation: crelu, modrelu, zrelu, cardioid, modsilu, threshold or prelu (by parts).
        head: how complex maps become real logits; `none` takes the real part of the last layer.
        upsample: transposed, nearest, linear or fourier.
        bias: convolutions have offsets.
        dropout: probability, before each activation.
        equivariant: the names are those of a network that commutes with a turn of all phases.
    """

    ndim: int = 2
    norm: str = "batch"
    activation: str = "crelu"
    head: str = "concat"
    upsample: str = "transposed"
    bias: bool = True
    dropout: float = 0.0
    equivariant: bool = False


def options(
    defaults: Mapping[str, str],
    *,
    equivariant: bool,
    ndim: int,
    dropout: float = 0.0,
    bias: bool = True,
    **given: str | None,
) -> Options:
    """The names that are given; for those that are None the equivariant ones, or the defaults."""
    chosen: dict[str, str] = {}
    for name, known in _KNOWN.items():
        bound = equivariant and name in _EQUIVARIANT
        allowed = _EQUIVARIANT[name] if bound else known
        value = given.get(name) or (allowed[0] if bound else defaults[name])
        if value not in allowed:
            why = " breaks equivariance" if bound and value in known else " is not known"
            raise ValueError(f"{name} {value!r}{why}; choose one of {', '.join(allowed)}")
        chosen[name] = value
    real.check_ndim(ndim)
    return Options(
        ndim=ndim,
        dropout=dropout,
        bias=bias and not equivariant,
        equivariant=equivariant,
        **chosen,
    )


@runtime_checkable
class Layers(Protocol):
    """Makers of layers of one kind; every network of this family is built from these alone."""

    options: Options

    def conv(self, i: int, o: int, *, kernel: Size = 3, stride: Size = 1) -> nn.Module:
        """Convolution that keeps the size at stride 1."""

    def transposed(self, i: int, o: int, *, stride: Size) -> nn.Module:
        """Transposed 3-convolution that multiplies the size by `stride`."""

    def norm(self, channels: int) -> nn.Module:
        """The normalisation of the options."""

    def activation(self, channels: int) -> nn.Module:
        """The activation of the options."""

    def max_pool(self, size: int, *, stride: int, padding: int) -> nn.Module:
        """Maximum, of complex numbers by magnitude."""

    def upsample(self, scale: Size) -> nn.Module:
        """Interpolation by the kind of the options."""

    def dropout(self) -> nn.Module:
        """Dropout by the probability of the options."""

    def gate(self, channels: int, gate_channels: int) -> nn.Module:
        """Attention gate on a skip."""

    def head(self, channels: int, n_classes: int) -> nn.Module:
        """Real logits of every voxel."""

    def global_pool(self, kind: str) -> nn.Module:
        """Real features of a whole map."""


def ordered(layers: Layers, channels: int) -> list[nn.Module]:
    """Normalisation, dropout if any, activation."""
    middle = [layers.dropout()] if layers.options.dropout else []
    return [layers.norm(channels), *middle, layers.activation(channels)]


def up(layers: Layers, widths: tuple[int, int], *, stride: Size) -> nn.Module:
    """Learnt upsampling; an interpolating one is a 1-convolution first."""
    i, o = widths
    if layers.options.upsample == "transposed":
        return layers.transposed(i, o, stride=stride)
    return nn.Sequential(layers.conv(i, o, kernel=1), layers.upsample(stride))


def _groups(channels: int) -> int:
    """Groups of 8 channels, or a few more where 8 does not divide."""
    return next(n for n in range(max(1, channels // 8), 0, -1) if channels % n == 0)


class _RootMeanSquare(nn.Module):
    """Every voxel's channels divided by the root of their mean square, and a gain a channel."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """The map at mean square 1, times the gains; eps is absolute."""
        last = x.movedim(1, -1)
        return functional.rms_norm(last, last.shape[-1:], self.gain, self.eps).movedim(-1, 1)


class _Gate(nn.Module):
    """Attention gate of real maps of one size.

    Source: Oktay et al. 2018, arXiv:1804.03999, eq. 1-2.
    """

    def __init__(self, channels: int, gate_channels: int, *, ndim: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.skip = real.conv(channels, inner, kernel=1, ndim=ndim, bias=False)
        self.gate = real.conv(gate_channels, inner, kernel=1, ndim=ndim)
        self.score = real.conv(inner, 1, kernel=1, ndim=ndim)

    def forward(
        self, x: Float[Tensor, "b c *s"], gate: Float[Tensor, "b g *s"]
    ) -> Float[Tensor, "b c *s"]:
        """The skip, each voxel times a number in (0, 1)."""
        return x * self.score((self.skip(x) + self.gate(gate)).relu()).sigmoid()


class _Fourier(nn.Module):
    """Band-limited interpolation of a real map."""

    def __init__(self, scale: Size, *, ndim: int) -> None:
        super().__init__()
        self.complex = upsample.Upsample(scale, ndim=ndim, mode="fourier")

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *t"]:
        """The map on the finer grid."""
        return self.complex(torch.complex(x, torch.zeros_like(x))).real


class RealPart(nn.Module):
    """Real part of a complex map."""

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Real numbers, the imaginary ones left out."""
        return z.real


class _Mean(nn.Module):
    """Mean of every channel."""

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c"]:
        """Over all of space."""
        return x.flatten(2).mean(-1)


class RealLayers:
    """Layers of real numbers; options of the complex arm become their nearest real ones."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def conv(self, i: int, o: int, *, kernel: Size = 3, stride: Size = 1) -> nn.Module:
        """Of torch."""
        known = self.options
        return real.conv(i, o, kernel=kernel, ndim=known.ndim, stride=stride, bias=known.bias)

    def transposed(self, i: int, o: int, *, stride: Size) -> nn.Module:
        """Of torch."""
        made = real.transposed(i, o, kernel=3, stride=stride, ndim=self.options.ndim)
        if not self.options.bias:
            made.register_parameter("bias", None)
        return made

    def norm(self, channels: int) -> nn.Module:
        """Batch for circular and split."""
        kind = self.options.norm
        if kind == "group":
            return nn.GroupNorm(_groups(channels), channels)
        if kind == "instance":
            return nn.GroupNorm(channels, channels, affine=False)
        if kind == "rms":
            return _RootMeanSquare(channels)
        return real.norm(channels, "none" if kind == "none" else "batch", ndim=self.options.ndim)

    def activation(self, channels: int) -> nn.Module:
        """ReLU for those that cut, SiLU for modsilu, soft shrinkage for threshold."""
        del channels
        made: dict[str, Callable[[], nn.Module]] = {
            "modsilu": nn.SiLU,
            "threshold": partial(nn.Softshrink, 0.1),
            "prelu": nn.PReLU,
        }
        return made.get(self.options.activation, nn.ReLU)()

    def max_pool(self, size: int, *, stride: int, padding: int) -> nn.Module:
        """Of torch."""
        make = nn.MaxPool2d if self.options.ndim == 2 else nn.MaxPool3d
        return make(size, stride=stride, padding=padding)

    def upsample(self, scale: Size) -> nn.Module:
        """Nearest, (tri)linear between voxel centres, or Fourier."""
        ndim, kind = self.options.ndim, self.options.upsample
        if kind == "fourier":
            return _Fourier(scale, ndim=ndim)
        mode = {"linear": "bilinear" if ndim == 2 else "trilinear"}.get(kind, kind)
        return nn.Upsample(scale_factor=tuple(map(float, sizes(scale, ndim))), mode=mode)

    def dropout(self) -> nn.Module:
        """Single values."""
        return nn.Dropout(self.options.dropout)

    def gate(self, channels: int, gate_channels: int) -> nn.Module:
        """By learnt sums of skip and gate."""
        return _Gate(channels, gate_channels, ndim=self.options.ndim)

    def head(self, channels: int, n_classes: int) -> nn.Module:
        """A 1-convolution, or nothing."""
        if self.options.head == "none":
            return nn.Identity()
        return real.conv(channels, n_classes, kernel=1, ndim=self.options.ndim)

    def global_pool(self, kind: str) -> nn.Module:
        """The mean, whatever the kind."""
        del kind
        return _Mean()


class ComplexLayers:
    """Layers of complex numbers."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def conv(self, i: int, o: int, *, kernel: Size = 3, stride: Size = 1) -> nn.Module:
        """Cross-correlation with complex weights."""
        known = self.options
        return cplx.Conv(i, o, kernel=kernel, ndim=known.ndim, stride=stride, bias=known.bias)

    def transposed(self, i: int, o: int, *, stride: Size) -> nn.Module:
        """Padding 1 and output padding stride-1."""
        known, steps = self.options, sizes(stride, self.options.ndim)
        return cplx.ConvTranspose(
            i,
            o,
            kernel=3,
            ndim=known.ndim,
            stride=steps,
            padding=1,
            output_padding=tuple(s - 1 for s in steps),
            bias=known.bias,
        )

    def norm(self, channels: int) -> nn.Module:
        """Whitened, but for circular, split and rms."""
        kind = self.options.norm
        if kind == "none":
            return nn.Identity()
        if kind == "group":
            return norm.GroupNorm(_groups(channels), channels)
        if kind == "instance":
            return norm.InstanceNorm(channels, affine=False)
        if kind == "rms":
            return norm.RMSNorm(channels)
        return norm.BatchNorm(channels, mode=_MODES[kind])

    def activation(self, channels: int) -> nn.Module:
        """By name; prelu acts on the parts."""
        if self.options.activation == "prelu":
            return activation.Split(nn.PReLU())
        return activation.activation(self.options.activation, channels)

    def max_pool(self, size: int, *, stride: int, padding: int) -> nn.Module:
        """The number of largest magnitude."""
        return pool.MaxPool(size, ndim=self.options.ndim, stride=stride, padding=padding)

    def upsample(self, scale: Size) -> nn.Module:
        """Of the numbers, never of their phase."""
        return upsample.Upsample(scale, ndim=self.options.ndim, mode=self.options.upsample)

    def dropout(self) -> nn.Module:
        """Single values, phase kept."""
        return dropout.Dropout(self.options.dropout)

    def gate(self, channels: int, gate_channels: int) -> nn.Module:
        """Real numbers in (0, 1) from magnitudes, so that phase is kept."""
        return attention.AttentionGate(channels, gate_channels, ndim=self.options.ndim)

    def head(self, channels: int, n_classes: int) -> nn.Module:
        """By the kind of the options."""
        if self.options.head == "none":
            return RealPart()
        return head.Head(channels, n_classes, ndim=self.options.ndim, kind=self.options.head)

    def global_pool(self, kind: str) -> nn.Module:
        """Mean of magnitudes, or magnitude of the mean."""
        return pool.GlobalPool(kind)
