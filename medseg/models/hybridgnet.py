"""HybridGNet: a convolutional encoder, a latent space, and a graph decoder that draws contours.

Source: Gaggion, Mansilla, Mosquera, Milone, Ferrante 2022, doi:10.1109/TMI.2022.3224660,
arXiv:2203.10977; the preset `hybridgnet_2022` is that network. Differs without it: a bottleneck for
any input size, normalisation within each image, circular unpooling, lookups aligned with the image,
positions as corrections of a mean shape. No code followed.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.geometry import graph
from medseg.geometry.contour import Contour, contours
from medseg.nn.graph import ChebConv, FixedGraph, Layer
from medseg.nn.lookup import lookup, lookup_adaptive
from medseg.nn.published import from_published as from_published
from medseg.nn.published import published_arguments as published_arguments
from medseg.nn.published import published_key as published_key
from medseg.nn.pyramid import Pyramid, TopDown
from medseg.nn.shape import Encoding, Shape

_LOOKUPS = {"fixed": lookup, "adaptive": lookup_adaptive}
_SHIFTS = {"center": 0.5, "index": 0.0}
_STDS = {"fan_in": None, "published": 0.1}
_SMALL = 0.01
_STEP = 0.03
_START_LOG_SD = -4.4


class HybridGNet(nn.Module):
    """Landmarks of closed and open contours in images whose sides are multiples of `stride`.

    Args:
        organs: contours by name: a number of nodes, or `nodes` and `closed`.
        in_channels: of the image.
        widths: channels of the encoder, one a level; each level has half the side of the last.
        latent: numbers that an image is reduced to.
        width: features of a node; half as many before the first lookup.
        order: of the Chebyshev convolutions: a node sees order - 1 neighbours to each side.
        lookups: level of each lookup of image features, 1 the finest: none, one for the coarse
            nodes, further ones for the fine nodes.
        window: pixels of the map that a lookup averages, in each direction.
        pooling: whether the decoder starts with half the nodes.
        norm: of the encoder: group, instance, batch or (as published) batch_stats.
        sampling: fixed, or (as published) adaptive.
        align: center, or (as published) index: see `medseg.nn.lookup`.
        circular: whether unpooling closes the contours, which was not published.
        detach: whether no gradient reaches a position through the features found there.
        bottleneck: side of the grid that the coarsest map is averaged to, for any input size; or
            (as published) flatten, which takes images of one `size`.
        size: side of the images, for flatten alone.
        residual: whether positions are corrections, in units of 3 % of the side: the first of the
            mean shape, the others of the position before them.
        top_down: channels of a feature pyramid to look up in; 0 for the encoder's own maps.
        pixels: whether a map of every organ can be had from the finest map, to learn from.
        covariance: whether a head gives every landmark's covariance; it learns by itself, no
            gradient leaves it.
        layer: another graph layer, made from its numbers of features; it sees the edges alone.
        init: of the graph layers: fan_in, or (as published) published.
    """

    ndim = 2
    up: Tensor
    down: Tensor
    mean: Tensor

    def __init__(
        self,
        organs: Mapping[str, int | Mapping[str, Any]],
        *,
        in_channels: int = 1,
        widths: Sequence[int] = (8, 16, 32, 64, 128, 128),
        latent: int = 64,
        width: int = 32,
        order: int = 6,
        lookups: Sequence[int] = (6, 5),
        window: int = 3,
        pooling: bool = True,
        norm: str = "group",
        sampling: str = "fixed",
        align: str = "center",
        circular: bool = True,
        detach: bool = True,
        bottleneck: int | str = 8,
        size: int | None = None,
        residual: bool = True,
        top_down: int = 0,
        pixels: bool = False,
        covariance: bool = False,
        layer: Layer | None = None,
        init: str = "fan_in",
    ) -> None:
        super().__init__()
        numbers = {"in_channels": in_channels, "latent": latent, "order": order, "window": window}
        _check_numbers({**numbers, "half of width": width // 2, "levels": len(widths)})
        self.organs = contours(organs, least=5 if pooling else 3)
        self.stride = 2 ** (len(widths) - 1)
        self.size = size
        self.lookups = _check_lookups(lookups, len(widths), bool(top_down or pixels))
        self.residual, self.detach, self.window = residual, detach, window
        self._lookup = _chosen("sampling", sampling, _LOOKUPS)
        self._shift = _chosen("align", align, _SHIFTS)
        std = _chosen("init", init, _STDS)

        self.encoder = Pyramid(in_channels, widths, norm=norm)
        self.lowest = min((*self.lookups, len(widths)))
        seen = widths[self.lowest - 1 :]
        self.join = TopDown(seen, top_down, lowest=1) if top_down else None
        self.grid = _grid(bottleneck, size, self.stride)
        cells = (size // self.stride if size else self.grid or 0) ** 2
        self.mu = nn.Linear(widths[-1] * cells, latent)
        self.logvar = nn.Linear(widths[-1] * cells, latent)

        channels = [top_down or widths[level - 1] for level in self.lookups]
        few = self._place(pooling, circular)
        self.start = nn.Linear(latent, self.n_coarse * (width // 2))
        self.layers = nn.ModuleList(
            _layer(i, o, contours=few if coarse else self.organs, order=order, layer=layer)
            for i, o, coarse in _sizes(width, channels)
        )
        self.heads = nn.ModuleList(
            nn.Linear(width if step else width // 2, 2, bias=residual)
            for step in range(len(channels))
        )
        self.out = nn.Linear(width, 2, bias=residual)
        self.finest = self.lookups.index(self.lowest) if self.lookups else None
        self.pixels = nn.Conv2d(channels[self.finest or 0], len(organs), 1) if pixels else None
        self.covariance = nn.Linear(width, 3) if covariance else None
        self._initialise(std)

    def _place(self, pooling: bool, circular: bool) -> tuple[Contour, ...]:
        """Keep what joins fine and coarse nodes, and the mean shape; the coarse contours."""
        few = graph.coarse(self.organs) if pooling else self.organs
        self.n_coarse = sum(contour.nodes for contour in few)
        if pooling:
            up = graph.up(self.organs, circular=circular)
            self.register_buffer("up", _tensor(up), persistent=False)
            self.register_buffer("down", _tensor(graph.down(self.organs)), persistent=False)
        self.pooling = pooling
        if self.residual:
            self.register_buffer("mean", _tensor(graph.ellipses(self.organs)))
        return few

    def _initialise(self, std: float | None) -> None:
        for layer in self.layers:
            if isinstance(layer, ChebConv):
                layer.reset(std)
        position = std or (0.1 if self.residual else _SMALL)
        for head in (*self.heads, self.out):
            nn.init.normal_(head.weight, 0, position)
            if head.bias is not None:
                nn.init.zeros_(head.bias)
        if std is not None:
            nn.init.normal_(self.start.weight, 0, std)
        if self.covariance is not None:
            nn.init.normal_(self.covariance.weight, 0, _SMALL)
            nn.init.zeros_(self.covariance.bias)
            nn.init.constant_(self.covariance.bias[:2], _START_LOG_SD)

    def set_mean(self, landmarks: Float[Tensor, "n 2"]) -> None:
        """Start from this shape, in shares of the side; without `residual` there is none to set."""
        if self.residual:
            self.mean.copy_(landmarks)

    def forward(
        self, image: Float[Tensor, "b c h w"], noise: Float[Tensor, "b z"] | None = None
    ) -> Float[Tensor, "b n 2"]:
        """Landmarks (x, y) as shares of the side; of the latent's mean, or of a draw by `noise`."""
        features, maps = self._see(image)
        with _exact(features):
            latent = self.mu(features)
            if noise is not None:
                latent = latent + noise * (0.5 * self.logvar(features)).exp()
        return self.decode(latent, maps).landmarks

    def encode(self, image: Float[Tensor, "b c h w"]) -> Encoding:
        """The latent's distribution, and the maps that `decode` looks up in."""
        features, maps = self._see(image)
        with _exact(features):
            return Encoding(self.mu(features), self.logvar(features), maps)

    def decode(
        self, latent: Float[Tensor, "k z"], maps: Sequence[Float[Tensor, "_ _ _ _"]]
    ) -> Shape:
        """The shape of each latent; maps of one image serve any number of latents."""
        with _exact(latent):
            return self._draw(latent, maps)

    def _see(self, image: Float[Tensor, "b c h w"]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What the bottleneck reads and a map a lookup, in the weights' precision."""
        levels = self.encoder(image, lowest=self.lowest)
        deepest = levels[-1]
        if self.join is not None:
            levels = self.join(levels)
        if self.grid is not None:
            deepest = functional.adaptive_avg_pool2d(deepest, self.grid)
        kind = self.mu.weight.dtype
        maps = tuple(levels[level - self.lowest].to(kind) for level in self.lookups)
        return deepest.flatten(1).to(kind), maps

    def _draw(self, latent: Tensor, maps: Sequence[Tensor]) -> Shape:
        x = rearrange(functional.relu(self.start(latent)), "k (n f) -> k n f", n=self.n_coarse)
        first, second, enter, fine, *further = self.layers
        positions: list[Tensor] = []
        x = _normal(second(_normal(first(x))))
        x = _normal(enter(self._look(x, positions, maps, fine=not self.pooling)))
        x = _normal(fine(self.up @ x if self.pooling else x))
        for number, layer in enumerate(further):
            y = _normal(layer(self._look(x, positions, maps)))
            x = x + y if number else y
        landmarks = self._position(self.out, x, positions)
        covariance = None if self.covariance is None else self.covariance(x.detach())
        return Shape(landmarks, tuple(positions), covariance)

    def decode_pixels(self, maps: Sequence[Float[Tensor, "_ _ _ _"]]) -> Float[Tensor, "b k h w"]:
        """A logit of every organ at every pixel of the finest map, for training."""
        if self.pixels is None or self.finest is None:
            raise ValueError("this network has no pixel head; build it with pixels=True")
        logits: Tensor = self.pixels(maps[self.finest])
        return logits

    def _look(
        self, x: Tensor, positions: list[Tensor], maps: Sequence[Tensor], *, fine: bool = True
    ) -> Tensor:
        """Features, image and position of every node; the position joins `positions`."""
        step = len(positions)
        if step == len(self.lookups):
            return x
        position = self._position(self.heads[step], x, positions, fine=fine)
        where = position.detach() if self.detach else position
        image = self._lookup(where, maps[step], window=self.window, shift=self._shift)
        positions.append(position)
        return torch.cat([x, image, position - 0.5 if self.residual else position], -1)

    def _position(
        self, head: nn.Module, x: Tensor, positions: Sequence[Tensor], *, fine: bool = True
    ) -> Tensor:
        """Where the nodes lie, afresh or as a correction of the last position."""
        offset: Tensor = head(x)
        if not self.residual:
            return offset
        offset = _STEP * offset  # an optimiser's step moves all nodes alike: by little
        if not positions:
            return offset + (self.mean if fine else self.down @ self.mean)
        last = positions[-1].detach()
        if self.pooling and len(positions) == 1:
            last = self.mean + self.up @ (last - self.down @ self.mean)
        return offset + last


def _layer(
    i: int, o: int, *, contours: Sequence[Contour], order: int, layer: Layer | None
) -> nn.Module:
    adjacency = graph.adjacency(contours)
    if layer is None:
        return ChebConv(i, o, adjacency=adjacency, order=order)
    return FixedGraph(i, o, layer=layer, adjacency=adjacency)


def _sizes(width: int, channels: Sequence[int]) -> Iterator[tuple[int, int, bool]]:
    """Features before and after every graph layer, and whether it acts on the coarse nodes."""
    half, looks = width // 2, [count + 2 for count in channels]
    yield half, half, True
    yield half, half, True
    yield half + sum(looks[:1]), width, True
    yield width, width, False
    for look in looks[1:] or [0]:
        yield width + look, width, False


def _exact(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """No automatic half precision: it would round a position to some pixels."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


def _normal(x: Float[Tensor, "b n f"]) -> Float[Tensor, "b n f"]:
    """ReLU of every node's features at mean 0 and variance 1, without learned numbers."""
    return functional.relu(functional.layer_norm(x, x.shape[-1:]))


def _tensor(array: Float[np.ndarray, "..."]) -> Tensor:
    return torch.tensor(array, dtype=torch.get_default_dtype())


def _chosen(name: str, value: str, known: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if value not in known:
        raise ValueError(f"{name} {value!r} is not known; choose one of {', '.join(known)}")
    return known[value]


def _check_numbers(numbers: Mapping[str, int]) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be at least 1")


def _check_lookups(lookups: Sequence[int], levels: int, needed: bool) -> tuple[int, ...]:
    wrong = [level for level in lookups if not 1 <= level <= levels]
    if wrong:
        raise ValueError(f"lookups names level {wrong[0]}; the encoder has levels 1 to {levels}")
    if needed and not lookups:
        raise ValueError("top_down and pixels work on maps that are looked up; name some lookups")
    return tuple(lookups)


def _grid(bottleneck: int | str, size: int | None, stride: int) -> int | None:
    """Side of the grid that the bottleneck reads, or None where it reads all of the map."""
    if bottleneck == "flatten":
        if size is None or size < 1 or size % stride:
            raise ValueError(
                f"size is {size}; bottleneck=flatten needs the images' side, a multiple of {stride}"
            )
        return None
    if not isinstance(bottleneck, int) or bottleneck < 1:
        raise ValueError(f"bottleneck is {bottleneck!r}; give a grid's side such as 8, or flatten")
    if size is not None:
        raise ValueError(f"size is {size}, but bottleneck={bottleneck} takes any; set size=null")
    return bottleneck
