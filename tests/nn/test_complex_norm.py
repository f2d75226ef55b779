"""Complex norms: the closed form against eigenvectors, rank-1 input, invariances.

Tolerances: float32 outputs of size 1 agree with float64 to 1e-5; float64 to 1e-9.
"""

import math

import pytest
import torch
from complex_inputs import FLOAT32, FLOAT64, MODES, covariance, improper, perturbed
from torch.testing import assert_close

from medseg.nn.complex.norm import BatchNorm, GroupNorm, InstanceNorm, RMSNorm


def root_by_eigenvectors(square):
    values, vectors = torch.linalg.eigh(square)
    return vectors @ torch.diag_embed(values.rsqrt()) @ vectors.mT


def oracle(layer, z):
    """A training pass of a batch norm by eigenvectors, every step for itself."""
    square, mean = covariance(z)
    eye = torch.eye(2, dtype=torch.float64)
    unit = square.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]
    unit = unit if layer.relative else torch.ones_like(unit)
    if not layer.center:
        square = square + mean[:, :, None] * mean[:, None]
        mean = torch.zeros_like(mean)
    if layer.mode == "whiten":
        root = root_by_eigenvectors(square + layer.eps * unit * eye)
    elif layer.mode == "circular":
        total = square.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None] + layer.eps * unit
        root = total.rsqrt() * eye
    else:
        root = torch.diag_embed((square + layer.eps * unit).diagonal(dim1=1, dim2=2).rsqrt())
    gain = layer.gain.double()
    if gain.ndim == 1:
        gain = gain[:, None, None] * eye
    elif gain.shape[1:] == (2,):
        gain = torch.diag_embed(gain)
    elif gain.shape[1:] == (3,):
        gain = gain[:, [[0, 2], [2, 1]]]
    d = torch.view_as_real(z).double().movedim(1, -2) - mean
    out = torch.einsum("cij,cjk,b...ck->b...ci", gain, root, d)
    if layer.bias is not None:
        out = out + layer.bias.double()
    return torch.view_as_complex(out.contiguous()).movedim(-1, 1)


VARIANTS = [
    {"mode": "whiten"},
    {"mode": "whiten", "symmetric": False},
    {"mode": "whiten", "relative": False, "eps": 1e-2},
    {"mode": "whiten", "center": False, "relative": False},
    {"mode": "circular"},
    {"mode": "circular", "center": False, "relative": False},
    {"mode": "split"},
    {"mode": "split", "relative": False},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("shape", [(3, 4, 6, 5), (2, 3, 3, 4, 5), (5, 2, 7), (9, 3)])
def test_a_batch_norm_and_its_gradients_are_those_by_eigenvectors(variant, shape):
    layer = perturbed(BatchNorm(shape[1], **variant).double())
    x = improper(*shape).requires_grad_()
    slope = improper(*shape, seed=2)
    leaves = [x, *layer.parameters()]
    ours = layer(x)
    theirs = oracle(layer, x)
    assert_close(ours, theirs, **FLOAT64)
    found = torch.autograd.grad(ours, leaves, slope)
    wanted = torch.autograd.grad(theirs, leaves, slope)
    for one, other in zip(found, wanted, strict=True):
        assert_close(one, other, **FLOAT64)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_float32_has_the_values_of_float64(variant):
    layer = perturbed(BatchNorm(5, **variant))
    x = improper(3, 5, 17, 16, dtype=torch.complex64)
    slope = improper(3, 5, 17, 16, seed=3, dtype=torch.complex64)
    single = x.clone().requires_grad_()
    double = x.to(torch.complex128).requires_grad_()
    ours, theirs = layer(single), oracle(layer, double)
    assert ours.dtype == torch.complex64
    assert_close(ours.to(torch.complex128), theirs, **FLOAT32)
    ours.backward(slope)
    theirs.backward(slope.to(torch.complex128))
    assert_close(single.grad.to(torch.complex128), double.grad, **FLOAT32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "make",
    [
        lambda **k: BatchNorm(4, **k),
        lambda **k: BatchNorm(4, unbiased=True, **k),
        lambda **k: BatchNorm(4, center=False, **k),
        lambda **k: BatchNorm(4, affine=False, **k),
        lambda **k: BatchNorm(4, **k).eval(),
        lambda **k: GroupNorm(2, 4, **k),
        lambda **k: GroupNorm(2, 4, center=False, **k),
        lambda **k: InstanceNorm(4, **k),
    ],
    ids=["batch", "unbiased", "uncentred", "plain", "eval", "group", "uncentred group", "instance"],
)
def test_gradients_are_those_of_small_differences(make, mode):
    layer = perturbed(make(mode=mode).double())
    x = improper(2, 4, 2, 2).requires_grad_()
    parameters = list(layer.parameters())
    assert torch.autograd.gradcheck(lambda z, *_: layer(z), (x, *parameters), fast_mode=True)


def test_rms_gradients_are_those_of_small_differences():
    layer = perturbed(RMSNorm(3).double())
    x = improper(2, 3, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, _: layer(z), (x, layer.gain))


@pytest.mark.parametrize("symmetric", [True, False])
def test_white_output_has_unit_power_and_uncorrelated_parts(symmetric):
    """Each part gets half of the power; epsilon takes 1e-5 of it, of the smaller axis ten times."""
    layer = BatchNorm(3, symmetric=symmetric)
    out = layer(improper(4, 3, 20, 20, dtype=torch.complex64))
    square, mean = covariance(out)
    assert_close(square, torch.eye(2).double().expand(3, 2, 2) / 2, atol=1e-4, rtol=0)
    assert_close(mean, torch.zeros(3, 2).double(), atol=1e-6, rtol=0)
    assert_close((out.abs() ** 2).mean(), torch.tensor(1.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_output_has_unit_power_in_every_mode(mode):
    x = improper(4, 4, 10, 10, dtype=torch.complex64)
    for layer in (BatchNorm(4, mode=mode), GroupNorm(2, 4, mode=mode), RMSNorm(4)):
        assert_close((layer(x).abs() ** 2).mean(), torch.tensor(1.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_an_untrained_norm_in_evaluation_is_the_identity(mode):
    x = improper(2, 3, 4, 4, dtype=torch.complex64)
    assert_close(BatchNorm(3, mode=mode).eval()(x), x, atol=1e-4, rtol=0)


def test_degrees_of_freedom_are_five_or_six_a_channel():
    def count(layer):
        return sum(p.numel() for p in layer.parameters())

    assert count(BatchNorm(7)) == 35
    assert count(BatchNorm(7, symmetric=False)) == 42
    assert count(BatchNorm(7, mode="split")) == 28
    assert count(BatchNorm(7, mode="circular")) == 21
    assert count(BatchNorm(7, mode="circular", center=False)) == count(RMSNorm(7)) == 7
    assert count(BatchNorm(7, affine=False)) == 0


RANK_ONE = {
    "no imaginary part": lambda r: torch.complex(r, torch.zeros_like(r)),
    "one phase": lambda r: torch.polar(r.abs(), torch.full_like(r, math.pi / 4)),
    "a line through zero": lambda r: r * torch.polar(torch.ones(()), torch.tensor(0.3)),
}


@pytest.mark.parametrize("name", RANK_ONE)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("mode", MODES)
def test_numbers_on_a_line_stay_finite_at_any_scale(name, scale, mode):
    """One direction of two is white: half of the power in `whiten`, whatever the scale."""
    chance = torch.Generator().manual_seed(0)
    x = RANK_ONE[name](scale * torch.randn(3, 4, 8, 8, generator=chance)).requires_grad_()
    for layer in (BatchNorm(4, mode=mode), GroupNorm(2, 4, mode=mode), InstanceNorm(4, mode=mode)):
        out = layer(x)
        slope = improper(3, 4, 8, 8, dtype=torch.complex64)
        gradients = torch.autograd.grad(out, [x, *layer.parameters()], slope)
        assert torch.isfinite(torch.view_as_real(out)).all()
        for gradient in gradients:
            assert torch.isfinite(
                torch.view_as_real(gradient) if gradient.is_complex() else gradient
            ).all()
        if mode == "whiten":
            power = (out.detach().abs() ** 2).mean()
            assert_close(power, torch.tensor(0.5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0.0, 1000.1 - 3.3j])
def test_a_constant_gives_the_bias_and_finite_gradients(mode, value):
    x = torch.full((2, 3, 5, 7), value, dtype=torch.complex64, requires_grad=True)
    layer = BatchNorm(3, mode=mode)
    out = layer(x)
    out.backward(improper(2, 3, 5, 7, dtype=torch.complex64))
    assert torch.isfinite(torch.view_as_real(x.grad)).all()
    assert torch.isfinite(layer.gain.grad).all()
    if value == 0:
        assert_close(out, torch.zeros_like(out))
        assert torch.isfinite(torch.view_as_real(RMSNorm(3)(x))).all()


def test_a_large_mean_costs_no_precision_of_the_spread():
    """A mean of 1000 leaves float32 inputs a grain of 6e-5: hence 1e-3 of an output of size 1."""
    x = improper(3, 2, 9, 11)
    lifted = (x + 1000).to(torch.complex64)
    assert_close(BatchNorm(2)(lifted), BatchNorm(2)(x.to(torch.complex64)), atol=1e-3, rtol=0)


def rotated(z, turn):
    return z * complex(math.cos(turn), math.sin(turn))


@pytest.mark.parametrize(
    "layer",
    [
        BatchNorm(4, mode="circular", center=False),
        GroupNorm(2, 4, mode="circular", center=False),
        InstanceNorm(4, mode="circular", center=False),
        RMSNorm(4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_uncentred_circular_norms_commute_with_a_turn_of_all_phases(layer):
    layer = perturbed(layer.double())
    x = improper(2, 4, 5, 5)
    assert_close(layer(rotated(x, 0.7)), rotated(layer(x), 0.7), **FLOAT64)


def test_circular_norms_without_bias_commute_with_a_turn_in_training():
    layer = BatchNorm(4, mode="circular").double()
    x = improper(2, 4, 5, 5)
    assert_close(layer(rotated(x, 2.1)), rotated(layer(x), 2.1), **FLOAT64)


def test_whitening_of_a_multiple_is_turned_by_its_phase():
    """W(cVcᵀ) c d = R W(V) d: what is white stays so under any complex factor."""
    x, factor = improper(2, 3, 6, 6), 3.0 * complex(math.cos(0.4), math.sin(0.4))
    layer = BatchNorm(3, affine=False).double()
    assert_close(layer(factor * x), rotated(layer(x), 0.4), **FLOAT64)


@pytest.mark.parametrize("mode", MODES)
def test_a_relative_epsilon_makes_the_scale_vanish(mode):
    x = improper(2, 3, 6, 6)
    layer = BatchNorm(3, mode=mode).double()
    assert_close(layer(1e-4 * x), layer(1e4 * x), **FLOAT64)


def test_a_group_is_normalised_as_one_channel():
    """Two channels of a group are one channel of twice the voxels, for each image."""
    x = improper(2, 4, 5, 6)
    ours = GroupNorm(2, 4).double()(x)
    for image, out in zip(x, ours, strict=True):
        for group in (slice(0, 2), slice(2, 4)):
            alone = BatchNorm(1).double()(image[group].reshape(1, 1, -1))
            assert_close(out[group].reshape(1, 1, -1), alone, **FLOAT64)


def test_instances_are_normalised_by_themselves():
    x = improper(3, 2, 5, 6)
    together = InstanceNorm(2).double()(x)
    for image, out in zip(x, together, strict=True):
        assert_close(BatchNorm(2).double()(image[None])[0], out, **FLOAT64)


def test_rms_is_taken_over_the_channels_of_a_voxel():
    layer = perturbed(RMSNorm(5, eps=1e-3).double())
    x = improper(2, 5, 3, 4)
    power = (x.abs() ** 2).mean(1, keepdim=True)
    wanted = x * (power + 1e-3).rsqrt() * layer.gain[:, None, None]
    assert_close(layer(x), wanted, **FLOAT64)
