"""Upsampling of complex features as numbers, never of magnitude and wrapped phase apart.

`fourier` pads the spectrum with zeros: exact for what is band-limited and periodic on the grid,
and the first voxel stays where it was, while `nearest` and `linear` keep the image's outer edges.
"""

import torch
from jaxtyping import Complex
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.complex.parts import channels_last, interleaved, merged
from medseg.nn.conv import Size, sizes

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
MODES = ("nearest", "linear", "fourier")


class Upsample(nn.Module):
    """`scale` times the voxels along every axis; a whole number, or one an axis."""

    def __init__(self, scale: Size = 2, *, ndim: int = 2, mode: str = "nearest") -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"upsampling is {mode!r}; choose one of {', '.join(MODES)}")
        if ndim not in LINEAR:
            raise ValueError(f"ndim is {ndim!r}; upsampling runs over 1, 2 or 3 axes")
        self.scale, self.mode, self.ndim = sizes(scale, ndim), mode, ndim
        if min(self.scale) < 1:
            raise ValueError(f"scale is {list(self.scale)}; upsampling wants 1 or more an axis")

    def forward(self, z: Complex[Tensor, "b c *s"]) -> Complex[Tensor, "b c *r"]:
        """Linear in z; `linear` takes voxels as areas, as `align_corners=False` does."""
        if self.mode == "fourier":
            return fourier(z, self.scale)
        size = [n * times for n, times in zip(z.shape[2:], self.scale, strict=True)]
        if self.mode == "nearest":
            return merged(functional.interpolate(interleaved(z), size))
        mode = LINEAR[self.ndim]
        return merged(functional.interpolate(interleaved(z), size, mode=mode, align_corners=False))


def fourier(z: Complex[Tensor, "b c *s"], scale: tuple[int, ...]) -> Complex[Tensor, "b c *r"]:
    """Interpolation by trigonometric polynomials through all values of z, which stay."""
    for axis, times in enumerate(scale, start=2):
        if times > 1:
            spectrum = _widened(torch.fft.fft(z, dim=axis), axis, times)
            z = torch.fft.ifft(spectrum, dim=axis) * times
    return channels_last(z)


def _widened(spectrum: Tensor, axis: int, times: int) -> Tensor:
    """Zeros between the positive and the negative frequencies of an axis.

    An even axis has one line for both Nyquist frequencies: each gets half of it.
    """
    size = spectrum.shape[axis]
    half, odd = size // 2, size % 2
    low, high = spectrum.narrow(axis, 0, half), spectrum.narrow(axis, size - half, half)
    middle = spectrum.narrow(axis, half, 1)
    shape = [*spectrum.shape, 2]
    shape[axis] = size * (times - 1) - 1 + odd
    zeros = torch.view_as_complex(spectrum.real.new_zeros(shape))
    if odd:
        return torch.cat([low, middle, zeros, high], axis)
    nyquist, rest = middle / 2, high.narrow(axis, 1, half - 1)
    return torch.cat([low, nyquist, zeros, nyquist, rest], axis)
