"""Complex activations: values, phase, gradients at the edges, layout; and dropout's statistics."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg.nn.complex.activation import (
    KINDS,
    AmplitudeThreshold,
    Cardioid,
    CReLU,
    ModReLU,
    ModSiLU,
    ModTanh,
    Split,
    ZReLU,
    activation,
)
from medseg.nn.complex.dropout import ChannelDropout, Dropout, PhaseNoise

EQUIVARIANT = [
    lambda: ModReLU(3, -0.4),
    ModSiLU,
    lambda: ModTanh(0.7),
    lambda: AmplitudeThreshold(0.5, 4.0, channels=3),
    lambda: AmplitudeThreshold(0.5, soft=False),
]
OTHERS = [
    CReLU,
    ZReLU,
    Cardioid,
    lambda: Cardioid(3),
    lambda: Split(nn.PReLU()),
    lambda: Split(nn.GELU()),
]
EDGES = torch.tensor([0, 1, -1, 1j, -1j, 1e-8, 1e-30, 3 + 4j], dtype=torch.complex64)[:, None]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    """Numbers off the real and imaginary axes, where the activations have kinks."""
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return z + 0.05 * torch.complex(z.real.sign(), z.imag.sign())


@pytest.mark.parametrize("make", EQUIVARIANT + OTHERS)
def test_gradients_are_those_of_finite_differences(make):
    torch.manual_seed(0)
    layer, z = make().double(), noise(2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(layer, z)
    weights = list(layer.parameters())
    if weights:
        assert torch.autograd.gradcheck(lambda *w: _applied(layer, w, z.detach()), weights)


@pytest.mark.parametrize("make", EQUIVARIANT + OTHERS)
def test_a_conjugate_that_torch_has_not_written_out_yet_is_taken_as_its_values(make):
    torch.manual_seed(0)
    layer, z = make().double(), noise(2, 3, 2).conj()
    assert z.is_conj()
    assert torch.equal(layer(z), layer(z.resolve_conj()))


def _applied(layer, weights, z):
    names = [name for name, _ in layer.named_parameters()]
    return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (z,))


@pytest.mark.parametrize("make", EQUIVARIANT)
def test_a_turn_goes_through_what_hears_magnitudes(make):
    layer, z = make().double(), noise(2, 3, 5)
    turn = torch.polar(torch.tensor(1.0).double(), torch.tensor(1.1).double())
    assert_close(layer(z * turn), layer(z) * turn, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", OTHERS)
def test_a_turn_does_not_go_through_the_others(make):
    torch.manual_seed(0)
    layer, z = make().double(), noise(2, 3, 5)
    assert (layer(z * 1j) - layer(z) * 1j).abs().max() > 0.1


@pytest.mark.parametrize("make", [*EQUIVARIANT, ZReLU, Cardioid, lambda: Cardioid(3)])
def test_what_is_not_cleared_keeps_its_phase(make):
    layer, z = make().double(), noise(2, 3, 50)
    y = layer(z)
    kept = y.abs() > 0
    assert kept.sum() > 0
    assert_close(y[kept].angle(), z[kept].angle(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", EQUIVARIANT + OTHERS + [lambda: ModReLU(bias=0.3)])
def test_zero_stays_zero_and_edges_have_finite_gradients(make):
    layer = make()
    z = EDGES.expand(-1, 3).clone().requires_grad_()
    y = layer(z)
    assert (y[0] == 0).all()
    y.abs().square().sum().backward()
    for gradient in (z.grad, *(weight.grad for weight in layer.parameters())):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("make", EQUIVARIANT + OTHERS)
@pytest.mark.parametrize("ndim", [0, 1, 2, 3])
def test_the_layout_stays_and_the_input_is_left_alone(make, ndim):
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    z = noise(2, 3, *(4, 3, 2)[:ndim], dtype=torch.complex64)
    z = z.movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()
    before = z.detach().clone()
    y = make()(z)
    assert y.shape == z.shape
    assert y.stride() == z.stride()
    if ndim in formats:
        assert y.is_contiguous(memory_format=formats[ndim])
    y.real.sum().backward()
    assert_close(z.detach(), before, rtol=0, atol=0)
    assert_close(make()(before.contiguous()), y, rtol=0, atol=1e-6)


def test_zrelu_keeps_or_drops_its_edges():
    z = torch.tensor([[1, 1j, 1 + 1j, -1, -1j, 1 - 1j]], dtype=torch.complex64)
    assert ZReLU()(z).abs().gt(0).tolist() == [[True, True, True, False, False, False]]
    assert ZReLU(closed=False)(z).abs().gt(0).tolist() == [[False, False, True] + 3 * [False]]


def test_the_cardioid_passes_its_direction_and_stops_the_opposite_one():
    layer = Cardioid(2)
    with torch.no_grad():
        layer.turn.copy_(torch.tensor([0.0, -math.pi / 2]))
    z = torch.tensor([[2, 2], [-2, 2j], [2j, -2j]], dtype=torch.complex64)
    wanted = torch.tensor([[2, 1], [0, 2j], [1j, 0]], dtype=torch.complex64)
    assert_close(layer(z), wanted, rtol=0, atol=1e-6)


def test_a_soft_threshold_learns_and_a_hard_one_does_not():
    z = noise(2, 3, 4)
    soft, hard = AmplitudeThreshold(1.0, 5.0).double(), AmplitudeThreshold(1.0, soft=False)
    soft(z).abs().sum().backward()
    assert soft.threshold.grad.abs().sum() > 0
    assert list(hard.parameters()) == []
    assert_close(hard(z), z * (z.abs() >= 1), rtol=0, atol=0)


def test_names_make_every_activation_and_others_are_refused():
    for kind in KINDS:
        assert activation(kind, 3)(noise(1, 3, 2, dtype=torch.complex64)).shape == (1, 3, 2)
    assert activation("modrelu", 3).bias.shape == (3,)
    with pytest.raises(ValueError, match="crelu, modrelu, zrelu, cardioid, modsilu, threshold"):
        activation("relu")


@pytest.mark.parametrize("ndim", [1, 2])
def test_dropout_drops_p_keeps_phase_and_the_mean(ndim):
    torch.manual_seed(0)
    z = noise(2, 20, *(100, 20)[:ndim], dtype=torch.complex64)
    layer = Dropout(0.3)
    y = layer(z)
    kept = y != 0
    # 4000 draws or more: standard deviation of the share at most 0.0073
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.03)
    assert_close(y[kept], z[kept] / 0.7, rtol=1e-6, atol=0)
    assert layer.eval()(z) is z


def test_channels_are_dropped_whole():
    torch.manual_seed(0)
    z = noise(40, 50, 3, dtype=torch.complex64)
    kept = ChannelDropout(0.25)(z) != 0
    assert (kept.all(-1) == kept.any(-1)).all()
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.04)


def test_phase_noise_turns_by_sigma_and_keeps_magnitudes():
    torch.manual_seed(0)
    z = noise(2, 3, 5000, dtype=torch.complex64)
    layer = PhaseNoise(0.2)
    turn = (layer(z) / z).angle()
    assert_close(layer(z).abs(), z.abs(), rtol=1e-5, atol=0)
    assert turn.std().item() == pytest.approx(0.2, abs=0.005)
    assert layer.eval()(z) is z


@pytest.mark.parametrize("make", [Dropout, ChannelDropout, PhaseNoise])
def test_gradients_of_what_is_drawn_are_those_of_finite_differences(make):
    layer = make(0.4)

    def drawn(z):
        torch.manual_seed(0)
        return layer(z)

    assert torch.autograd.gradcheck(drawn, noise(2, 3, 2).requires_grad_())


@pytest.mark.parametrize("make", [lambda: Dropout(1.0), lambda: ChannelDropout(-0.1)])
def test_dropping_everything_is_refused(make):
    with pytest.raises(ValueError, match="share"):
        make()
