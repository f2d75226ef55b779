"""IVD-Net: one encoder path a modality, hyper-densely connected, one decoder.

Source: Dolz, Desrosiers, Ben Ayed 2018, arXiv:1811.08305 (no code followed; the authors' repository
carries no licence). Differs: the history of a level reaches the next one by max pooling, so that
all maps stay aligned; `history="crop"` is the centre crop of 2018 with the same weights. Also 3-D.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.conv import (
    activation,
    check_ndim,
    conv,
    max_pool,
    norm,
    plain_size,
    sizes,
    transposed,
)

_BRANCHES = ((1, 1), (3, 1), (5, 1), (3, 2), (3, 4))


def _unit(
    i: int, o: int, kernel: Sequence[int], dilation: Sequence[int], ndim: int
) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    convolution = conv(i, o, kernel=kernel, ndim=ndim, dilation=dilation)
    return nn.Sequential(convolution, norm(o, "batch", ndim=ndim), activation("relu"))


def _branch(
    channels: int, kernel: int, dilation: int, ndim: int, factorised: bool
) -> nn.Sequential:
    """One kernel of the inception module; factorised, an axis a layer, the first axis first."""
    if not factorised:
        return nn.Sequential(_unit(channels, channels, (kernel,) * ndim, (dilation,) * ndim, ndim))
    layers = []
    for axis in range(ndim):
        k = tuple(kernel if a == axis else 1 for a in range(ndim))
        d = tuple(dilation if a == axis else 1 for a in range(ndim))
        layers.append(_unit(channels, channels, k, d, ndim))
    return nn.Sequential(*layers)


class Inception(nn.Module):
    """Residual inception module of five parallel kernels, two of them dilated."""

    def __init__(self, in_channels: int, channels: int, *, ndim: int, factorised: bool) -> None:
        super().__init__()
        one, three = (1,) * ndim, (3,) * ndim
        self.enter = _unit(in_channels, channels, three, one, ndim)
        self.branches = nn.ModuleList(
            _branch(channels, k, d, ndim, factorised) for k, d in _BRANCHES
        )
        self.merge = _unit(len(_BRANCHES) * channels, channels, one, one, ndim)
        self.leave = _unit(channels, channels, three, one, ndim)

    def forward(self, x: Float[Tensor, "b i *s"]) -> Float[Tensor, "b o *s"]:
        """Enter, five views side by side, merge, add, leave."""
        entered = self.enter(x)
        merged = self.merge(torch.cat([branch(entered) for branch in self.branches], 1))
        return self.leave(entered + merged)


def centre_crop(x: Float[Tensor, "b c *s"], size: Sequence[int]) -> Float[Tensor, "b c *t"]:
    """Cut the same amount from both ends; an odd difference leaves one voxel too many."""
    for axis, new in enumerate(size, start=2):
        margin = (x.shape[axis] - new) // 2
        x = x.narrow(axis, margin, x.shape[axis] - 2 * margin)
    return x


class IVDNet(nn.Module):
    """Segmentation from M aligned contrasts, each with an encoder path of its own.

    Path m of a level reads the pooled features of all paths of the level above, its own first and
    the others in cyclic order, and that level's own input (the history). The decoder averages its
    up-sampled map with the skips of all paths.

    Args:
        in_channels: number of contrasts M; one path each.
        n_classes: background included.
        width: features of the first level; they double with each level.
        depth: number of encoder levels above the bridge.
        ndim: 2 (slices) or 3 (volumes).
        strides: pooling of each level, a number or one an axis; 2 everywhere by default.
        history: `maxpool` keeps the history aligned with the pooled maps; `crop` as in 2018.
        skip_reduce: `mean` as the authors' code does, `sum` as their figure shows.
        factorised: encoder kernels an axis at a time (the asymmetric variant).
        init: `xavier_dcgan` as the authors', or `kaiming`.
    """

    def __init__(
        self,
        in_channels: int = 4,
        n_classes: int = 2,
        *,
        width: int = 32,
        depth: int = 4,
        ndim: int = 2,
        strides: Sequence[int | Sequence[int]] | None = None,
        history: str = "maxpool",
        skip_reduce: str = "mean",
        factorised: bool = True,
        init: str = "xavier_dcgan",
    ) -> None:
        super().__init__()
        _check(in_channels, n_classes, width, depth)
        _choose("history", history, ("maxpool", "crop"))
        _choose("skip_reduce", skip_reduce, ("mean", "sum"))
        _choose("init", init, ("xavier_dcgan", "kaiming"))
        self.ndim = check_ndim(ndim)
        self.n_paths = in_channels
        self.crop_history = history == "crop"
        self.skip_divisor = in_channels + 1 if skip_reduce == "mean" else 1
        steps = _steps(strides, depth, ndim)
        self.stride = _multiple(steps, self.crop_history)
        widths = [width * 2**level for level in range(depth + 1)]
        entries = [1, *(in_channels * width * (2**level - 1) for level in range(1, depth + 1))]
        self.pools = nn.ModuleList(max_pool(step, ndim=ndim) for step in steps)
        self.encoder = nn.ModuleList(
            nn.ModuleList(
                Inception(i, o, ndim=ndim, factorised=factorised) for _ in range(in_channels)
            )
            for i, o in zip(entries[:-1], widths[:-1], strict=True)
        )
        self.bridge = Inception(entries[-1], widths[-1], ndim=ndim, factorised=factorised)
        self.up = nn.ModuleList(
            up_block(2 * o, o, stride=s, ndim=ndim) for o, s in _upwards(widths, steps)
        )
        self.decoder = nn.ModuleList(
            Inception(o, o, ndim=ndim, factorised=False) for o, _ in _upwards(widths, steps)
        )
        self.head = conv(width, n_classes, kernel=3, ndim=ndim)
        initialise(self, init)

    def forward(self, image: Float[Tensor, "b c *s"]) -> Float[Tensor, "b k *s"]:
        """Logits; every spatial size is a multiple of `stride`."""
        inputs: Sequence[Tensor] = torch.split(image, 1, 1)
        skips: list[list[Tensor]] = []
        history: list[list[Tensor]] = []
        for level, pool in enumerate(self.pools):
            features = [path(x) for path, x in zip(self._paths(level), inputs, strict=True)]
            skips.append(features)
            pooled = [pool(x) for x in features]
            history = [pooled, *([self._older(x, pool) for x in maps] for maps in history)]
            deepest = level + 1 == len(self.pools)
            inputs = [_rotated(history, path) for path in range(1 if deepest else self.n_paths)]
        y = self.bridge(inputs[0])
        for up, block, features in zip(self.up, self.decoder, reversed(skips), strict=True):
            y = block(sum(features, start=up(y)) / self.skip_divisor)
        return self.head(y)

    def _paths(self, level: int) -> Iterable[nn.Module]:
        """The encoder blocks of a level, one a modality."""
        return cast("nn.ModuleList", self.encoder[level])

    def _older(self, x: Tensor, pool: nn.Module) -> Tensor:
        """A map that was made levels ago, at the next level's size."""
        if not self.crop_history:
            return pool(x)
        steps = cast("nn.MaxPool2d", pool).kernel_size
        sides = zip(x.shape[2:], sizes(steps, self.ndim), strict=True)
        return centre_crop(x, [n // step for n, step in sides])


def _rotated(history: Sequence[Sequence[Tensor]], path: int) -> Tensor:
    """A path's input: the maps of all paths, its own first, of the last level, then of older ones.

    The rotation is the same at every level, so one pooled map serves every path's history.
    """
    return torch.cat([x for maps in history for x in (*maps[path:], *maps[:path])], 1)


def up_block(i: int, o: int, *, stride: tuple[int, ...], ndim: int) -> nn.Sequential:
    """Transposed 3-convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        transposed(i, o, kernel=3, stride=stride, ndim=ndim),
        norm(o, "batch", ndim=ndim),
        activation("relu"),
    )


def _upwards(
    widths: Sequence[int], steps: Sequence[tuple[int, ...]]
) -> list[tuple[int, tuple[int, ...]]]:
    """Width and stride of the decoder's levels, deepest first."""
    return list(zip(widths[-2::-1], steps[::-1], strict=True))


def _check(in_channels: int, n_classes: int, width: int, depth: int) -> None:
    numbers = {"in_channels": in_channels, "n_classes": n_classes, "width": width, "depth": depth}
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be at least 1")


def _choose(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} {value!r} is not known; choose one of {', '.join(known)}")


def _steps(
    strides: Sequence[int | Sequence[int]] | None, depth: int, ndim: int
) -> list[tuple[int, ...]]:
    """The pooling of every level, an axis a number."""
    given = [2] * depth if strides is None else list(strides)
    if len(given) != depth:
        raise ValueError(
            f"strides has {len(given)} entries for a depth of {depth}; give one entry a level"
        )
    return [sizes(step, ndim) for step in given]


def _multiple(steps: Sequence[tuple[int, ...]], crop: bool) -> int | tuple[int, ...]:
    """What sizes must be multiples of; a centre crop also needs even differences below level 1."""
    per_axis = []
    for axis in zip(*steps, strict=True):
        needs = [math.prod(axis)]
        if crop:
            needs += [2 * math.prod(axis[: n + 1]) for n in range(1, len(axis)) if axis[n] % 2 == 0]
        per_axis.append(math.lcm(*needs))
    return plain_size(per_axis)


def initialise(network: nn.Module, kind: str) -> None:
    """Draw all weights anew, from torch's generator.

    `xavier_dcgan`: Xavier-normal convolutions, normalisation gains from N(1, 0.02); `kaiming`:
    He-normal convolutions, gains 1. Offsets 0; convolution biases keep torch's uniform draw.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            if kind == "kaiming":
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            else:
                nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.zeros_(module.bias)
            if kind == "kaiming":
                nn.init.ones_(module.weight)
            else:
                nn.init.normal_(module.weight, 1.0, 0.02)


_STAGE = re.compile(r"^(down_(\d+)_(\d+)|bridge|up_(\d+)|deconv_(\d+)|out)\.(.+)$")
_PART = re.compile(r"^conv_(1|3|2_output|2_(\d+))\.(\d+)\.(.+)$")


def upstream_block_key(key: str) -> str:
    """The name, within our inception module, of a tensor of the authors' block."""
    match = _PART.match(key)
    if match is None:
        raise ValueError(f"{key!r} is no tensor of the 2018 IVD-Net block")
    part, branch, index, tensor = match.groups()
    if branch is not None:
        layer, member = divmod(int(index), 3)
        return f"branches.{int(branch) - 1}.{layer}.{member}.{tensor}"
    return f"{ {'1': 'enter', '2_output': 'merge', '3': 'leave'}[part] }.{index}.{tensor}"


def upstream_key(key: str) -> str:
    """The name in `IVDNet` of a tensor of the authors' network."""
    match = _STAGE.match(key)
    if match is None:
        raise ValueError(f"{key!r} is no tensor of the 2018 IVD-Net; give its state dict")
    stage, level, path, up, deconv, rest = match.groups()
    if level is not None:
        return f"encoder.{int(level) - 1}.{path}.{upstream_block_key(rest)}"
    if up is not None:
        return f"decoder.{int(up) - 1}.{upstream_block_key(rest)}"
    if deconv is not None:
        return f"up.{int(deconv) - 1}.{rest}"
    return f"head.{rest}" if stage == "out" else f"bridge.{upstream_block_key(rest)}"


def upstream_arguments(shapes: Mapping[str, Sequence[int]]) -> dict[str, int | bool]:
    """Constructor arguments that the shapes of the authors' state dict imply."""
    stages = [match for match in map(_STAGE.match, shapes) if match is not None]
    levels = {int(match[2]) for match in stages if match[2]}
    paths = {int(match[3]) for match in stages if match[3]}
    first = shapes.get("down_1_0.conv_1.0.weight")
    if not levels or first is None or "out.weight" not in shapes:
        raise ValueError("this is no state dict of the 2018 IVD-Net: down_1_0, … or out is missing")
    return {
        "in_channels": len(paths),
        "n_classes": shapes["out.weight"][0],
        "width": first[0],
        "depth": len(levels),
        "factorised": "down_1_0.conv_2_2.3.weight" in shapes,
    }


def load_upstream(state: Mapping[str, Any], *, history: str = "crop") -> IVDNet:
    """The network of the authors' state dict; width, paths, levels, classes follow its shapes.

    State dicts only: the authors' files hold whole pickled modules, which run code when read. Open
    such a file where you trust it, and save `model.state_dict()`.
    """
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(
            f"a {type(state).__name__} came that is no state dict (names to tensors); save "
            "model.state_dict() where the model was made, or give the part that holds it"
        )
    plain = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    arguments = upstream_arguments({key: tuple(tensor.shape) for key, tensor in plain.items()})
    network = IVDNet(**arguments, history=history)  # type: ignore[arg-type]
    network.to(plain["out.weight"].dtype)
    network.load_state_dict({upstream_key(key): tensor for key, tensor in plain.items()})
    return network
