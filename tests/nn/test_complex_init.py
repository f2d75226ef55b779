"""First complex weights: their variance, their phases, and what they keep through a network."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg.nn.complex.activation import activation
from medseg.nn.complex.conv import Conv, ConvTranspose, Linear
from medseg.nn.complex.init import GAINS, gain, initialise, rayleigh_, semi_unitary_
from medseg.nn.complex.parts import as_complex

SCHEMES = [rayleigh_, semi_unitary_]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def energy(weight):
    """The mean of |w|²."""
    return float(as_complex(weight.detach()).abs().square().mean())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_total_variance_is_two_over_the_fan(scheme):
    weight = scheme(torch.empty(256, 32, 3, 3, 2), fan_in=288, generator=generator())
    assert energy(weight) * 288 == pytest.approx(2, rel=0.02)
    real, imag = weight.unbind(-1)
    assert float(real.var()) * 288 == pytest.approx(1, rel=0.02)
    assert float((real * imag).mean()) * 288 == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_glorot_takes_both_fans_and_a_gain(scheme):
    weight = torch.empty(64, 128, 3, 3, 2)
    fans = {"fan_in": 1152, "fan_out": 576}
    scheme(weight, **fans, criterion="glorot", generator=generator())
    assert energy(weight) == pytest.approx(2 / 1728, rel=0.02)
    scheme(weight, **fans, criterion="he", gain=1.0, generator=generator())
    assert energy(weight) == pytest.approx(1 / 1152, rel=0.02)
    with pytest.raises(ValueError, match="fan_out"):
        scheme(weight, fan_in=1152, criterion="glorot")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_phases_are_even(scheme):
    """Kolmogorov's distance of 73728 phases from the even distribution: 1.63/√n at 1 %."""
    weight = as_complex(scheme(torch.empty(256, 32, 3, 3, 2), fan_in=288, generator=generator()))
    phases = weight.angle().flatten().sort().values / (2 * math.pi) + 0.5
    even = (torch.arange(len(phases)) + 0.5) / len(phases)
    assert float((phases - even).abs().max()) < 1.63 / len(phases) ** 0.5


def test_moduli_are_rayleigh():
    """P(|w| < t) = 1 - exp(-t² fan/2); Kolmogorov's distance as above."""
    weight = as_complex(rayleigh_(torch.empty(256, 288, 2), fan_in=288, generator=generator()))
    moduli = weight.abs().flatten().sort().values
    even = (torch.arange(len(moduli)) + 0.5) / len(moduli)
    expected = 1 - torch.exp(-moduli.square() * 288 / 2)
    assert float((expected - even).abs().max()) < 1.63 / len(moduli) ** 0.5


@pytest.mark.parametrize(("shape", "groups"), [((4, 3, 3, 3), 1), ((24, 2, 3), 1), ((8, 5, 1), 2)])
def test_semi_unitary_rows_or_columns_are_orthogonal(shape, groups):
    weight = torch.empty(*shape, 2, dtype=torch.float64)
    semi_unitary_(weight, fan_in=7, groups=groups, generator=generator())
    assert energy(weight) == pytest.approx(2 / 7, rel=1e-12)
    for matrix in as_complex(weight).flatten(1).chunk(groups):
        square = matrix @ matrix.mH if len(matrix) < matrix.shape[1] else matrix.mH @ matrix
        length = square.diagonal().real.mean()
        assert_close(square, length * torch.eye(len(square), dtype=square.dtype))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_seed_gives_the_same_weights(scheme):
    first, second, other = (
        scheme(torch.empty(4, 4, 3, 2), fan_in=12, generator=generator(seed)) for seed in (0, 0, 1)
    )
    assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", sorted(set(GAINS) - {"none"}))
def test_a_gain_is_what_the_activation_takes_from_circular_noise(kind):
    z = torch.view_as_complex(torch.randn(1, 1, 200_000, 2, generator=generator())) / 2**0.5
    kept = activation(kind, 1)(z).detach().abs().square().mean() / z.abs().square().mean()
    assert 1 / float(kept) == pytest.approx(gain(kind), rel=0.02)


@pytest.mark.parametrize("scheme", ["rayleigh", "semi_unitary"])
@pytest.mark.parametrize("kind", ["crelu", "modrelu", "cardioid"])
def test_energy_stays_through_ten_layers(kind, scheme):
    """Linear maps are no longer independent of what enters them; half of the energy is room."""
    net = nn.Sequential(*(m for _ in range(10) for m in (Linear(256, 256), Turn(activation(kind)))))
    initialise(net, kind, scheme=scheme, generator=generator())
    z = torch.view_as_complex(torch.randn(200, 256, 2, generator=generator(1))) / 2**0.5
    with torch.no_grad():
        assert 0.5 < float(net(z).abs().square().mean()) < 2


class Turn(nn.Module):
    """An activation for features on the last axis."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, z):
        return self.inner(z[..., None])[..., 0]


LAYERS = [
    (lambda: Conv(64, 64), 576),
    (lambda: Conv(256, 256, groups=16, ndim=3), 432),
    (lambda: Conv(2048, 2048, groups=2048), 9),
    (lambda: Linear(256, 256), 256),
    (lambda: ConvTranspose(128, 128), 128),
    (lambda: ConvTranspose(64, 64, kernel=3, ndim=3), 216),
]


@pytest.mark.parametrize(("make", "fan_in"), LAYERS)
def test_layers_start_at_he_variance_with_no_bias(make, fan_in):
    torch.manual_seed(0)
    layer = make()
    assert layer.fan_in == fan_in
    assert energy(layer.weight) * fan_in == pytest.approx(2, rel=0.02)
    assert not layer.bias.any()


def test_a_transposed_convolution_keeps_energy():
    """Its fan is counted at the output; half of it is lost to CReLU before, none here."""
    torch.manual_seed(0)
    z = torch.view_as_complex(torch.randn(4, 64, 16, 16, 2, generator=generator())) / 2**0.5
    kept = ConvTranspose(64, 32)(z).detach().abs().square().mean() / z.abs().square().mean()
    assert float(kept) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("scheme", ["rayleigh", "semi_unitary"])
def test_a_network_is_drawn_anew_by_its_activation(scheme):
    net = nn.Sequential(Conv(32, 64), nn.BatchNorm2d(8), ConvTranspose(64, 64, groups=2))
    nn.init.ones_(net[0].bias)
    initialise(net, "cardioid", scheme=scheme, generator=generator())
    for layer in (net[0], net[2]):
        assert energy(layer.weight) * layer.fan_in == pytest.approx(8 / 3, rel=0.04)
    assert not net[0].bias.any()
    initialise(net, "cardioid", scheme=scheme, criterion="glorot", generator=generator())
    fans = net[0].fan_in + net[0].fan_out
    assert energy(net[0].weight) * fans == pytest.approx(2, rel=0.04)


def test_an_activation_without_a_gain_is_refused():
    with pytest.raises(ValueError, match="no gain is known for 'relu'"):
        gain("relu")
