"""Complex ResNets: published counts, one switch for all arms, any size, equivariance."""

import pytest
import torch
from torch.testing import assert_close

from medseg.models.complexresnet import ComplexResNet, middle_width
from medseg.nn.complex.activation import ModReLU
from medseg.nn.complex.arms import ARMS
from medseg.nn.complex.parts import to_parts
from medseg.nn.cost import dof, macs

# Parameters and 10⁹ multiply-adds as torchvision's documentation gives them.
PUBLISHED = {
    "resnet18": (11_689_512, 1000, 1.81, (3, 224, 224)),
    "resnet3d_18": (33_371_472, 400, 40.70, (3, 16, 112, 112)),
    "r2plus1d_18": (31_505_325, 400, 40.52, (3, 16, 112, 112)),
    "mixed_18": (11_695_440, 400, 43.34, (3, 16, 112, 112)),
}
TOPOLOGIES = list(PUBLISHED)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_the_real_arm_has_the_published_numbers(topology):
    numbers, n_classes, products, shape = PUBLISHED[topology]
    with torch.device("meta"):
        network = ComplexResNet(3, n_classes, arm="real", topology=topology, across=0)
    assert dof(network) == numbers
    assert round(macs(network, shape) / 1e9, 2) == products


def test_the_middle_holds_what_one_convolution_does():
    for i, o in ((64, 64), (64, 128), (45, 181)):
        middle = middle_width(i, o)
        whole = 27 * i * o
        assert whole - (9 * i + 3 * o) < middle * (9 * i + 3 * o) <= whole


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_arms_meet_their_goals(topology):
    options = {"complex_input": "real_imag", "topology": topology, "width": 8}
    with torch.device("meta"):
        nets = {arm: ComplexResNet(4, 3, arm=arm, **options) for arm in ARMS}
    shape = (4, 64, 64) if nets["real"].ndim == 2 else (4, 48, 64, 16)
    assert abs(dof(nets["real_x2"]) / dof(nets["real"]) / 2 - 1) <= 0.02
    assert abs(macs(nets["iso_flop"], shape) / macs(nets["complex"], shape) - 1) <= 0.05
    assert nets["two_channel"].widths == nets["complex"].widths == (8, 16, 32, 64)


@pytest.mark.parametrize("topology", TOPOLOGIES[1:])
def test_slices_lie_across_the_axis_that_is_said(topology):
    options = {"complex_input": "real_imag", "topology": topology, "width": 4}
    nets = [ComplexResNet(2, 3, across=axis, **options).eval() for axis in (2, 0, 1)]
    image = torch.randn(2, 2, 12, 20, 6, generator=torch.Generator().manual_seed(0))
    views = [image, image.movedim(-1, 2), image.movedim(-1, 3)]
    for network in nets[1:]:
        network.load_state_dict(nets[0].state_dict())
    with torch.no_grad():
        first, *others = (net(view) for net, view in zip(nets, views, strict=True))
        for found in others:
            assert_close(found, first)
        assert not torch.allclose(nets[1](image), first)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_all_arms_take_a_batch_of_any_size_and_learn(topology):
    torch.manual_seed(0)
    for arm in ARMS:
        network = ComplexResNet(
            2, 3, complex_input="real_imag", arm=arm, topology=topology, width=4
        )
        image = torch.randn(3, 2, *(17, 34, 23)[: network.ndim])
        logits = network(image)
        assert logits.shape == (3, 3)
        logits.square().mean().backward()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    assert network.stride == 1
    assert network.eval()(torch.randn(1, 2, *(1, 1, 1)[: network.ndim])).shape == (1, 3)


@pytest.mark.parametrize("topology", ["resnet18", "r2plus1d_18"])
@pytest.mark.parametrize("pool", ["magnitude", "coherent"])
def test_a_turn_of_all_phases_turns_features_and_leaves_logits(topology, pool):
    torch.manual_seed(0)
    network = ComplexResNet(
        2, 3, complex_input="real_imag", topology=topology, pool=pool, width=8, equivariant=True
    )
    for module in network.modules():
        if isinstance(module, ModReLU):
            module.bias.data.normal_(-0.1, 0.3)
    z = torch.randn(2, 1, *(16, 32, 32)[-network.ndim :], dtype=torch.complex64)
    turn = torch.exp(1j * torch.tensor([0.7, -2.9])).view(2, 1, *[1] * network.ndim)
    with torch.no_grad():
        features, turned = (network.body.features(x) for x in (z, z * turn))
        assert far(turned, features * turn) < 1e-5
        assert far(network(to_parts(z * turn)), network(to_parts(z))) < 1e-5


def far(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def test_the_pools_differ_by_what_they_see():
    torch.manual_seed(0)
    options = {"complex_input": "real_imag", "width": 4}
    first = ComplexResNet(2, 2, pool="magnitude", **options).eval()
    second = ComplexResNet(2, 2, pool="coherent", **options).eval()
    second.load_state_dict(first.state_dict())
    z = torch.randn(1, 4, 3, 3, dtype=torch.complex64)
    assert_close(first.body.pool(z), z.abs().mean((-1, -2)))
    assert_close(second.body.pool(z), z.mean((-1, -2)).abs())


def test_one_seed_makes_one_network():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        network = ComplexResNet(2, 2, complex_input="fft", arm="real_x2", width=4)
        states.append(network.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"topology": "resnet50"}, "topology 'resnet50' is not known"),
        ({"pool": "max"}, "global pooling is 'max'"),
        ({"complex_input": None}, r"data\.complex_input=zero_imag"),
        ({"n_classes": 0}, "n_classes is 0"),
        ({"topology": "mixed_18", "across": 3}, "across is 3"),
    ],
)
def test_wrong_plans_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        ComplexResNet(**{"in_channels": 2, "n_classes": 2, "complex_input": "fft", **wrong})
