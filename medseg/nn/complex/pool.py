"""Pooling of complex features: the largest magnitude with its phase, or the mean.

Taking the largest real and the largest imaginary part apart would join parts of two voxels.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.complex.activation import squared
from medseg.nn.complex.parts import interleaved, merged
from medseg.nn.conv import Size, sizes

_Pools = dict[int, Callable[..., Any]]
_MAX: _Pools = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEAN: _Pools = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_ADAPTIVE: _Pools = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}
GLOBAL = ("magnitude", "coherent")


class MaxPool(nn.Module):
    """The value of largest magnitude of every window, its phase kept; of equals the first.

    Magnitudes are compared by their squares: float32 ones below 1e-19 count as equal.
    """

    def __init__(
        self, kernel: Size, *, ndim: int = 2, stride: Size | None = None, padding: Size = 0
    ) -> None:
        super().__init__()
        self.pool = _of(_MAX, ndim)
        self.kernel = sizes(kernel, ndim)
        self.stride = self.kernel if stride is None else sizes(stride, ndim)
        self.padding = sizes(padding, ndim)

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *r"]:
        """Padding never wins."""
        with torch.no_grad():
            magnitude = squared(z.movedim(1, -1)).movedim(-1, 1)
            _, chosen = self.pool(
                magnitude, self.kernel, self.stride, self.padding, return_indices=True
            )
        return _gathered(z, chosen)


def _gathered(
    z: Complex[Tensor, "b c *s"], chosen: Int[Tensor, "b c *r"]
) -> Complex[Tensor, "b c *r"]:
    """Of every plane (one case's one channel) the voxels with these numbers within the plane."""
    last = chosen.movedim(1, -1)
    planes = interleaved(z).movedim(1, -1).flatten(1, -2)
    picked = planes.gather(1, last.flatten(1, -2).repeat_interleave(2, -1))
    return merged(picked.view(*last.shape[:-1], -1).movedim(-1, 1))


class AvgPool(nn.Module):
    """The mean of every window; padding counts as zeros."""

    def __init__(
        self, kernel: Size, *, ndim: int = 2, stride: Size | None = None, padding: Size = 0
    ) -> None:
        super().__init__()
        self.pool = _of(_MEAN, ndim)
        self.kernel = sizes(kernel, ndim)
        self.stride = self.kernel if stride is None else sizes(stride, ndim)
        self.padding = sizes(padding, ndim)

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *r"]:
        """Opposite phases cancel."""
        return merged(self.pool(interleaved(z), self.kernel, self.stride, self.padding))


class AdaptiveAvgPool(nn.Module):
    """Means over as many windows as the output has voxels, whatever the input's size."""

    def __init__(self, size: Size, *, ndim: int = 2) -> None:
        super().__init__()
        self.pool, self.size = _of(_ADAPTIVE, ndim), sizes(size, ndim)

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *r"]:
        """Opposite phases cancel."""
        return merged(self.pool(interleaved(z), self.size))


class GlobalPool(nn.Module):
    """One real number a channel: the mean of |z| ("magnitude") or |mean of z| ("coherent").

    The first does not see any voxel's phase, the second only how far the phases agree.
    """

    def __init__(self, mode: str = "magnitude") -> None:
        super().__init__()
        if mode not in GLOBAL:
            raise ValueError(f"global pooling is {mode!r}; choose one of {', '.join(GLOBAL)}")
        self.mode = mode

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Float[Tensor, "b c"]:
        """Over all of space."""
        if self.mode == "magnitude":
            return z.abs().flatten(2).mean(-1)
        return z.flatten(2).mean(-1).abs()


def _of(pools: _Pools, ndim: int) -> Callable[..., Any]:
    """The pooling of so many axes."""
    if ndim not in pools:
        raise ValueError(f"ndim is {ndim!r}; pooling runs over 1, 2 or 3 axes")
    return pools[ndim]
