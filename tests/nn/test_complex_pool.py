"""Pooling by magnitude against a slow loop over every plane, means, and the global pools."""

import itertools

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from medseg.nn.complex.pool import GLOBAL, AdaptiveAvgPool, AvgPool, GlobalPool, MaxPool

SHAPES = {1: (2, 3, 9), 2: (2, 3, 6, 7), 3: (2, 3, 4, 5, 6)}


def noise(*shape: int, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def slow(z: torch.Tensor, kernel: int, stride: int, padding: int) -> torch.Tensor:
    """The first voxel of largest magnitude of every window, voxel by voxel."""
    space = z.shape[2:]
    size = [(n + 2 * padding - kernel) // stride + 1 for n in space]
    out = z.new_zeros(*z.shape[:2], *size)
    for plane in itertools.product(*map(range, z.shape[:2])):
        for target in itertools.product(*map(range, size)):
            best = -1.0
            for step in itertools.product(range(kernel), repeat=len(space)):
                at = [t * stride - padding + s for t, s in zip(target, step, strict=True)]
                if all(0 <= a < n for a, n in zip(at, space, strict=True)):
                    value = z[plane][tuple(at)]
                    if value.abs() > best:
                        best, out[plane][target] = value.abs(), value
    return out


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1)])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_every_plane_is_pooled_by_its_own_magnitudes(ndim, kernel, stride, padding):
    z = noise(*SHAPES[ndim])
    layer = MaxPool(kernel, ndim=ndim, stride=stride, padding=padding)
    wanted = slow(z, kernel, stride, padding)
    assert_close(layer(z), wanted, rtol=0, atol=0)
    last = z.movedim(1, -1).contiguous().movedim(-1, 1)
    assert_close(layer(last), wanted, rtol=0, atol=0)
    assert layer(last).movedim(1, -1).is_contiguous()


def test_of_equal_magnitudes_the_first_wins():
    z = torch.tensor([[1j, -1], [1, -1j]]).repeat(2, 2, 1, 1)
    assert_close(MaxPool(2)(z), torch.full((2, 2, 1, 1), 1j), rtol=0, atol=0)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("make", [MaxPool, AvgPool, AdaptiveAvgPool])
def test_gradients_are_those_of_finite_differences(make, ndim):
    z = noise(1, 2, *(4, 3, 2)[:ndim]).requires_grad_()
    assert torch.autograd.gradcheck(make(2, ndim=ndim), z)


@pytest.mark.parametrize("mode", GLOBAL)
def test_gradients_of_global_pools_are_those_of_finite_differences(mode):
    z = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.complex128)
    assert torch.autograd.gradcheck(GlobalPool(mode), z.requires_grad_())


@pytest.mark.parametrize("make", [MaxPool, AvgPool, AdaptiveAvgPool])
def test_a_turn_goes_through_pooling(make):
    z, turn = noise(2, 3, 6, 6), torch.polar(*torch.tensor([1.0, 0.7]).double())
    assert_close(make(2)(z * turn), make(2)(z) * turn, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_means_are_those_of_both_parts(ndim):
    z = noise(*SHAPES[ndim])
    mean = getattr(functional, f"avg_pool{ndim}d")
    adaptive = getattr(functional, f"adaptive_avg_pool{ndim}d")
    wanted = torch.complex(mean(z.real, 3, 2, 1), mean(z.imag, 3, 2, 1))
    assert_close(AvgPool(3, ndim=ndim, stride=2, padding=1)(z), wanted)
    wanted = torch.complex(adaptive(z.real, 3), adaptive(z.imag, 3))
    assert_close(AdaptiveAvgPool(3, ndim=ndim)(z), wanted)


def test_an_axis_may_have_a_kernel_of_its_own():
    z = noise(1, 2, 4, 6, 6)
    assert MaxPool((1, 2, 2), ndim=3)(z).shape == (1, 2, 4, 3, 3)
    assert AvgPool((1, 2, 3), ndim=3)(z).shape == (1, 2, 4, 3, 2)


def test_the_magnitude_pool_does_not_see_phases_and_the_coherent_one_does():
    z = noise(2, 3, 4, 5)
    turned = z * torch.polar(torch.ones(4, 5), torch.linspace(0, 6, 20).view(4, 5)).to(z.dtype)
    magnitude, coherent = GlobalPool(), GlobalPool("coherent")
    assert_close(magnitude(turned), magnitude(z), rtol=1e-6, atol=0)
    assert_close(coherent(z * 1j), coherent(z))
    assert (coherent(turned) - coherent(z)).abs().max() > 0.1
    assert_close(coherent(torch.full_like(z, 3 + 4j)), torch.full((2, 3), 5.0).double())
    assert torch.autograd.gradcheck(coherent, z.requires_grad_())


def test_unknown_pools_are_refused():
    with pytest.raises(ValueError, match="magnitude, coherent"):
        GlobalPool("max")
    with pytest.raises(ValueError, match="1, 2 or 3"):
        MaxPool(2, ndim=4)
