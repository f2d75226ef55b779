"""U-Nets of complex numbers for segmentation, and their real counterparts from the same plan.

Source: `unet` has the plan of MONAI's `UNet` with two residual units (Kerfoot et al. 2018,
doi:10.1007/978-3-030-12029-0_40), `attention` adds the gates of Oktay et al. 2018,
arXiv:1804.03999; `residual` is Myronenko 2018, arXiv:1810.11654, without its autoencoder. Differs:
the last level keeps its width before the head, but for `head=none`. No code followed.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.complex.arms import assembled
from medseg.nn.complex.layers import Layers, options, ordered, up
from medseg.nn.conv import Size, sizes, stride_of

_BLOCKS = (1, 2, 4)
_DIVISOR = 8
_WIDEST = 8192


class _Unit(nn.Module):
    """Convolutions with normalisation and activation, and a residual convolution where needed."""

    def __init__(
        self,
        layers: Layers,
        i: int,
        o: int,
        *,
        stride: Size = 1,
        convolutions: int = 2,
        plain: bool = False,
    ) -> None:
        super().__init__()
        path: list[nn.Module] = []
        for n in range(convolutions):
            path.append(layers.conv(i if n == 0 else o, o, stride=stride if n == 0 else 1))
            path += [] if plain else ordered(layers, o)
        self.path = nn.Sequential(*path)
        self.residual: nn.Module = nn.Identity()
        if max(sizes(stride, layers.options.ndim)) > 1:
            self.residual = layers.conv(i, o, stride=stride)
        elif i != o:
            self.residual = layers.conv(i, o, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Path and residual added."""
        return self.path(x) + self.residual(x)


class _PreActivated(nn.Module):
    """Normalisation, activation, convolution, twice; the input added."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        halves = [
            [layers.norm(channels), layers.activation(channels), layers.conv(channels, channels)]
            for _ in range(2)
        ]
        self.path = nn.Sequential(*halves[0], *halves[1])

    def forward(self, x: Tensor) -> Tensor:
        """Path and input added."""
        return x + self.path(x)


class UNetBody(nn.Module):
    """Residual units with strides down, transposed convolutions up, skips stacked or gated."""

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        *,
        widths: Sequence[int],
        n_classes: int,
        strides: Sequence[Size],
        gated: bool = False,
    ) -> None:
        super().__init__()
        *skips, bottom = widths
        bare = layers.options.head == "none"
        pairs = zip((in_channels, *skips), skips, strides, strict=False)
        self.down = nn.ModuleList(_Unit(layers, i, o, stride=s) for i, o, s in pairs)
        self.bottom = _Unit(layers, skips[-1], bottom)
        self.up, self.gates = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(skips))):
            first, last = level == 0, level == len(skips) - 1
            skip, under = skips[level], bottom if last else skips[level]
            o = (n_classes if bare else skips[0]) if first else skips[level - 1]
            unit = _Unit(layers, o, o, convolutions=1, plain=first and bare)
            rise = up(layers, (skip + under, o), stride=strides[level])
            self.up.append(nn.Sequential(rise, *ordered(layers, o), unit))
            self.gates.append(layers.gate(skip, under) if gated else nn.Identity())
        self.head = layers.head(n_classes if bare else skips[0], n_classes)
        self.gated = gated

    def features(self, x: Tensor) -> Tensor:
        """The last map before the head."""
        skips = []
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        x = self.bottom(x)
        for rise, gate, skip in zip(self.up, self.gates, reversed(skips), strict=True):
            kept = gate(skip, x) if self.gated else skip
            x = rise(torch.cat([kept, x], 1))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Real logits."""
        return self.head(self.features(x))


class ResidualBody(nn.Module):
    """Pre-activated residual blocks, strided convolutions down, interpolation up, skips added."""

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        *,
        widths: Sequence[int],
        n_classes: int,
        strides: Sequence[Size],
    ) -> None:
        super().__init__()
        first, middle, last = _BLOCKS
        counts = [first, *[middle] * (len(widths) - 2), last]
        drop = [layers.dropout()] if layers.options.dropout else []
        self.enter = nn.Sequential(layers.conv(in_channels, widths[0]), *drop)
        self.down, self.blocks = nn.ModuleList([nn.Identity()]), nn.ModuleList()
        for (i, o), stride in zip(itertools.pairwise(widths), strides, strict=True):
            self.down.append(layers.conv(i, o, stride=stride))
        for width, count in zip(widths, counts, strict=True):
            self.blocks.append(nn.Sequential(*(_PreActivated(layers, width) for _ in range(count))))
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(strides))):
            o = widths[level]
            self.up.append(up(layers, (widths[level + 1], o), stride=strides[level]))
            self.decoder.append(_PreActivated(layers, o))
        self.leave = nn.Sequential(layers.norm(widths[0]), layers.activation(widths[0]))
        self.head = layers.head(widths[0], n_classes)

    def features(self, x: Tensor) -> Tensor:
        """The last map before the head."""
        x, skips = self.enter(x), []
        for down, block in zip(self.down, self.blocks, strict=True):
            x = block(down(x))
            skips.append(x)
        for rise, block, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = block(rise(x) + skip)
        return self.leave(x)

    def forward(self, x: Tensor) -> Tensor:
        """Real logits."""
        return self.head(self.features(x))


_TOPOLOGY: dict[str, Callable[..., nn.Module]] = {
    "unet": UNetBody,
    "attention": functools.partial(UNetBody, gated=True),
    "residual": ResidualBody,
}
_USUAL = {"activation": "crelu", "head": "concat"}
_DEFAULTS = {
    "unet": {**_USUAL, "norm": "batch", "upsample": "transposed"},
    "attention": {**_USUAL, "norm": "batch", "upsample": "transposed"},
    "residual": {**_USUAL, "norm": "group", "upsample": "linear"},
}


class ComplexNet(nn.Module):
    """Segmentation by a complex network, or by the real one it is to be compared with.

    Real arms have the nearest real layer for each complex one. `unet` and `attention` begin with a
    strided unit, so that the finest skip has half the image's size; `residual` keeps full size.

    Args:
        in_channels: real channels of the image; of complex data the real parts, then the imaginary.
        n_classes: background included.
        complex_input: how the data became complex, of `sample.COMPLEX_INPUT`; None: real data.
        arm: which of the networks to compare, see `medseg.nn.complex.arms`.
        topology: unet (residual units), attention (gates on its skips), residual (pre-activated).
        width: features of the first level of `real`, `complex` and `two_channel`; they double with
            each level. The other arms' widths are solved.
        depth: number of times the size is reduced.
        ndim: 2 (slices) or 3 (volumes).
        strides: each reduction, a number or one an axis; 2 everywhere by default.
        norm: batch, circular, split, group, instance, rms or none; group in `residual`, else batch.
        activation: crelu, modrelu, zrelu, cardioid, modsilu, threshold or prelu.
        head: concat, magnitude, real, invariant; none makes the last level the logits, as MONAI.
        upsample: transposed, nearest, linear or fourier; linear in `residual`, else transposed.
        dropout: probability, in units before each activation, in `residual` after the entry.
        equivariant: bias-free convolutions, norm rms, activation modrelu and head invariant, so
            that a turn of the whole image's phase turns all features and leaves the logits.
        widths: the arm's own hidden widths where they are known; None solves them.
    """

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        *,
        complex_input: str | None = None,
        arm: str = "complex",
        topology: str = "unet",
        width: int = 16,
        depth: int = 4,
        ndim: int = 2,
        strides: Sequence[int | Sequence[int]] | None = None,
        norm: str | None = None,
        activation: str | None = None,
        head: str | None = None,
        upsample: str | None = None,
        dropout: float = 0.0,
        equivariant: bool = False,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _check(topology, {"n_classes": n_classes, "width": width, "depth": depth})
        steps = [2] * depth if strides is None else list(strides)
        if len(steps) != depth:
            raise ValueError(f"strides has {len(steps)} entries for depth {depth}; give as many")
        if widths is not None and len(widths) != depth + 1:
            raise ValueError(f"widths has {len(widths)} entries; depth {depth} has {depth + 1}")
        given = {"norm": norm, "activation": activation, "head": head, "upsample": upsample}
        chosen = options(
            _DEFAULTS[topology],
            equivariant=equivariant,
            ndim=ndim,
            dropout=dropout,
            bias=topology != "residual",
            **given,
        )
        self.arm, self.in_channels, self.ndim = arm, in_channels, ndim
        self.stride = stride_of(steps, ndim)
        (self.entry, self.body), self.widths = assembled(
            functools.partial(_TOPOLOGY[topology], n_classes=n_classes, strides=steps),
            [width * 2**level for level in range(depth + 1)] if widths is None else widths,
            options=chosen,
            arm=arm,
            in_channels=in_channels,
            complex_input=complex_input,
            size=[8 * n for n in sizes(self.stride, ndim)],
            settled=widths is not None,
            divisor=_DIVISOR if chosen.norm == "group" else 1,
        )

    def forward(self, image: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        """Real logits; every spatial size is a multiple of `stride`."""
        return self.body(self.entry(image))


def _check(topology: str, numbers: Mapping[str, int]) -> None:
    if topology not in _TOPOLOGY:
        raise ValueError(
            f"topology {topology!r} is not known; choose one of {', '.join(_TOPOLOGY)}"
        )
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be at least 1")
    widest = numbers["width"] * 2 ** numbers["depth"]
    if widest > _WIDEST:
        raise ValueError(
            f"width {numbers['width']} and depth {numbers['depth']} make {widest} features at the "
            f"bottom; at most {_WIDEST} fit a machine: take less of either"
        )
