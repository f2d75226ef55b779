"""Landmarks by two linear layers from a latent: the decoder that knows nothing of contours.

Source: the baseline of Gaggion, Mansilla, Mosquera, Milone, Ferrante 2022,
doi:10.1109/TMI.2022.3224660, arXiv:2203.10977. No code followed. Differs: images of any size; the
last layer gives corrections of the mean shape.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.geometry import graph
from medseg.geometry.contour import contours
from medseg.nn.shape import Encoding, Shape, ShapeEncoder

_POSITION_STD = 0.01


class FCShape(nn.Module):
    """Contours decoded from the latent of a variational encoder by fully connected layers.

    Args:
        organs: contours by name: a number of nodes, or `nodes` and `closed`.
        in_channels: of the image.
        widths: channels of the encoder, one a level; each level has half the side of the last.
        latent: numbers that an image is reduced to.
        hidden: features between the two layers of the decoder.
        norm: of the encoder: group, instance, batch or (as published) batch_stats.
        bottleneck: side of the grid that the coarsest map is averaged to.
    """

    ndim = 2
    mean: Tensor

    def __init__(
        self,
        organs: Mapping[str, int | Mapping[str, Any]],
        *,
        in_channels: int = 1,
        widths: Sequence[int] = (8, 16, 32, 64, 128, 128),
        latent: int = 64,
        hidden: int = 512,
        norm: str = "group",
        bottleneck: int = 8,
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}; it must be at least 1")
        self.organs = contours(organs)
        self.encoder = ShapeEncoder(
            in_channels, widths, latent=latent, norm=norm, bottleneck=bottleneck
        )
        self.stride, self.latent = self.encoder.stride, latent
        mean = torch.tensor(graph.ellipses(self.organs), dtype=torch.get_default_dtype())
        self.register_buffer("mean", mean)
        self.start = nn.Linear(latent, hidden)
        self.out = nn.Linear(hidden, mean.numel())
        nn.init.normal_(self.out.weight, 0, _POSITION_STD)
        nn.init.zeros_(self.out.bias)

    def set_mean(self, landmarks: Float[Tensor, "n 2"]) -> None:
        """Start from this shape, in shares of the side."""
        self.mean.copy_(landmarks)

    def forward(
        self, image: Float[Tensor, "b c h w"], noise: Float[Tensor, "b z"] | None = None
    ) -> Float[Tensor, "b n 2"]:
        """Landmarks (x, y) as shares of the side; of the latent's mean, or of a draw by `noise`."""
        return self.decode(self.encode(image).latent(noise)).landmarks

    def encode(self, image: Float[Tensor, "b c h w"]) -> Encoding:
        """The latent's distribution."""
        found: Encoding = self.encoder(image)
        return found

    def decode(
        self,
        latent: Float[Tensor, "k z"],
        maps: Sequence[Float[Tensor, "_ _ _ _"]] = (),  # noqa: ARG002 -- networks alike
    ) -> Shape:
        """The shape of each latent; maps are not looked at."""
        offset = self.out(functional.relu(self.start(latent)))
        return Shape(self.mean + rearrange(offset, "k (n xy) -> k n xy", xy=2), (), None)
