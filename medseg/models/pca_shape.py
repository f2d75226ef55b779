"""Landmarks as a mean shape plus principal modes of the training shapes, weighed by an encoder.

Source: the baseline of Gaggion, Mansilla, Mosquera, Milone, Ferrante 2022,
doi:10.1109/TMI.2022.3224660, arXiv:2203.10977; Cootes, Taylor, Cooper, Graham 1995,
doi:10.1006/cviu.1995.1004, sec. 3 (the modes). No code followed. Differs: images of any size; the
weights are counted in standard deviations of their mode and have a variance.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medseg.geometry import graph
from medseg.geometry.contour import contours
from medseg.nn.shape import Encoding, Shape, ShapeEncoder


class PCAShape(nn.Module):
    """Contours whose every shape is a weighted sum of modes; `fit_shapes` finds these.

    Args:
        organs: contours by name: a number of nodes, or `nodes` and `closed`.
        in_channels: of the image.
        widths: channels of the encoder, one a level; each level has half the side of the last.
        modes: most modes that a shape is made of.
        norm: of the encoder: group, instance, batch or (as published) batch_stats.
        bottleneck: side of the grid that the coarsest map is averaged to.
    """

    ndim = 2
    mean: Tensor
    basis: Tensor
    deviation: Tensor

    def __init__(
        self,
        organs: Mapping[str, int | Mapping[str, Any]],
        *,
        in_channels: int = 1,
        widths: Sequence[int] = (8, 16, 32, 64, 128, 128),
        modes: int = 64,
        norm: str = "group",
        bottleneck: int = 8,
    ) -> None:
        super().__init__()
        self.organs = contours(organs)
        self.encoder = ShapeEncoder(
            in_channels, widths, latent=modes, norm=norm, bottleneck=bottleneck
        )
        self.stride, self.latent = self.encoder.stride, modes
        mean = torch.tensor(graph.ellipses(self.organs), dtype=torch.get_default_dtype())
        self.register_buffer("mean", mean)
        self.register_buffer("basis", torch.zeros(modes, *mean.shape))
        self.register_buffer("deviation", torch.zeros(modes))

    @torch.no_grad()
    def fit_shapes(self, landmarks: Float[Tensor, "k n 2"]) -> None:
        """Mean, orthonormal modes and their standard deviations of shapes in shares of the side.

        A shape with a missing (NaN) landmark is left out. k shapes have k - 1 modes; those beyond
        them stay zero.
        """
        if tuple(landmarks.shape[1:]) != tuple(self.mean.shape):
            raise ValueError(
                f"the shapes have {tuple(landmarks.shape[1:])} numbers, the organs of this network "
                f"{tuple(self.mean.shape)}; give landmarks of these organs"
            )
        whole = landmarks[landmarks.isfinite().all((1, 2))].double().cpu()
        if len(whole) < 2:
            raise ValueError(
                f"{len(whole)} of {len(landmarks)} shapes have all landmarks, and modes need two; "
                "give more fully annotated cases, or name only organs that all of them have"
            )
        mean = whole.mean(0)
        centred = rearrange(whole - mean, "k n xy -> k (n xy)")
        _, sizes, modes = torch.linalg.svd(centred, full_matrices=False)
        count = min(self.latent, len(whole) - 1, centred.shape[1])
        self.mean.copy_(mean)
        self.basis.zero_()[:count] = rearrange(modes[:count], "m (n xy) -> m n xy", n=len(mean)).to(
            self.basis
        )
        self.deviation.zero_()[:count] = (sizes[:count] / (len(whole) - 1) ** 0.5).to(self.basis)

    def set_mean(self, landmarks: Float[Tensor, "n 2"]) -> None:
        """Start from this shape, in shares of the side."""
        self.mean.copy_(landmarks)

    def weights(self, landmarks: Float[Tensor, "b n 2"]) -> Float[Tensor, "b m"]:
        """What `decode` makes the nearest possible shapes of."""
        products = torch.einsum("bnx,mnx->bm", landmarks - self.mean, self.basis)
        return torch.where(self.deviation > 0, products / self.deviation, 0.0)

    def forward(
        self, image: Float[Tensor, "b c h w"], noise: Float[Tensor, "b m"] | None = None
    ) -> Float[Tensor, "b n 2"]:
        """Landmarks (x, y) as shares of the side; of the mean weights, or of a draw by `noise`."""
        return self.decode(self.encode(image).latent(noise)).landmarks

    def encode(self, image: Float[Tensor, "b c h w"]) -> Encoding:
        """The distribution of the weights."""
        found: Encoding = self.encoder(image)
        return found

    def decode(
        self,
        latent: Float[Tensor, "k m"],
        maps: Sequence[Float[Tensor, "_ _ _ _"]] = (),  # noqa: ARG002 -- networks alike
    ) -> Shape:
        """The shape of each set of weights; maps are not looked at."""
        offset = torch.einsum("km,mnx->knx", latent * self.deviation, self.basis)
        return Shape(self.mean + offset, (), None)
