"""What networks of landmarks pass on: the encoding of an image, and the shape that is decoded.

Source: Gaggion, Mansilla, Mosquera, Milone, Ferrante 2022, arXiv:2203.10977. No code followed.
"""

from typing import NamedTuple

from torch import Tensor


class Encoding(NamedTuple):
    """What the encoder says of images: the latent's mean and log variance, and a map a lookup."""

    mu: Tensor
    logvar: Tensor
    maps: tuple[Tensor, ...]


class Shape(NamedTuple):
    """Landmarks (x, y) as shares of the image's side, and the positions of the lookups.

    `covariance` has three numbers a node, s, t and l: the covariance is C C^T with
    C = [[exp(s), 0], [l, exp(t)]], in units of the side.
    """

    landmarks: Tensor
    positions: tuple[Tensor, ...]
    covariance: Tensor | None
