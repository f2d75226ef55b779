"""Layers on a graph that never changes: Chebyshev convolution, and any layer of torch-geometric.

Source: Defferrard, Bresson, Vandergheynst 2016, arXiv:1606.09375, eq. 4. Differs: the polynomials
of the Laplacian are matrices computed once, so a layer is two matrix products, the second for each
contour by itself; the values are those of `torch_geometric.nn.ChebConv`. No code followed.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.geometry.graph import chebyshev, edges, parts, scaled_laplacian

Layer = Callable[[int, int], nn.Module]


class ChebConv(nn.Module):
    """Sum over k < order of T(k) x W(k), with T(k) the Chebyshev polynomials of the Laplacian.

    A node sees its neighbours up to order - 1 edges away. `weight[k]` is the transpose of W(k), as
    torch-geometric keeps it in `lins.k.weight`.
    """

    basis: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        adjacency: Float[np.ndarray, "n n"],
        order: int = 6,
        bias: bool = True,
    ) -> None:
        super().__init__()
        stacked = rearrange(chebyshev(scaled_laplacian(adjacency), order), "k i j -> i (j k)")
        self.register_buffer(
            "basis", torch.tensor(stacked, dtype=torch.get_default_dtype()), persistent=False
        )
        self.order, self.ends = order, parts(adjacency)
        self.weight = nn.Parameter(torch.empty(order, out_channels, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset()

    def reset(self, std: float | None = None) -> None:
        """Draw the weights from N(0, std), and the biases too; a bias is 0 if no `std` is given.

        Without one, sqrt(2 / fan-in) keeps the size of the features behind a ReLU.
        """
        fan_in = self.order * self.weight.shape[-1]
        nn.init.normal_(self.weight, 0, (2 / fan_in) ** 0.5 if std is None else std)
        if self.bias is not None:
            nn.init.normal_(self.bias, 0, std or 0.0)

    def forward(self, x: Float[Tensor, "b n f"]) -> Float[Tensor, "b n g"]:
        """The weights come first: they mostly reduce the features that the basis then mixes."""
        mixed = functional.linear(x, rearrange(self.weight, "k g f -> (k g) f"))
        if self.order > 1:
            k = self.order
            mixed = rearrange(mixed, "b n (k g) -> b (n k) g", k=k)
            blocks = [
                self.basis[first:end, k * first : k * end] @ mixed[:, k * first : k * end]
                for first, end in pairwise((0, *self.ends))
            ]
            mixed = torch.cat(blocks, 1)
        return mixed if self.bias is None else mixed + self.bias


class FixedGraph(nn.Module):
    """A torch-geometric layer on one graph, for features with a batch axis.

    The images of a batch enter as one graph without edges between them, which every layer takes.

    Args:
        in_channels: features a node has.
        out_channels: features it is to have.
        layer: makes the layer from these two numbers.
        adjacency: the graph.
    """

    edges: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        layer: Layer,
        adjacency: Float[np.ndarray, "n n"],
    ) -> None:
        super().__init__()
        self.layer = layer(in_channels, out_channels)
        self.register_buffer("edges", torch.tensor(edges(adjacency)), persistent=False)
        if not self.edges.is_meta:
            self._check(len(adjacency), in_channels, out_channels)

    @torch.no_grad()
    def _check(self, nodes: int, in_channels: int, out_channels: int) -> None:
        """Refuse, before training starts, a layer whose output has another width."""
        was = self.layer.training
        found = self.layer.eval()(self.edges.new_zeros(nodes, in_channels).float(), self.edges)
        self.layer.train(was)
        shape = tuple(getattr(found, "shape", ()))
        if shape != (nodes, out_channels):
            raise ValueError(
                f"the graph layer {type(self.layer).__name__} gives {shape} for {nodes} nodes; "
                f"({nodes}, {out_channels}) is wanted: one that maps node features to "
                f"{out_channels} (GATConv: concat=false)"
            )

    def forward(self, x: Float[Tensor, "b n f"]) -> Float[Tensor, "b n g"]:
        """Features of all nodes of all images."""
        b, n, _ = x.shape
        first = n * torch.arange(b, device=x.device)
        joined = rearrange(self.edges[:, None] + first[:, None], "ends b e -> ends (b e)")
        found: Tensor = self.layer(rearrange(x, "b n f -> (b n) f"), joined)
        return rearrange(found, "(b n) g -> b n g", b=b)
