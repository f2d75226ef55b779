"""Networks on the sphere: published sizes, the grid's symmetries, any nside, parts of the sky."""

import functools

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from medseg import config, package, signature
from medseg.geometry.neighbours import neighbours
from medseg.geometry.sphere import centres, whole_pixels
from medseg.geometry.symmetry import symmetries
from medseg.models.spherenet import SphereClassifier, SphereNet
from medseg.nn.sphere import ChebConv, operator_of
from medseg.nn.sphereunits import WideConv
from medseg.nn.stencil import propagate

SMALL = {"widths": (4, 6, 8), "order": 3}


@functools.cache
def preset(name):
    return config.plain(config.compose("train", [f"model={name}"]).model)


def published(name, in_channels, n_classes, **arguments):
    """The network of a preset."""
    node = preset(name) | arguments
    return config.build(node, in_channels=in_channels, n_classes=n_classes)


def count(network):
    return sum(p.numel() for p in network.parameters())


def net(cls=SphereNet, in_channels=2, n_classes=3, **arguments):
    """A small network whose normalisations and gains are not those of the start."""
    torch.manual_seed(0)
    network = cls(in_channels, n_classes, **(SMALL | arguments))
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "gain", "bias")):
            tensor.normal_(0, 0.5)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return network.eval()


def sky(nside, channels=2, batch=2, seed=0):
    return torch.randn(
        batch, channels, 12 * nside**2, generator=torch.Generator().manual_seed(seed)
    )


def layers(pairs, order):
    """Numbers of convolutions with bias, each normalised."""
    return sum(i * o * order + o + 2 * o for i, o in pairs)


CLASSIFIER = [(6, 16), (16, 32), (32, 64), (64, 128), (128, 256)]
COSMOLOGY = [(1, 16), (16, 32), (32, 64), (64, 64), (64, 64)]
CLIMATE = [
    *[(16, 32), (32, 64), (64, 128), (128, 256), (256, 512), (512, 512)],
    *[(512, 512), (512 + 512, 512), (512, 256), (512 + 256, 256)],
    *[(256, 128), (256 + 128, 128), (128, 64), (128 + 64, 64), (64, 32)],
]
JIANG = [
    *[(16, 8), (8, 16), (16, 32), (32, 64), (64, 128), (128, 128)],
    *[(128, 128), (256, 128), (128, 64), (128, 64), (64, 32), (64, 32)],
    *[(32, 16), (32, 16), (16, 8), (16, 8)],
]


@pytest.mark.parametrize(
    "name", ["", "_shrec", "_cosmology", "_climate", "_climate_jiang", "_weather"]
)
def test_the_presets_fit_their_constructors(name):
    signature.check(preset(f"spherenet{name}"), "model", given=("in_channels", "n_classes"))


def test_the_shrec_preset_has_the_published_size():
    found = count(published("spherenet_shrec", 6, 55))
    assert found == layers(CLASSIFIER, 4) + 256 * 55 + 55 == 190_087  # published: 190 k


def test_the_cosmology_preset_has_the_published_layers():
    network = published("spherenet_cosmology", 1, 2)
    assert count(network) == layers(COSMOLOGY, 5) + 64 * 2 + 2
    assert network.footprint == (1, (0,))


@pytest.mark.parametrize(("order", "total"), [(3, 5_763_491), (4, 7_681_027)])
def test_the_climate_presets_size_follows_the_published_rule(order, total):
    """The paper's text counts 13 M; the rule of the authors' code gives these."""
    network = published("spherenet_climate", 16, 3, order=order)
    ends = 512 * 512 * order + 512 + 32 * 3 * order + 3
    assert count(network) == layers(CLIMATE, order) + ends == total


def test_the_jiang_presets_size_follows_the_published_plan():
    """The paper's text counts 590 k; the plan printed beside it gives this."""
    found = count(published("spherenet_climate_jiang", 16, 3))
    assert found == layers(JIANG, 4) + 8 * 3 * 4 + 3 == 395_931


def test_the_weather_preset_has_the_published_blocks():
    def block(i, *widths):
        pairs = zip((i, *widths), widths, strict=False)
        linear = 0 if i == widths[-1] else i * widths[-1] + widths[-1]
        return sum(a * b * 3 + b for a, b in pairs) + linear + 1

    wanted = (
        block(21, 64, 128) + block(128, 192, 256) + block(256, 512, 256)
        + block(512, 256, 128) + block(256, 128, 64) + block(64, 2)
    )  # fmt: skip
    assert count(published("spherenet_weather", 21, 2)) == wanted


def test_stations_like_networks_have_the_published_layers():
    """Three layers without pooling: a number for the whole sky, or one a pixel."""
    pairs = [(5, 50), (50, 100), (100, 100)]
    dense = SphereNet(5, 1, widths=[[50, 100, 100]], order=5)
    whole = SphereClassifier(5, 1, widths=[50, 100, 100], order=5, pool="none")
    assert count(dense) == layers(pairs, 5) + 100 * 5 + 1
    assert count(whole) == layers(pairs, 5) + 100 + 1
    assert dense.eval()(sky(2, 5)).shape == (2, 1, 48)
    assert whole.eval()(sky(2, 5)).shape == (2, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"pool": "mean"},
        {"nside": 4},
        {"pool": "max_places", "widths": (4, 6, 6), "up": (4, 5), "activation": "leaky_relu"},
        {"topology": "weather", "norm": "none", "widths": ((4, 6), (8, 6)), "up": ((6, 4),)},
        {"norm": "group", "activation": "gelu", "skip_finest": False, "plain_bottom": True},
    ],
)
def test_all_sixteen_symmetries_turn_the_result_alike(arguments):
    network, image = net(**arguments).double(), sky(8).double()
    with torch.no_grad():
        straight = network(image)
        for moved in symmetries(8):
            turned, back = torch.empty_like(image), torch.tensor(moved)
            turned[..., back] = image
            found = network(turned)[..., back]
            assert_close(found, straight, rtol=0, atol=1e-5 * float(straight.abs().max()))


@pytest.mark.parametrize("head", ["linear", "graph"])
def test_a_sky_is_of_one_class_however_it_is_turned(head):
    network, image = net(SphereClassifier, head=head), sky(8)
    with torch.no_grad():
        straight = network(image)
        for moved in symmetries(8):
            assert_close(network(image[..., torch.tensor(moved)]), straight, rtol=0, atol=1e-5)
    assert straight.shape == (2, 3)
    assert straight.std(0).min() > 1e-3  # skies are told apart, so the identity says something


@pytest.mark.parametrize("nside", [16, 32])
def test_the_same_weights_take_any_nside(nside):
    """A sky turned is the same sky at each, and tables of another nside leave nothing behind."""
    network, whole = net(), net(SphereClassifier)
    turn = torch.tensor(symmetries(nside)[5])
    with torch.no_grad():
        before, image = network(sky(8)), sky(nside)
        found, classes = network(image), whole(image)
        turned = network(image[..., turn])
        assert_close(turned, found[..., turn], rtol=0, atol=1e-4 * float(found.abs().max()))
        assert_close(whole(image[..., turn]), classes, rtol=0, atol=1e-5)
        assert found.std() > 1e-3
        assert torch.equal(network(sky(8)), before)


def test_filters_keep_their_angle_on_finer_maps():
    """A smooth sky gives nearly the same map at nside 32 as at 16, which pixels alone do not."""
    angle, pixels = net(nside=16, widths=(4, 6)), net(widths=(4, 6))
    pixels.load_state_dict(angle.state_dict())
    error = {}
    for name, network in {"angle": angle, "pixels": pixels}.items():
        with torch.no_grad():
            coarse, fine = network(smooth(16)), network(smooth(32))
        mean = fine.unflatten(-1, (-1, 4)).mean(-1)
        error[name] = float((mean - coarse).square().mean() / coarse.var())
    assert error["angle"] < 0.3 * error["pixels"]
    assert error["angle"] < 0.02


def smooth(nside):
    """A sky of a few harmonics, in two channels."""
    x, y, z = torch.tensor(centres(nside).T, dtype=torch.float32)
    first = torch.sin(5 * x + 2 * y) + torch.cos(6 * z - 3 * y)
    return torch.stack([first, torch.sin(7 * x * z + 4 * y)])[None]


@pytest.mark.parametrize("times", [2, 4])
def test_a_wide_filter_is_one_of_the_operators_polynomial(times):
    """The steps between the pixels it learned on are -T(d) of the operator it finds."""
    torch.manual_seed(0)
    narrow = ChebConv(2, 3, order=3).double()
    wide = WideConv(2, 3, order=3, nside=8 // times).double()
    wide.load_state_dict(narrow.state_dict())
    x = sky(8).double()
    operator = operator_of(x, kind="ls8", laplacian=None, footprint=None)
    rows = x.flatten(0, 1).T.contiguous()

    def one(rows):
        twice = 2 * propagate(propagate(rows, operator), operator) - rows
        if times == 4:
            twice = 2 * polynomial(polynomial(rows)) - rows
        return -twice

    def polynomial(rows):
        return 2 * propagate(propagate(rows, operator), operator) - rows

    terms = [rows, one(rows)]
    terms.append(2 * one(terms[1]) - terms[0])
    stacked = torch.stack([t.T.unflatten(0, (2, 2)) for t in terms])
    wanted = torch.einsum("kbin,kio->bon", stacked, wide.weight) + wide.bias[:, None]
    assert_close(wide(x), wanted)


def test_a_constant_sky_has_one_answer_at_every_nside():
    network = net()
    with torch.no_grad():
        found = [network(torch.full((1, 2, 12 * n**2), 0.7)) for n in (8, 16)]
    for logits in found:
        same = found[0][..., :1].expand_as(logits)
        assert_close(logits, same, rtol=0, atol=1e-4)


def test_inside_a_footprint_away_from_its_border_the_whole_sky_is_found():
    nside, seen = 16, (0, 4, 5)
    whole, part = (net(widths=(4, 6), order=2, footprint=f) for f in (None, (1, seen)))
    part.load_state_dict(whole.state_dict())
    pixels = whole_pixels(nside, 1, pixels=seen)
    image = sky(nside)
    with torch.no_grad():
        wanted, found = whole(image)[..., pixels], part(image[..., pixels])
    away = interior(nside, pixels, steps=7)
    assert 20 < int(away.sum()) < len(pixels) // 2
    assert_close(found[..., away], wanted[..., away], rtol=0, atol=1e-5)
    assert float((found - wanted)[..., ~away].abs().max()) > 1e-2  # the border is another one


def interior(nside, seen, *, steps):
    """Which pixels of a part of the sky lie so many neighbours away from what is not seen."""
    inside = np.zeros(12 * nside**2, dtype=bool)
    inside[seen] = True
    around = neighbours(nside)
    for _ in range(steps):
        inside = inside & np.where(around >= 0, inside[around], True).all(1)
    return torch.from_numpy(inside[seen])


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(net),
        functools.partial(net, kind="knn20"),
        functools.partial(net, pool="max_places", widths=(4, 6, 6), up=(4, 5)),
        functools.partial(net, topology="weather", norm="none"),
        functools.partial(net, SphereClassifier),
    ],
)
def test_gradients_reach_every_parameter(make):
    network = make().train()
    network(sky(16)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if network_without_norm(name):
            assert float(parameter.grad.abs().max()) > 0, name


def network_without_norm(name):
    """A bias before a batch normalisation cancels: its gradient is rounding alone."""
    return not name.endswith("conv.bias")


def test_it_learns():
    """A net overfits the sign of a smoothed sky, which one pixel does not tell."""
    torch.manual_seed(0)
    network = SphereNet(1, 2, widths=(8, 8))
    image = sky(8, 1, 1)
    target = (image[0, 0].view(-1, 4).mean(1) > 0).long().repeat_interleave(4)[None]
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(image), target)
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.1


@pytest.mark.parametrize("layer", ["GCNConv", "SAGEConv"])
def test_any_graph_layer_can_be_chosen(layer):
    node = {"_target_": f"torch_geometric.nn.{layer}", "_partial_": True}
    spec = {"graph": layer, "arguments": {}}
    named = {"name": "spherenet", "class": "SphereNet"}
    given = {"in_channels": 2, "n_classes": 3, "widths": [4, 6], "graph": spec}
    assert signature.spec(preset("spherenet") | {"graph": node})["arguments"]["graph"] == spec
    network = package.build({**named, "arguments": given})
    assert network.eval()(sky(4)).shape == (2, 3, 192)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"topology": "resnet"}, "unet, weather"),
        ({"widths": (4, 0)}, "at least 1"),
        ({"up": (4,)}, "give 2"),
        ({"order": 0}, "at least 1"),
        ({"norm": "layer"}, "batch, instance"),
        ({"pool": "max_places"}, "max_places"),
        ({"pool": "sum"}, "mean, max"),
        ({"footprint": [1]}, r"\[1, \[0\]\]"),
        ({"footprint": [1, [12]]}, "0 to 11"),
        ({"footprint": [3, [0]]}, "power of two"),
        ({"footprint": [1, [0, 0]]}, "each once"),
    ],
)
def test_what_cannot_be_built_is_said(arguments, words):
    given = {"up": (4, 4)} if "pool" in arguments else {}
    with pytest.raises(ValueError, match=words):
        SphereNet(2, 3, **(SMALL | given | arguments))


@pytest.mark.parametrize(
    ("arguments", "nside", "words"),
    [
        ({}, 2, "nside 4 or finer"),
        ({"kind": "knn20"}, 4, "from nside 2 on; give a map of nside 8"),
        ({"footprint": (4, [0, 1, 2])}, 8, "footprint have nside 4; give a map of nside 16"),
    ],
)
def test_a_map_that_is_too_coarse_is_refused(arguments, nside, words):
    network = net(**arguments)
    pixels = 12 * nside**2 if "footprint" not in arguments else 3 * (nside // 4) ** 2
    with pytest.raises(ValueError, match=words):
        network(torch.zeros(1, 2, pixels))


def test_the_climate_preset_says_which_nside_its_graph_needs():
    """Twelve pixels of nside 1 have no twenty neighbours."""
    network = published("spherenet_climate", 16, 3, widths=[2] * 6, up=[2] * 5)
    assert network.eval()(sky(64, 16, 1)).shape == (1, 3, 12 * 64**2)
    with pytest.raises(ValueError, match="from nside 2 on; give a map of nside 64 or finer"):
        network(sky(32, 16, 1))


def test_a_classifier_may_pool_to_nside_1_and_no_further():
    network = net(SphereClassifier, kind="knn20")
    assert network(sky(8)).shape == (2, 3)
    with pytest.raises(ValueError, match="nside 8 or finer"):
        network(sky(4))


def test_a_map_of_no_nside_is_refused():
    with pytest.raises(ValueError, match="100 pixels"):
        net()(torch.zeros(1, 2, 100))
