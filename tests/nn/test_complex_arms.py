"""Arms of one plan: widths that meet their goal, data that each arm takes, first weights."""

import math
import time
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg.models.complexnet import UNetBody
from medseg.nn.complex.arms import (
    ARMS,
    Magnitude,
    assembled,
    check,
    initialise,
    solved,
)
from medseg.nn.complex.conv import Conv, ConvTranspose
from medseg.nn.complex.layers import (
    ACTIVATIONS,
    HEADS,
    NORMS,
    UPSAMPLES,
    ComplexLayers,
    Options,
    RealLayers,
    options,
    ordered,
    up,
)
from medseg.nn.complex.parts import from_parts
from medseg.nn.cost import dof, macs
from medseg.sample import COMPLEX_INPUT

BODY = partial(UNetBody, n_classes=3, strides=(2, 2))


def made(arm, *, widths=(8, 16, 32), channels=4, complex_input="real_imag", **rest):
    chosen = rest.pop("chosen", Options())
    return assembled(
        BODY,
        widths,
        options=chosen,
        arm=arm,
        in_channels=channels,
        complex_input=complex_input,
        size=(32, 32),
        **rest,
    )


@pytest.mark.parametrize("widths", [(4, 8, 16), (8, 16, 32), (7, 21, 40)])
def test_real_x2_has_twice_the_numbers_and_iso_flop_the_products_of_complex(widths):
    nets = {arm: made(arm, widths=widths)[0] for arm in ARMS}
    assert abs(dof(nets["real_x2"]) / dof(nets["real"]) / 2 - 1) <= 0.02
    goal = macs(nets["complex"], (4, 64, 48))
    assert abs(macs(nets["iso_flop"], (4, 64, 48)) / goal - 1) <= 0.05


def test_iso_flop_of_real_data_has_the_products_of_the_net_with_zero_imaginary_part():
    iso, _ = made("iso_flop", channels=2, complex_input=None)
    goal, _ = made("complex", channels=4, complex_input="zero_imag")
    assert abs(macs(iso, (2, 32, 32)) / macs(goal, (4, 32, 32)) - 1) <= 0.05


def test_a_divisor_holds_unless_the_goal_or_a_narrow_width_forbids_it():
    _, widths = made("real_x2", widths=(32, 64, 128), divisor=8)
    assert all(width % 8 == 0 for width in widths)
    _, widths = made("real_x2", widths=(8, 64, 128), divisor=8)
    assert [width % 8 == 0 for width in widths[1:]] == [True, True]
    assert widths[0] % 2 == 0


def test_the_solver_stays_near_one_factor():
    widths = [16, 32, 64, 128, 256]
    found = solved(
        lambda w: sum(n * n for n in w),
        2 * sum(n * n for n in widths),
        widths=widths,
        arm="real_x2",
    )
    assert max(abs(a / b / math.sqrt(2) - 1) for a, b in zip(found, widths, strict=True)) < 0.04


def test_widths_that_are_too_coarse_are_refused():
    with pytest.raises(ValueError, match=r"no multiple of the widths \[1\] comes within 2%"):
        solved(lambda w: w[0] ** 2, 2, widths=[1], arm="real_x2")


def test_widths_are_found_in_half_a_second():
    chosen = Options(ndim=3)
    body = partial(UNetBody, n_classes=3, strides=(2,) * 4)
    began = time.perf_counter()
    with torch.device("meta"):
        assembled(
            body,
            (16, 32, 64, 128, 256),
            options=chosen,
            arm="real_x2",
            in_channels=2,
            complex_input="real_imag",
            size=(32,) * 3,
        )
    assert time.perf_counter() - began < 1.5  # 0.1 s on an idle machine, without type checks


def test_looking_for_widths_draws_no_chance():
    torch.manual_seed(0)
    _, widths = made("real_x2")
    torch.manual_seed(0)
    first, _ = made("real_x2")
    torch.manual_seed(0)
    second, _ = made("real", widths=widths)
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    for one, other in pairs:
        assert torch.equal(one, other)


@pytest.mark.parametrize("arm", ["complex", "two_channel"])
def test_real_data_are_refused_with_every_definition_offered(arm):
    with pytest.raises(ValueError, match=r"data\.complex_input=zero_imag") as caught:
        check(arm, 1, complex_input=None)
    assert all(name in str(caught.value) for name in COMPLEX_INPUT)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("huge", 2, "fft"), "arm 'huge' is not known"),
        (("real", 2, "kspace"), "complex_input 'kspace' is not known"),
        (("complex", 3, "fft"), "in_channels is 3, and complex data"),
        (("real", 0, None), "in_channels is 0"),
    ],
)
def test_what_no_arm_takes_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        check(*given[:2], complex_input=given[2])


def test_magnitude_is_that_of_complex_channels_and_steep_nowhere():
    image = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    assert_close(Magnitude()(image), from_parts(image).abs())
    zeros = torch.zeros(1, 2, 3, requires_grad=True)
    Magnitude()(zeros).sum().backward()
    assert torch.equal(zeros.grad, torch.zeros(1, 2, 3))


def test_options_take_what_is_given_and_else_the_default():
    defaults = {"norm": "group", "activation": "crelu", "head": "concat", "upsample": "linear"}
    shared = {"equivariant": False, "ndim": 3}
    found = options(defaults, norm=None, head="real", **shared)
    assert (found.norm, found.head, found.ndim, found.bias) == ("group", "real", 3, True)
    with pytest.raises(ValueError, match="norm 'layer' is not known; choose one of batch"):
        options(defaults, norm="layer", **shared)
    with pytest.raises(ValueError, match="ndim is 4"):
        options(defaults, equivariant=False, ndim=4)


def test_equivariant_options_are_the_default_ones_of_that_mode_and_others_are_refused():
    defaults = {"norm": "batch", "activation": "crelu", "head": "concat", "upsample": "linear"}
    found = options(defaults, equivariant=True, ndim=2)
    assert (found.norm, found.activation, found.head) == ("rms", "modrelu", "invariant")
    assert not found.bias
    with pytest.raises(ValueError, match="activation 'crelu' breaks equivariance"):
        options(defaults, equivariant=True, ndim=2, activation="crelu")


@pytest.mark.parametrize("layers", [RealLayers, ComplexLayers])
@pytest.mark.parametrize("ndim", [2, 3])
def test_every_named_layer_keeps_or_scales_the_size(layers, ndim):
    torch.manual_seed(0)
    image = torch.randn(2, 16, *(4, 6, 8)[:ndim])
    x = from_parts(image) if layers is ComplexLayers else image[:, :8]
    for norm in NORMS:
        for kind in ACTIVATIONS:
            chosen = Options(ndim=ndim, norm=norm, activation=kind, dropout=0.25)
            found = nn.Sequential(*ordered(layers(chosen), 8))(x)
            assert found.shape == x.shape
            assert found.dtype == x.dtype
            assert torch.isfinite(torch.view_as_real(found) if x.is_complex() else found).all()
    for kind in UPSAMPLES:
        stride = (1, 2, 3)[:ndim]
        rise = up(layers(Options(ndim=ndim, upsample=kind)), (8, 4), stride=stride)
        grown = [n * s for n, s in zip(x.shape[2:], stride, strict=True)]
        assert rise(x).shape == (2, 4, *grown)
    for kind in HEADS:
        logits = layers(Options(ndim=ndim, head=kind)).head(8, 8)(x)
        assert logits.shape == x.shape
        assert not logits.is_complex()


def test_real_fourier_upsampling_keeps_the_values_it_had():
    x = torch.randn(1, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    finer = RealLayers(Options(upsample="fourier")).upsample(2)(x)
    assert_close(finer[..., ::2, ::2], x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("arm", ["real", "complex"])
def test_first_weights_keep_power_through_a_deep_plain_net(arm):
    torch.manual_seed(0)
    layers = (ComplexLayers if arm == "complex" else RealLayers)(Options())
    parts = [nn.Sequential(layers.conv(64, 64), layers.activation(64)) for _ in range(6)]
    network = nn.Sequential(*parts)
    initialise(network, "crelu")
    image = torch.randn(4, 128, 24, 24)
    x = from_parts(image) / math.sqrt(2) if arm == "complex" else image[:, :64]
    power = network(x)[..., 6:-6, 6:-6].abs().square().mean().item()
    assert 0.25 < power < 1  # half of E|x|² leaves the last activation; the edges leak


def test_first_weights_have_their_variance():
    torch.manual_seed(0)
    for layer in (Conv(64, 64), nn.Conv2d(64, 64, 3)):
        initialise(layer, "crelu")
        power = layer.weight.square().sum() / (64 * 64 * 9)
        assert abs(power.item() * 64 * 9 / 2 - 1) < 0.02
        assert not layer.bias.any()
    for layer in (ConvTranspose(64, 64, kernel=2), nn.ConvTranspose2d(64, 64, 2, stride=2)):
        initialise(layer, "crelu")
        power = layer.weight.square().sum() / (64 * 64 * 4)
        assert abs(power.item() * 64 / 2 - 1) < 0.03
