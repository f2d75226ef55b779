"""Attention gate for complex skip connections: a real weight a voxel, so that the phase stays.

Source: Oktay et al. 2018, arXiv:1804.03999, for the additive gate. No code followed. Differs: the
sum of both complex features is heard by its magnitude, which stands for their ReLU too; the gate
has the size of what it gates.
"""

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from medseg.nn.complex.conv import Conv

_REAL = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class AttentionGate(nn.Module):
    """alpha z, with alpha = sigmoid(real 1x1 convolution of |V z + W gate|) in (0, 1).

    V and W have no bias: a turn of both inputs' phase turns the output and leaves alpha.

    Args:
        channels: of what is gated.
        gate_channels: of the deeper feature that decides, upsampled to the same size.
        ndim: axes of space.
        hidden: channels in between; None: half of `channels`.
    """

    def __init__(
        self, channels: int, gate_channels: int, *, ndim: int = 2, hidden: int | None = None
    ) -> None:
        super().__init__()
        if ndim not in _REAL:
            raise ValueError(f"ndim is {ndim!r}; a gate stands over 1, 2 or 3 axes")
        hidden = hidden or max(1, channels // 2)
        self.skip = Conv(channels, hidden, kernel=1, ndim=ndim, bias=False)
        self.gate = Conv(gate_channels, hidden, kernel=1, ndim=ndim, bias=False)
        self.weigh = _REAL[ndim](hidden, 1, 1)

    def forward(
        self, z: Complex[Tensor, "b c *s"], gate: Complex[Tensor, "b g *s"]
    ) -> Complex[Tensor, "b c *s"]:
        """What the gate lets through of z."""
        return z * self.attention(z, gate)

    def attention(
        self, z: Complex[Tensor, "b c *s"], gate: Complex[Tensor, "b g *s"]
    ) -> Float[Tensor, "b 1 *s"]:
        """The weight of every voxel, for all channels alike."""
        return torch.sigmoid(self.weigh((self.skip(z) + self.gate(gate)).abs()))
