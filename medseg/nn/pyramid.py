"""A residual encoder that returns the maps of every level, and a top-down path that joins them.

Source: Gaggion, Mansilla, Mosquera, Milone, Ferrante 2022, arXiv:2203.10977 (the encoder); Lin,
Dollár, Girshick, He, Hariharan, Belongie 2017, arXiv:1612.03144, sec. 3 (the top-down path). No
code followed. Differs: the encoder's norm can be chosen; the joined maps are refined by a residual
convolution; without gradients, large maps are made a stripe of rows at a time.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.conv import conv, norm
from medseg.nn.stripes import striped

NORMS = ("batch_stats", "instance", "batch", "group")


class Pyramid(nn.Module):
    """Residual blocks with halvings between them; the map of each is kept, finest first.

    Args:
        in_channels: of the image.
        widths: channels, one a level.
        norm: batch_stats (statistics of the batch at hand, in evaluation too, as published),
            instance (the same weights, every image by itself), batch (running statistics) or
            group (of 8 channels).
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int] = (8, 16, 32, 64, 128, 128),
        *,
        norm: str = "group",
    ) -> None:
        super().__init__()
        self.channels = tuple(widths)
        self.strides = tuple(2**level for level in range(len(widths)))
        pairs = pairwise((in_channels, *widths))
        self.stages = nn.ModuleList(Block(a, b, norm=norm) for a, b in pairs)

    def forward(
        self, image: Float[Tensor, "b c h w"], *, lowest: int = 1
    ) -> list[Float[Tensor, "b _ _ _"]]:
        """The blocks' maps before pooling, of levels `lowest` (1: full size) and coarser."""
        x = rearrange(rearrange(image, "b c h w -> b h w c").contiguous(), "b h w c -> b c h w")
        maps: list[Tensor] = []
        for level, stage in enumerate(self.stages, 1):
            y, x = stage(x, keep=level >= lowest)
            maps += [] if y is None else [y]
        return maps


class Block(nn.Module):
    """ReLU(F(x) + skip(x)), where F is twice norm, ReLU and convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: str) -> None:
        super().__init__()
        self.channels = out_channels
        self.block = nn.Sequential(
            _norm(in_channels, norm),
            nn.ReLU(inplace=True),
            conv(in_channels, out_channels),
            _norm(out_channels, norm),
            nn.ReLU(inplace=True),
            conv(out_channels, out_channels),
        )
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels:
            widen = conv(in_channels, out_channels, kernel=1, bias=False)
            self.skip = nn.Sequential(widen, _norm(out_channels, norm))

    def forward(
        self, x: Float[Tensor, "b c h w"], *, keep: bool = True
    ) -> tuple[Float[Tensor, "b d h w"] | None, Float[Tensor, "b d h2 w2"]]:
        """The block's map, unless it is not to be kept, and its maximum of 2 x 2 pixels."""
        if x.is_cpu and not self._as_a_whole():
            return striped(self.block, self.skip, x=x, channels=self.channels, keep=keep)
        y = functional.relu(self.block(x) + self.skip(x), inplace=True)
        half = functional.max_pool2d(y, 2) if min(y.shape[2:]) > 1 else y[:, :, :0, :0]
        return (y if keep else None), half

    def _as_a_whole(self) -> bool:
        """Whether a call is more than its numbers: it is learned from, traced or cast."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return True
        return torch.is_autocast_enabled("cpu") or self._adapts()

    def _adapts(self) -> bool:
        """Whether a call changes running statistics."""
        norm = self.block[0]
        running = isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats
        return self.training and running


class TopDown(nn.Module):
    """Feature pyramid: every map is joined with the coarser ones' sum, all at `width` channels.

    Args:
        channels: of the maps, finest (level 1) first.
        width: channels of what is returned.
        lowest: finest level that is returned, counted from 1.
    """

    def __init__(self, channels: Sequence[int], width: int, *, lowest: int) -> None:
        super().__init__()
        if not 1 <= lowest <= len(channels):
            raise ValueError(f"lowest level is {lowest}; choose one from 1 to {len(channels)}")
        self.lowest = lowest
        kept = channels[lowest - 1 :]
        self.lateral = nn.ModuleList(conv(count, width, kernel=1) for count in kept)
        self.refine = nn.ModuleList(
            nn.Sequential(norm(width, "group"), nn.ReLU(inplace=True), conv(width, width))
            for _ in kept
        )

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> list[Tensor]:
        """Maps of levels `lowest` and coarser, finest first; from those, or from more levels."""
        joined: list[Tensor] = []
        kept = list(maps)[-len(self.lateral) :]
        for lateral, refine, level in zip(
            reversed(self.lateral), reversed(self.refine), reversed(kept), strict=True
        ):
            x = lateral(level)
            if joined:
                x = x + functional.interpolate(joined[0], size=x.shape[-2:])
            joined.insert(0, x + refine(x))
        return joined


def _norm(channels: int, kind: str) -> nn.Module:
    if kind not in NORMS:
        raise ValueError(f"norm {kind!r} is not known; choose one of {', '.join(NORMS)}")
    if kind == "batch_stats":
        return nn.BatchNorm2d(channels, track_running_stats=False)
    return norm(channels, kind)
