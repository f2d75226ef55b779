"""Blocks that see near and far at once: a standard and a dilated convolution side by side.

Source: the idea of arXiv:2501.06139's abstract (standard convolutions for detail, dilated ones for
a large receptive field, both integrated); widths, fusion, residual and gates are our design.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.geometry.sphere import FACES
from medseg.nn.faces import FaceConv, pad

GROUPS = 8
EPS = 1e-5
FUSED, GATED = 0.5, 0.3


def keep_variance(layer: nn.Conv2d, gain: float = 1.0) -> None:
    """Weights that turn independent inputs of variance 1 into outputs of gain²; no bias."""
    nn.init.normal_(layer.weight, std=gain / layer.weight[0].numel() ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class SkyNorm(nn.Module):
    """Group normalisation of whole skies: the images of one sky share mean and variance.

    Args:
        channels: a multiple of 8; an eighth of them is a group.
        tiles: consecutive images that are one sky.
    """

    def __init__(self, channels: int, *, tiles: int) -> None:
        super().__init__()
        self.tiles = tiles
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "f c x y"]) -> Float[Tensor, "f c x y"]:
        """Channels with mean `bias` and deviation `weight` over group and sky."""
        parts = rearrange(x, "(b t) (g c) x y -> b t g c x y", t=self.tiles, g=GROUPS)
        variance, mean = torch.var_mean(parts, (1, 3, 4, 5), correction=0)
        gain, mean = (
            v.repeat_interleave(x.shape[1] // GROUPS, 1).repeat_interleave(self.tiles, 0)
            for v in ((variance + EPS).rsqrt(), mean)
        )
        gain = gain * self.weight
        shift = self.bias - mean * gain
        return torch.addcmul(shift[..., None, None], x, gain[..., None, None])


class Hybrid(nn.Module):
    """x + fuse(gelu([standard(h), dilated(h)])), h the normalised input.

    Args:
        channels: in and out, a multiple of 8.
        dilation: of the dilated convolution.
        grid: how images go on beyond their border, of `medseg.nn.faces.GRIDS`.
    """

    def __init__(self, channels: int, *, dilation: int, grid: str = "faces") -> None:
        super().__init__()
        self.norm = SkyNorm(channels, tiles=FACES if grid == "faces" else 1)
        self.near = FaceConv(channels, channels, grid=grid)
        self.far = FaceConv(channels, channels, dilation=dilation, grid=grid)
        self.fuse = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Float[Tensor, "f c x y"]) -> Float[Tensor, "f c x y"]:
        """Images of the same size and channels."""
        return x + self.fuse(functional.gelu(_both(self.norm(x), self.near, self.far)))


class GatedHybrid(nn.Module):
    """Linear in x: x (1 + tanh v) + fuse([standard(x), dilated(x)] (1 + w)); w and v are gates.

    The gates are linear in features that do not come from x, so that the block multiplies with a
    matrix that depends on these features alone. Inner gates w start as random functions of the
    features, outer ones v as zero, so that the stream starts untouched.

    Args:
        channels: in and out; each convolution makes half of them.
        gates: channels of the features that gate.
        dilation: of the dilated convolution.
        grid: how images go on beyond their border, of `medseg.nn.faces.GRIDS`.
    """

    def __init__(self, channels: int, *, gates: int, dilation: int, grid: str = "faces") -> None:
        super().__init__()
        half = channels // 2
        self.near = FaceConv(channels, half, bias=False, grid=grid)
        self.far = FaceConv(channels, channels - half, dilation=dilation, bias=False, grid=grid)
        self.fuse = nn.Conv2d(channels, channels, 1, bias=False)
        self.gate = nn.Conv2d(gates, 2 * channels, 1)
        for layer, gain in (
            (self.near, 1.0),
            (self.far, 1.0),
            (self.fuse, FUSED),
            (self.gate, GATED),
        ):
            keep_variance(layer, gain)
        nn.init.zeros_(self.gate.weight[channels:])

    def forward(
        self, x: Float[Tensor, "f c x y"], features: Float[Tensor, "f g x y"]
    ) -> Float[Tensor, "f c x y"]:
        """Images of the same size and channels."""
        inner, outer = self.gate(features).chunk(2, 1)
        found = _both(x, self.near, self.far)
        return x * (1 + outer.tanh()) + self.fuse(torch.addcmul(found, found, inner))


def _both(x: Tensor, near: FaceConv, far: FaceConv) -> Tensor:
    """Both convolutions of one padding."""
    padded = pad(x, far.reach, grid=far.grid)
    cut = far.reach - near.reach
    inner = functional.pad(padded, (-cut,) * 4) if cut else padded
    return torch.cat([near.inside(inner), far.inside(padded)], 1)
