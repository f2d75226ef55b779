"""Complex U-Nets: the plan of known networks, one switch for all arms, equivariance."""

import math

import pytest
import torch
from monai.networks.nets import SegResNet, UNet
from torch.testing import assert_close

from medseg.models.complexnet import ComplexNet
from medseg.nn.complex.activation import ModReLU
from medseg.nn.complex.arms import ARMS
from medseg.nn.complex.parts import to_parts
from medseg.nn.cost import dof

PUBLISHED = {2: 1_625_849, 3: 4_808_537}
AS_MONAI = {"norm": "instance", "activation": "prelu", "head": "none"}


def monai(ndim):
    widths = (16, 32, 64, 128, 256)
    return UNet(ndim, 1, 4, widths, strides=(2, 2, 2, 2), num_res_units=2)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_real_unet_is_monais_number_for_number(ndim):
    torch.manual_seed(0)
    ours, peer = ComplexNet(1, 4, arm="real", ndim=ndim, **AS_MONAI), monai(ndim)
    assert dof(ours) == dof(peer) == PUBLISHED[ndim]
    with torch.no_grad():
        for mine, given in zip(ours.parameters(), peer.parameters(), strict=True):
            mine.copy_(given)
        image = torch.randn(1, 1, *(32, 48, 32)[:ndim])
        # The other order of sums in float32, through 20 convolutions.
        assert_close(ours(image), peer(image), rtol=1e-4, atol=1e-4)


def test_the_published_counts_of_twice_the_numbers():
    with torch.device("meta"):
        for ndim, ratio in {2: 2.0021, 3: 2.0025}.items():
            twice = ComplexNet(1, 4, arm="real_x2", ndim=ndim, **AS_MONAI)
            assert twice.widths == (23, 45, 91, 181, 362)
            assert round(dof(twice) / PUBLISHED[ndim], 4) == ratio


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_real_residual_net_has_the_numbers_of_segresnet(ndim):
    ours = ComplexNet(2, 3, arm="real", topology="residual", width=8, depth=3, ndim=ndim)
    peer = SegResNet(spatial_dims=ndim, init_filters=8, in_channels=2, out_channels=3)
    assert dof(ours) == dof(peer)


def test_the_complex_unet_has_twice_the_numbers_of_the_real_one_of_two_complex_inputs():
    options = {"complex_input": "real_imag", "norm": "none"}
    real, cplx = (ComplexNet(4, 3, arm=arm, **options) for arm in ("real", "complex"))
    head = 3 * 16 + 3  # the real head reads 16 features, the complex one 32 parts
    assert dof(cplx) == 2 * (dof(real) - head) + 3 * 32 + 3


@pytest.mark.parametrize("topology", ["unet", "attention", "residual"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_all_arms_take_the_same_batch_and_learn(topology, ndim):
    torch.manual_seed(0)
    image = torch.randn(2, 4, *(8, 12, 16)[:ndim])
    for arm in ARMS:
        network = ComplexNet(
            4, 3, complex_input="real_imag", arm=arm, topology=topology, width=6, depth=2, ndim=ndim
        )
        logits = network(image)
        assert logits.shape == (2, 3, *image.shape[2:])
        assert logits.dtype == torch.float32
        logits.square().mean().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("arm", ["real", "real_x2", "iso_flop"])
def test_real_arms_take_real_data_as_they_are(arm):
    torch.manual_seed(0)
    network = ComplexNet(3, 2, arm=arm, width=8, depth=1)
    assert network(torch.randn(2, 3, 6, 8)).shape == (2, 2, 6, 8)


def test_real_arms_see_no_phase_of_complex_data_and_two_channel_does():
    torch.manual_seed(0)
    z = torch.randn(1, 2, 8, 8, dtype=torch.complex64)
    images = to_parts(z), to_parts(z * torch.exp(1j * torch.rand(1, 2, 8, 8)))
    for arm, same in {"real": True, "two_channel": False, "complex": False}.items():
        network = ComplexNet(4, 2, complex_input="real_imag", arm=arm, width=4, depth=1).eval()
        first, second = (network(image) for image in images)
        assert torch.allclose(first, second, atol=1e-5) == same


def test_real_data_in_a_complex_net_are_refused_with_the_definitions():
    with pytest.raises(ValueError, match=r"data\.complex_input=zero_imag"):
        ComplexNet(1, 2)


def trained(network, seed):
    """Every parameter moved, as training would; modReLU with dead discs and without."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, ModReLU):
            module.bias.data.copy_(0.4 * torch.randn(module.bias.shape, generator=generator) - 0.1)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += 0.1 * parameter.data.std(correction=0) * noise
    return network


@pytest.mark.parametrize("topology", ["unet", "attention", "residual"])
@pytest.mark.parametrize("upsample", ["transposed", "linear"])
def test_a_turn_of_all_phases_turns_features_and_leaves_logits(topology, upsample):
    torch.manual_seed(0)
    network = ComplexNet(
        4,
        3,
        complex_input="real_imag",
        topology=topology,
        upsample=upsample,
        width=8,
        depth=3,
        equivariant=True,
    )
    trained(network, 0)
    z = torch.randn(2, 2, 24, 32, dtype=torch.complex64)
    turn = torch.exp(1j * torch.tensor([0.7, -2.9]))[:, None, None, None]  # one an image
    with torch.no_grad():
        for mode in (True, False):
            network.train(mode)
            assert far(network(to_parts(z * turn)), network(to_parts(z))) < 1e-5
        z, turn, network = z.to(torch.complex128), turn.to(torch.complex128), network.double()
        features, turned = (network.body.features(x) for x in (z, z * (turn / turn.abs())))
        # Rounding grows through up to 40 layers: 3e-5 of the largest feature in single precision.
        assert far(turned, features * turn / turn.abs()) < 1e-12


def far(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def test_the_plain_net_is_not_equivariant():
    torch.manual_seed(0)
    network = ComplexNet(2, 3, complex_input="real_imag", width=8, depth=2).eval()
    z = torch.randn(1, 1, 16, 16, dtype=torch.complex64)
    assert far(network(to_parts(z * 1j)), network(to_parts(z))) > 0.01


def test_two_channels_cannot_be_equivariant():
    with pytest.raises(ValueError, match="two_channel cannot be equivariant"):
        ComplexNet(2, 2, complex_input="real_imag", arm="two_channel", equivariant=True)


def test_sizes_are_multiples_of_the_stride_an_axis_and_level():
    torch.manual_seed(0)
    for topology in ("unet", "residual"):
        network = ComplexNet(
            2,
            2,
            complex_input="fft",
            topology=topology,
            width=4,
            depth=2,
            ndim=3,
            strides=[(1, 2, 2), 2],
        )
        assert network.stride == (2, 4, 4)
        assert network(torch.randn(1, 2, 2, 12, 20)).shape == (1, 2, 2, 12, 20)


def test_one_seed_makes_one_network():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(ComplexNet(2, 2, complex_input="fft", arm="iso_flop", width=4).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


def test_images_of_a_batch_do_not_mix_in_evaluation():
    torch.manual_seed(0)
    network = ComplexNet(2, 2, complex_input="real_imag", width=4, depth=2).eval()
    image = torch.randn(3, 2, 16, 16)
    assert_close(network(image)[1:2], network(image[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("phase", [0.0, math.pi / 4])
def test_numbers_on_a_line_give_finite_logits_and_gradients(scale, phase):
    torch.manual_seed(0)
    network = ComplexNet(2, 2, complex_input="zero_imag", width=4, depth=2)
    z = scale * torch.rand(2, 1, 16, 16) * torch.exp(1j * torch.tensor(phase))
    network(to_parts(z)).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"topology": "vnet"}, "topology 'vnet' is not known"),
        ({"width": 0}, "width is 0"),
        ({"strides": [2]}, "strides has 1 entries for depth 4"),
        ({"head": "phase"}, "head 'phase' is not known"),
    ],
)
def test_wrong_plans_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        ComplexNet(2, 2, complex_input="fft", **wrong)


@pytest.mark.parametrize("topology", ["unet", "attention", "residual"])
@pytest.mark.parametrize("bias", [-0.1, 0.0])
def test_an_empty_background_gives_finite_gradients_without_offsets(topology, bias):
    torch.manual_seed(0)
    options = {"complex_input": "real_imag", "width": 4, "depth": 2, "equivariant": True}
    network = ComplexNet(2, 2, topology=topology, **options)
    for module in network.modules():
        if isinstance(module, ModReLU):
            module.bias.data.fill_(bias)
    image = torch.randn(2, 2, 64, 64)
    image[..., :40], image[1] = 0, 0
    network(image).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_a_solved_arm_is_built_again_from_its_own_widths():
    chosen = {"complex_input": "real_imag", "arm": "iso_flop", "width": 4, "depth": 2}
    solved = ComplexNet(2, 3, **chosen)
    again = ComplexNet(2, 3, **chosen, widths=solved.widths)
    again.load_state_dict(solved.state_dict())
    assert again.widths == solved.widths != (4, 8, 16)
    with pytest.raises(ValueError, match="widths has 2 entries; depth 2 has 3"):
        ComplexNet(2, 3, **chosen, widths=[4, 8])
