"""The ConvNeXt block.

Source: Liu, Mao, Wu, Feichtenhofer, Darrell, Xie 2022, arXiv:2201.03545, fig. 4 and sec. 2; layer
scale after Touvron et al. 2021, arXiv:2103.17239. No code followed. Differs: no stochastic depth.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.conv import conv


class ConvNeXt(nn.Module):
    """Depth-wise convolution, then a two-layer perceptron at every voxel, added to the input.

    Args:
        channels: in and out.
        ndim: 2 or 3.
        kernel: odd size of the depth-wise convolution.
        expansion: hidden features of the perceptron, in multiples of `channels`.
        layer_scale: first value of the learned gain of the branch, one a channel.
    """

    def __init__(
        self,
        channels: int,
        *,
        ndim: int = 2,
        kernel: int = 7,
        expansion: int = 4,
        layer_scale: float = 1e-6,
    ) -> None:
        super().__init__()
        self.spatial = conv(channels, channels, kernel=kernel, ndim=ndim, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.widen = nn.Linear(channels, expansion * channels)
        self.activation = nn.GELU()
        self.narrow = nn.Linear(expansion * channels, channels)
        self.gain = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """X + gain · MLP(norm(depth-wise(x)))."""
        y = self.norm(self.spatial(x).movedim(1, -1))
        y = self.gain * self.narrow(self.activation(self.widen(y)))
        return x + y.movedim(-1, 1)
