"""ResNets of complex numbers for classification, and their real counterparts from the same plan.

Source: `resnet18` He et al. 2015, arXiv:1512.03385; `resnet3d_18`, `r2plus1d_18` (a 3-convolution
as one within slices and one across, with as many parameters) and `mixed_18` (convolutions across
slices in stem and first stage only) Tran et al. 2018, arXiv:1711.11248. Plans and parameter counts
of the real arms are those of torchvision's networks of these names. No code followed.
"""

import functools
import itertools
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.complex.arms import assembled
from medseg.nn.complex.layers import Layers, options

Convolution = Callable[..., nn.Module]

_LEVELS = 4
_BLOCKS = 2
_STEM_MIDDLE = 45 / 64
_KERNEL = 3
_DEFAULTS = {"norm": "batch", "activation": "crelu", "head": "concat", "upsample": "linear"}
_NDIM = {"resnet18": 2, "resnet3d_18": 3, "r2plus1d_18": 3, "mixed_18": 3}
_SIZE = {2: (224, 224), 3: (16, 112, 112)}


def _plain(layers: Layers, i: int, o: int, *, stride: int, middle: int) -> nn.Module:
    """A 3-convolution along all axes."""
    del middle
    return layers.conv(i, o, stride=stride)


def _within(layers: Layers, i: int, o: int, *, stride: int, middle: int) -> nn.Module:
    """A 3-convolution within slices."""
    del middle
    return layers.conv(i, o, kernel=(1, 3, 3), stride=(1, stride, stride))


def _factorised(layers: Layers, i: int, o: int, *, stride: int, middle: int) -> nn.Module:
    """A 3-convolution within slices, then one across them."""
    return nn.Sequential(
        layers.conv(i, middle, kernel=(1, 3, 3), stride=(1, stride, stride)),
        layers.norm(middle),
        layers.activation(middle),
        layers.conv(middle, o, kernel=(3, 1, 1), stride=(stride, 1, 1)),
    )


def middle_width(i: int, o: int) -> int:
    """Channels between the two factors, so that they hold what one 3x3x3 convolution does."""
    return (i * o * _KERNEL**3) // (i * _KERNEL**2 + _KERNEL * o)


class _Block(nn.Module):
    """Two convolutions and a residual, which is a strided 1-convolution where the shape changes."""

    def __init__(
        self, layers: Layers, i: int, o: int, *, stride: int, convolution: Convolution
    ) -> None:
        super().__init__()
        middle = middle_width(i, o)
        self.path = nn.Sequential(
            convolution(layers, i, o, stride=stride, middle=middle),
            layers.norm(o),
            layers.activation(o),
            convolution(layers, o, o, stride=1, middle=middle),
            layers.norm(o),
        )
        self.residual: nn.Module = nn.Identity()
        if stride != 1 or i != o:
            flat = convolution is _within
            steps = (1, stride, stride) if flat else stride
            self.residual = nn.Sequential(layers.conv(i, o, kernel=1, stride=steps), layers.norm(o))
        self.activation = layers.activation(o)

    def forward(self, x: Tensor) -> Tensor:
        """Path and residual added, then the activation."""
        return self.activation(self.path(x) + self.residual(x))


def _stem(layers: Layers, i: int, o: int, topology: str) -> nn.Sequential:
    """The first convolution, of 7 voxels within slices, stride 2 there."""
    if topology == "resnet18":
        first = [layers.conv(i, o, kernel=7, stride=2)]
        last = [layers.max_pool(3, stride=2, padding=1)]
    elif topology == "r2plus1d_18":
        middle, last = max(1, round(o * _STEM_MIDDLE)), []
        first = [
            layers.conv(i, middle, kernel=(1, 7, 7), stride=(1, 2, 2)),
            layers.norm(middle),
            layers.activation(middle),
            layers.conv(middle, o, kernel=(3, 1, 1)),
        ]
    else:
        first, last = [layers.conv(i, o, kernel=(3, 7, 7), stride=(1, 2, 2))], []
    return nn.Sequential(*first, layers.norm(o), layers.activation(o), *last)


class ResNetBody(nn.Module):
    """Stem, four stages of two blocks, pooling to real features, real linear classifier."""

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        *,
        widths: Sequence[int],
        n_classes: int,
        topology: str,
        pool: str,
        dropout: float,
    ) -> None:
        super().__init__()
        kinds: dict[str, list[Convolution]] = {
            "r2plus1d_18": [_factorised] * _LEVELS,
            "mixed_18": [_plain, *[_within] * (_LEVELS - 1)],
        }
        stages: list[nn.Module] = []
        pairs = itertools.pairwise((widths[0], *widths))
        kind = kinds.get(topology, [_plain] * _LEVELS)
        for level, ((i, o), convolution) in enumerate(zip(pairs, kind, strict=True)):
            block = functools.partial(_Block, layers, convolution=convolution)
            stages.append(block(i, o, stride=1 if level == 0 else 2))
            stages += [block(o, o, stride=1) for _ in range(_BLOCKS - 1)]
        self.stem = _stem(layers, in_channels, widths[0], topology)
        self.stages = nn.Sequential(*stages)
        self.pool = layers.global_pool(pool)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(widths[-1], n_classes)

    def features(self, x: Tensor) -> Tensor:
        """The last map before the pooling."""
        return self.stages(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        """Real logits."""
        return self.classify(self.dropout(self.pool(self.features(x))))


class ComplexResNet(nn.Module):
    """Classification by a complex network, or by the real one it is to be compared with.

    Args:
        in_channels: real channels of the image; of complex data the real parts, then the imaginary.
        n_classes: number of classes.
        complex_input: how the data became complex, of `sample.COMPLEX_INPUT`; None: real data.
        arm: which of the networks to compare, see `medseg.nn.complex.arms`.
        topology: resnet18 (2-D); resnet3d_18, r2plus1d_18, mixed_18 (3-D).
        width: features of the first stage of `real`, `complex` and `two_channel`; they double with
            each stage. The other arms' widths are solved.
        norm: batch, circular, split, group, instance, rms or none.
        activation: crelu, modrelu, zrelu, cardioid, modsilu, threshold or prelu.
        across: axis of space across the slices of a volume; the plans of 3-D treat it apart.
        pool: complex maps to real features: magnitude (mean |z|) or coherent (|mean z|).
        dropout: probability, of the pooled features.
        equivariant: norm rms and activation modrelu, so that a turn of the whole image's phase
            turns all features and leaves the logits.
        widths: the arm's own hidden widths where they are known; None solves them.
    """

    of_cases = True

    def __init__(
        self,
        in_channels: int,
        n_classes: int,
        *,
        complex_input: str | None = None,
        arm: str = "complex",
        topology: str = "resnet18",
        width: int = 64,
        norm: str | None = None,
        activation: str | None = None,
        across: int = 2,
        pool: str = "magnitude",
        dropout: float = 0.0,
        equivariant: bool = False,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if topology not in _NDIM:
            raise ValueError(
                f"topology {topology!r} is not known; choose one of {', '.join(_NDIM)}"
            )
        for name, number in {"n_classes": n_classes, "width": width}.items():
            if number < 1:
                raise ValueError(f"{name} is {number}; it must be at least 1")
        if widths is not None and len(widths) != _LEVELS:
            raise ValueError(f"widths has {len(widths)} entries; there are {_LEVELS} stages")
        if across not in (0, 1, 2):
            raise ValueError(f"across is {across}; volumes have the axes 0, 1 and 2")
        self.arm, self.in_channels = arm, in_channels
        self.ndim, self.stride = _NDIM[topology], 1
        self.across = across if self.ndim == 3 else 0
        chosen = options(
            _DEFAULTS,
            equivariant=equivariant,
            ndim=self.ndim,
            bias=False,
            norm=norm,
            activation=activation,
        )
        (self.entry, self.body), self.widths = assembled(
            functools.partial(
                ResNetBody, n_classes=n_classes, topology=topology, pool=pool, dropout=dropout
            ),
            [width * 2**level for level in range(_LEVELS)] if widths is None else widths,
            options=chosen,
            arm=arm,
            in_channels=in_channels,
            complex_input=complex_input,
            size=_SIZE[self.ndim],
            settled=widths is not None,
            divisor=8 if chosen.norm == "group" else 1,
        )

    def forward(self, image: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k"]:
        """Real logits of images of any size."""
        return self.body(self.entry(image.movedim(2 + self.across, 2)))
