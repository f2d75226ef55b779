"""Upsampling of complex features: real interpolation of both parts, and exactness in k-space."""

import math

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from medseg.nn.complex.upsample import MODES, Upsample


def noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.complex128)


def waves(size: int, fine: int, axis: int) -> torch.Tensor:
    """A band-limited periodic function of one axis, on `fine` points, as a plane's factor."""
    generator = torch.Generator().manual_seed(axis)
    highest = (size - 1) // 2
    x = torch.arange(fine, dtype=torch.float64) / fine
    frequencies = torch.arange(-highest, highest + 1, dtype=torch.float64)
    weights = torch.randn(len(frequencies), generator=generator, dtype=torch.complex128)
    angle = 2 * math.pi * frequencies[:, None] * x
    return (weights[:, None] * torch.polar(torch.ones_like(angle), angle)).sum(0)


@pytest.mark.parametrize("size", [(8, 6), (7, 9), (8, 5)])
@pytest.mark.parametrize("scale", [2, 3, (1, 2)])
def test_fourier_is_exact_for_what_is_band_limited(size, scale):
    times = (scale, scale) if isinstance(scale, int) else scale
    fine = [n * t for n, t in zip(size, times, strict=True)]
    coarse = waves(size[0], size[0], 0)[:, None] * waves(size[1], size[1], 1)
    wanted = waves(size[0], fine[0], 0)[:, None] * waves(size[1], fine[1], 1)
    made = Upsample(scale, mode="fourier")(coarse.expand(2, 3, -1, -1))
    # sums of up to 63 waves in float64
    assert_close(made, wanted.expand(2, 3, -1, -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("ndim", "shape"), [(1, (8,)), (2, (4, 5)), (3, (4, 3, 6))])
def test_fourier_keeps_every_sample_and_a_real_image_real(ndim, shape):
    z = noise(1, 2, *shape)
    fine = Upsample(ndim=ndim, mode="fourier")
    kept = (slice(None), slice(None), *ndim * (slice(None, None, 2),))
    assert_close(fine(z)[kept], z, rtol=0, atol=1e-12)
    real = fine(z.real.to(z.dtype))
    assert real.imag.abs().max() < 1e-12


@pytest.mark.parametrize(("ndim", "linear"), [(1, "linear"), (2, "bilinear"), (3, "trilinear")])
def test_nearest_and_linear_are_those_of_both_parts(ndim, linear):
    z = noise(2, 3, *(3, 4, 5)[:ndim])
    for mode, theirs in (("nearest", "nearest"), ("linear", linear)):
        parts = [functional.interpolate(p, scale_factor=3, mode=theirs) for p in (z.real, z.imag)]
        assert_close(Upsample(3, ndim=ndim, mode=mode)(z), torch.complex(*parts))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_gradients_turns_and_layout(mode, ndim):
    z = noise(1, 2, *(3, 4, 2)[:ndim])
    layer = Upsample(ndim=ndim, mode=mode)
    turn = torch.polar(*torch.tensor([1.0, 0.7]).double())
    assert_close(layer(z * turn), layer(z) * turn, rtol=0, atol=1e-12)
    assert layer(z).movedim(1, -1).is_contiguous()
    assert torch.autograd.gradcheck(layer, z.requires_grad_())


def test_a_constant_stays_one():
    z = torch.full((1, 2, 5, 6), 2 - 3j, dtype=torch.complex64)
    for mode in MODES:
        assert_close(Upsample(mode=mode)(z), torch.full((1, 2, 10, 12), 2 - 3j))


def test_what_is_no_upsampling_is_refused():
    with pytest.raises(ValueError, match="nearest, linear, fourier"):
        Upsample(mode="cubic")
    with pytest.raises(ValueError, match="1 or more"):
        Upsample((0, 2))
    with pytest.raises(ValueError, match="1, 2 or 3"):
        Upsample(ndim=4)
