"""Layers on the sphere for NESTED maps: Chebyshev convolution, and any layer of torch-geometric.

Source: Perraudin, Defferrard, Kacprzak, Sgier 2019, arXiv:1810.12186, and Defferrard, Milani,
Gusset, Perraudin 2020, arXiv:2012.15000, section 3. Differs: the least-squares stencil unless
another graph is chosen, and how it is computed (see `medseg.nn.stencil`); `weight[k]` really
multiplies the k-th polynomial, which the authors' code mixes up. No code followed.
"""

import inspect
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from medseg.geometry import skygraph
from medseg.geometry.sphere import FACES, Sphere, whole_pixels
from medseg.nn.graph import Layer
from medseg.nn.stencil import Stencil, chebyshev
from medseg.nn.stencil import propagate as propagate

Footprint = tuple[int, Sequence[int]]
_KEPT = 64


def sphere_of(pixels: int, footprint: Footprint | None = None) -> Sphere:
    """The sky whose maps have so many pixels, NESTED.

    Args:
        pixels: of a map.
        footprint: of a part of the sky: an nside, and the pixels of that nside that are there
            with all their children; maps of finer nsides hold the children.

    Raises:
        ValueError: no nside gives so many.
    """
    coarse, numbers = (1, range(FACES)) if footprint is None else footprint
    side = round((pixels / len(numbers)) ** 0.5)
    if side < 1 or side & (side - 1) or side**2 * len(numbers) != pixels:
        raise ValueError(
            f"a map has {pixels} pixels; {len(numbers)} pixels of nside {coarse} have "
            f"{', '.join(str(len(numbers) * 4**level) for level in range(4))}, … children; "
            f"give a NESTED map that holds these pixels alone, whole"
        )
    if footprint is None:
        return Sphere(side)
    return Sphere(coarse * side, pixels=whole_pixels(coarse * side, coarse, pixels=numbers))


class ChebConv(nn.Module):
    """Chebyshev convolution of NESTED maps of any nside, on the whole sky or a part of it.

    The result is contiguous with pixels outermost ("n b c" in memory): layer after layer, nothing
    is transposed. Operators are made when a map of their nside first comes, and are no part of the
    state.

    Args:
        in_channels: of the maps that come.
        out_channels: of the maps that go.
        order: number of polynomials, K of the papers' code: a pixel sees order - 1 steps far.
        kind: of the graph, see `medseg.geometry.skygraph.graph`.
        laplacian: of the graph; None for the one that goes with its kind.
        footprint: a part of the sky, see `sphere_of`; None for all of it.
        bias: whether there is one.
        start: what biases begin with.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        order: int = 5,
        kind: str = "ls8",
        laplacian: str | None = None,
        footprint: Footprint | None = None,
        bias: bool = True,
        start: float = 0.01,
    ) -> None:
        super().__init__()
        if order < 1:
            raise ValueError(f"order is {order}; a layer has at least 1 polynomial")
        self.kind, self.laplacian, self.footprint = kind, laplacian, _frozen(footprint)
        self.weight = nn.Parameter(torch.empty(order, in_channels, out_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset(start)

    def reset(self, start: float = 0.01) -> None:
        """Draw the weights from N(0, sqrt(2 / fan-in)); set the biases."""
        order, fan_in, _ = self.weight.shape
        nn.init.normal_(self.weight, 0, (2 / (order * fan_in)) ** 0.5)
        if self.bias is not None:
            nn.init.constant_(self.bias, start)

    def forward(self, x: Float[Tensor, "b i n"]) -> Float[Tensor, "b o n"]:
        """Maps of the same pixels."""
        operator = operator_of(
            x, kind=self.kind, laplacian=self.laplacian, footprint=self.footprint
        )
        y = chebyshev(
            rearrange(x, "b i n -> n b i"), self.weight, operator=operator, bias=self.bias
        )
        return rearrange(y, "n b o -> b o n")

    def extra_repr(self) -> str:
        """What `print` shows."""
        order, i, o = self.weight.shape
        return f"{i}, {o}, order={order}, kind={self.kind}"


class SphereGraph(nn.Module):
    """A torch-geometric layer on the sphere's graph, for NESTED maps of any nside.

    The skies of a batch enter as one graph without edges between them; a layer whose `forward`
    takes `edge_weight` gets the graph's.

    Args:
        in_channels: of the maps that come.
        out_channels: of the maps that go.
        layer: makes the layer from these two numbers.
        kind: of the graph, see `medseg.geometry.skygraph.graph`.
        footprint: a part of the sky, see `sphere_of`; None for all of it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        layer: Layer,
        kind: str = "knn8",
        footprint: Footprint | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.footprint = kind, _frozen(footprint)
        self.layer = layer(in_channels, out_channels)
        self.weighted = "edge_weight" in inspect.signature(self.layer.forward).parameters
        if not any(p.is_meta for p in self.layer.parameters()):
            self._check(in_channels, out_channels)

    @torch.no_grad()
    def _check(self, in_channels: int, out_channels: int) -> None:
        """Refuse, before training starts, a layer whose output has another width."""
        was, ring = self.layer.training, torch.arange(4)
        some = (torch.zeros(4, in_channels), torch.stack([ring, ring.roll(1)]))
        shape = tuple(getattr(self.layer.eval()(*some), "shape", ()))
        self.layer.train(was)
        if shape != (4, out_channels):
            raise ValueError(
                f"the graph layer {type(self.layer).__name__} gives {shape} for 4 pixels; "
                f"(4, {out_channels}) is wanted: one that maps pixel features to {out_channels} "
                "(GATConv: concat=false)"
            )

    def forward(self, x: Float[Tensor, "b i n"]) -> Float[Tensor, "b o n"]:
        """Maps of the same pixels."""
        b, _, n = x.shape
        edges, weight = _edges(n, self.kind, self.footprint, x.dtype, x.device)
        first = n * torch.arange(b, device=x.device)
        joined = rearrange(edges[:, None] + first[:, None], "ends b e -> ends (b e)")
        more = {"edge_weight": weight.repeat(b)} if self.weighted else {}
        found: Tensor = self.layer(rearrange(x, "b i n -> (b n) i"), joined, **more)
        return rearrange(found, "(b n) o -> b o n", b=b)


def operator_of(
    x: Float[Tensor, "b c n"],
    *,
    kind: str = "ls8",
    laplacian: str | None = None,
    footprint: Footprint | None = None,
) -> Stencil:
    """The rescaled Laplacian, spectrum in [-1, 1], for maps such as `x`: its device, its pixels.

    It is made once, and kept for the next map. Numbers are double for double maps, else single.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    return _operator(x.shape[-1], kind, laplacian, _frozen(footprint), dtype, x.device)


def _frozen(footprint: Footprint | None) -> Footprint | None:
    """The same as tuples, which a table of what is known can be asked with."""
    return None if footprint is None else (footprint[0], tuple(footprint[1]))


@lru_cache(maxsize=_KEPT)
@torch.inference_mode(mode=False)  # else training could not use what predicting made
def _operator(
    pixels: int,
    kind: str,
    laplacian: str | None,
    footprint: Footprint | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Stencil:
    made = skygraph.operator(sphere_of(pixels, footprint), kind, laplacian=laplacian)

    def table(index: np.ndarray, weight: np.ndarray, back: Stencil | None = None) -> Stencil:
        return Stencil(
            torch.tensor(index, dtype=torch.int32, device=device),
            torch.tensor(weight, dtype=dtype, device=device),
            back,
        )

    back = None if made.symmetric else table(*made.transposed)
    return table(made.index, made.weight, back)


@lru_cache(maxsize=_KEPT)
@torch.inference_mode(mode=False)
def _edges(
    pixels: int,
    kind: str,
    footprint: Footprint | None,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Int[Tensor, "2 e"], Float[Tensor, " e"]]:
    """Edges from neighbours to pixels, as torch-geometric's layers take them, and their weights."""
    graph = skygraph.graph(sphere_of(pixels, footprint), kind)
    there = graph.weight != 0
    targets = np.broadcast_to(np.arange(pixels)[:, None], there.shape)
    edges = np.stack([graph.index[there], targets[there]])
    return (
        torch.tensor(edges, device=device),
        torch.tensor(graph.weight[there], dtype=dtype, device=device),
    )
