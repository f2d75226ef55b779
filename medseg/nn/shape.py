"""What networks of landmarks pass on, and an encoder of images for those without lookups.

Source: Gaggion, Mansilla, Mosquera, Milone, Ferrante 2022, arXiv:2203.10977. No code followed.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.pyramid import Pyramid


class Encoding(NamedTuple):
    """What the encoder says of images: the latent's mean and log variance, and a map a lookup."""

    mu: Tensor
    logvar: Tensor
    maps: tuple[Tensor, ...]

    def latent(self, noise: Float[Tensor, "k z"] | None = None) -> Float[Tensor, "k z"]:
        """The latent's mean, or draws of it by unit normal noise."""
        return self.mu if noise is None else self.mu + noise * (0.5 * self.logvar).exp()


class Shape(NamedTuple):
    """Landmarks (x, y) as shares of the image's side, and the positions of the lookups.

    `covariance` has three numbers a node, s, t and l: the covariance is C C^T with
    C = [[exp(s), 0], [l, exp(t)]], in units of the side.
    """

    landmarks: Tensor
    positions: tuple[Tensor, ...]
    covariance: Tensor | None


class ShapeEncoder(nn.Module):
    """Mean and log variance of numbers that an image of any size is reduced to.

    Args:
        in_channels: of the image.
        widths: channels, one a level; each level has half the side of the last.
        latent: numbers that an image is reduced to.
        norm: of the pyramid's blocks.
        bottleneck: side of the grid that the coarsest map is averaged to.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        latent: int,
        norm: str = "group",
        bottleneck: int = 8,
    ) -> None:
        super().__init__()
        numbers = {"in_channels": in_channels, "latent": latent, "bottleneck": bottleneck}
        for name, number in {**numbers, "levels": len(widths)}.items():
            if number < 1:
                raise ValueError(f"{name} is {number}; it must be at least 1")
        self.grid, self.levels = bottleneck, len(widths)
        self.stride = 2 ** (len(widths) - 1)
        self.pyramid = Pyramid(in_channels, widths, norm=norm)
        self.mu = nn.Linear(widths[-1] * bottleneck**2, latent)
        self.logvar = nn.Linear(widths[-1] * bottleneck**2, latent)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Encoding:
        """The distribution of the numbers; there are no maps to look up in."""
        deepest = self.pyramid(image, lowest=self.levels)[-1]
        features = functional.adaptive_avg_pool2d(deepest, self.grid).flatten(1)
        return Encoding(self.mu(features), self.logvar(features), ())
