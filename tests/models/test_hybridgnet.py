"""HybridGNet: published counts and values, and what holds for any organs and any parameters."""

import functools
import json

import pytest
import torch
import torch_geometric.nn as layers
from torch.testing import assert_close

from medseg import config, package
from medseg.models.hybridgnet import HybridGNet, from_published, published_key

ALL = {"right_lung": 44, "left_lung": 50, "heart": 26, "right_clavicle": 23, "left_clavicle": 23}
SETS = {"L": dict(list(ALL.items())[:2]), "LH": dict(list(ALL.items())[:3]), "LHC": ALL}
VARIANTS = {
    "hybrid": {"lookups": ()},
    "hybrid_nopool": {"lookups": (), "pooling": False},
    "igsc1_l6": {"lookups": (6,)},
    "igsc1_l5": {"lookups": (5,)},
    "igsc1_l4": {"lookups": (4,)},
    "igsc1_l3": {"lookups": (3,)},
    "igsc2_l65": {},
    "igsc2_l54": {"lookups": (5, 4)},
    "igsc2_l43": {"lookups": (4, 3)},
    "igsc2_clean": {},
}
COUNTS = {
    "hybrid": (17_447_554, 17_461_074, 17_486_034),
    "hybrid_nopool": (17_496_434, 17_523_474, 17_571_314),
    "igsc1_l6": (17_472_546, 17_486_066, 17_511_026),
    "igsc1_l5": (17_472_546, 17_486_066, 17_511_026),
    "igsc1_l4": (17_460_258, 17_473_778, 17_498_738),
    "igsc1_l3": (17_454_114, 17_467_634, 17_492_594),
    "igsc2_l65": (17_497_570, 17_511_090, 17_536_050),
    "igsc2_l54": (17_485_282, 17_498_802, 17_523_762),
    "igsc2_l43": (17_466_850, 17_480_370, 17_505_330),
}
TWO = {"ring": 7, "line": {"nodes": 6, "closed": False}}
SMALL = {"widths": (4, 4, 8, 8, 8, 8), "latent": 6, "width": 8, "bottleneck": 2}


@functools.cache
def preset():
    return config.plain(config.compose("train", ["model=hybridgnet_2022"]).model)


def published(organs, **arguments):
    """The network of the preset."""
    return config.build(preset() | arguments, organs=organs)


def small(organs=TWO, **arguments):
    torch.manual_seed(0)
    return HybridGNet(organs, **(SMALL | arguments)).eval()


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_counts_are_the_published_ones(variant):
    with torch.device("meta"):
        networks = [published(organs, **VARIANTS[variant]) for organs in SETS.values()]
    found = tuple(sum(p.numel() for p in network.parameters()) for network in networks)
    assert found == COUNTS[variant]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", SETS)
def test_the_state_has_the_published_tensors(reference, variant, name):
    listed = json.loads((reference / "fixtures/hybridgnet/param_counts_and_keys.json").read_text())[
        f"{variant}/{name}/1024"
    ]["state_dict"]
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in listed.items()}
        published(SETS[name], **VARIANTS[variant]).load_state_dict(
            from_published(state), assign=True
        )


@pytest.mark.parametrize(
    "variant", ["hybrid", "hybrid_nopool", "igsc1_l6", "igsc2_l65", "igsc2_l54", "igsc2_clean"]
)
def test_outputs_are_the_published_ones(reference, variant):
    from safetensors.torch import load_file

    found = load_file(reference / f"fixtures/hybridgnet/{variant}_LH_in64_recipe.safetensors")
    state = {k.removeprefix("param/"): t for k, t in found.items() if k.startswith("param/")}
    network = published(SETS["LH"], sampling="fixed", size=64, **VARIANTS[variant]).eval()
    network.load_state_dict(from_published(state))
    with torch.inference_mode():
        seen = network.encode(found["in/image"])
        shape = network.decode(seen.mu, seen.maps)
        alone = network(found["in/image"][:1])
    wanted = [t for k, t in sorted(found.items()) if k.startswith("out_sr3/")]
    assert_close([shape.landmarks, *shape.positions], wanted, atol=1e-5, rtol=0)
    assert_close(alone, found["out_sr3_batch1/0"], atol=1e-5, rtol=0)
    assert_close(seen.mu, found["mid/mu"], atol=1e-4, rtol=1e-5)
    assert_close(seen.logvar, found["mid/log_var"], atol=1e-4, rtol=1e-5)


def test_both_namings_lead_to_one():
    assert published_key("SC_2.graphConv_pre.lins.0.weight") == "heads.1.weight"
    assert published_key("module.graphConv_pre2.lins.0.weight") == "heads.1.weight"
    assert published_key("graphConv_up4.lins.3.weight") == "layers.2.weight/3"
    with pytest.raises(ValueError, match="no tensor of the 2022 HybridGNet"):
        published_key("decoder.weight")


@pytest.mark.parametrize(
    "arguments",
    [
        {"lookups": ()}, {"lookups": (2,)}, {"lookups": (6, 5, 4, 3)}, {"pooling": False},
        {"lookups": (), "pooling": False}, {"residual": False}, {"top_down": 8, "lookups": (6, 3)},
        {"sampling": "adaptive", "align": "index", "circular": False}, {"norm": "instance"},
        {"bottleneck": "flatten", "size": 64}, {"layer": layers.SAGEConv}, {"detach": False},
        {"covariance": True, "pixels": True},
    ],
)  # fmt: skip
def test_every_variant_draws_all_nodes_and_learns(arguments):
    network = small(**arguments).train()
    image = torch.randn(2, 1, 64, 64)
    seen = network.encode(image)
    shape = network.decode(seen.mu + torch.randn(2, 6) * (0.5 * seen.logvar).exp(), seen.maps)
    assert shape.landmarks.shape == (2, 13, 2)
    few = 13 if arguments.get("pooling") is False else 7
    counts = [few, 13, 13, 13][: len(network.lookups)]
    assert [p.shape[1] for p in shape.positions] == counts
    loss = sum(p.square().mean() for p in (shape.landmarks, *shape.positions))
    if arguments.get("pixels"):
        assert shape.covariance.shape == (2, 13, 3)
        pixels = network.decode_pixels(seen.maps)
        assert pixels.shape == (2, 2, 4, 4)
        loss = loss + pixels.square().mean() + shape.covariance.square().mean()
    loss.backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]
    assert small(**arguments)(image, torch.randn(2, 6)).shape == (2, 13, 2)


def test_an_image_does_not_see_its_batch():
    network = small(lookups=(6, 5, 4), top_down=8)
    images = torch.randn(3, 1, 64, 64)
    with torch.inference_mode():
        alone = torch.cat([network(image[None]) for image in images])
        assert_close(network(images), alone, atol=1e-5, rtol=1e-5)


def test_the_published_network_does_see_its_batch():
    network = small(norm="batch_stats")
    images = torch.randn(3, 1, 64, 64)
    with torch.inference_mode():
        assert (network(images)[:1] - network(images[:1])).abs().max() > 1e-4


def test_instance_norm_gives_the_published_result_for_one_image():
    one, other = small(norm="batch_stats"), small(norm="instance")
    other.load_state_dict(one.state_dict())
    image = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        assert_close(other(image), one(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 160)])
def test_any_multiple_of_the_stride_is_an_image(size):
    network = small()
    assert network.stride == 32
    assert network(torch.randn(1, 1, *size)).shape == (1, 13, 2)


def test_an_untrained_network_draws_the_mean_shape():
    network = small()
    mean = torch.rand(13, 2)
    network.set_mean(mean)
    found = network(torch.randn(1, 1, 64, 64))
    assert (found - mean).abs().max() < 0.2
    assert_close(network.state_dict()["mean"], mean)
    small(residual=False).set_mean(mean)


def test_unpooling_keeps_the_detail_of_the_mean_shape():
    network = small()
    mean = torch.rand(13, 2)
    network.set_mean(mean)
    for head in (*network.heads, network.out):
        torch.nn.init.zeros_(head.weight)
    assert_close(network(torch.randn(1, 1, 64, 64))[0], mean)


def test_a_ring_can_begin_anywhere():
    """Turning the start's nodes and the mean by one coarse node turns the contour by two."""
    network = small({"ring": 8}, lookups=(6, 5))
    turned = small({"ring": 8}, lookups=(6, 5))
    turned.load_state_dict(network.state_dict())
    turned.set_mean(network.mean.roll(2, 0))
    with torch.no_grad():
        for tensor in (turned.start.weight, turned.start.bias):
            tensor.copy_(tensor.roll(network.start.out_features // 4, 0))
    image = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        assert_close(turned(image), network(image).roll(2, 1), atol=1e-5, rtol=1e-5)


def test_maps_of_one_image_serve_many_latents():
    network = small(covariance=True, lookups=(6, 5, 4))
    seen = network.encode(torch.randn(1, 1, 64, 64))
    latents = torch.randn(5, 6)
    together = network.decode(latents, seen.maps)
    apart = [network.decode(latent[None], seen.maps) for latent in latents]
    assert_close(together.landmarks, torch.cat([s.landmarks for s in apart]))
    assert_close(together.covariance, torch.cat([s.covariance for s in apart]))


def test_half_precision_ends_at_the_encoder():
    network = small(lookups=(6, 5, 4), top_down=8, covariance=True)
    image = torch.randn(1, 1, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        seen = network.encode(image)
        found, drawn = network.decode(seen.mu, seen.maps), network(image)
    wanted = network.decode(seen.mu, seen.maps)
    assert seen.mu.dtype == torch.float32
    assert_close((found.landmarks, found.covariance), (wanted.landmarks, wanted.covariance))
    assert_close(drawn, network(image), atol=0.01, rtol=0)


def test_it_computes_in_double_too():
    network = small(sampling="fixed").double()
    assert network(torch.randn(1, 1, 64, 64, dtype=torch.float64)).dtype == torch.float64


def test_noise_draws_from_the_latents_distribution():
    network = small()
    image, noise = torch.randn(1, 1, 64, 64), torch.randn(1, 6)
    seen = network.encode(image)
    latent = seen.mu + noise * (0.5 * seen.logvar).exp()
    assert_close(network(image, noise), network.decode(latent, seen.maps).landmarks)
    assert_close(network(image), network.decode(seen.mu, seen.maps).landmarks)


def test_no_gradient_leaves_the_covariance_head():
    network = small(covariance=True)
    seen = network.encode(torch.randn(1, 1, 64, 64))
    network.decode(seen.mu, seen.maps).covariance.sum().backward()
    learning = {name for name, p in network.named_parameters() if p.grad is not None}
    assert learning == {"covariance.weight", "covariance.bias"}


@pytest.mark.parametrize("detach", [True, False])
def test_positions_are_detached_in_the_lookup_unless_asked(detach):
    """Without residual and with the features alone passed on, only a lookup reaches a head."""
    network = small(lookups=(6,), detach=detach, residual=False)
    with torch.no_grad():
        network.layers[2].weight[..., -2:] = 0
        network.heads[0].weight.mul_(0.1).add_(0.05)
    network(torch.randn(1, 1, 64, 64)).square().sum().backward()
    assert bool(network.heads[0].weight.grad.any()) is not detach


def test_it_comes_back_from_a_model_file():
    node = config.plain(config.compose("train", ["model=hybridgnet"]).model) | SMALL
    node |= {"organs": TWO, "layer": {"_target_": "torch_geometric.nn.ChebConv", "K": 2}}
    node["layer"]["_partial_"] = True
    spec = config.network_spec(node)
    assert spec["arguments"]["layer"] == {"graph": "ChebConv", "arguments": {"K": 2}}
    assert package.build(spec)(torch.randn(1, 1, 32, 32)).shape == (1, 13, 2)


def test_it_can_be_exported():
    network, image = (
        small(covariance=True, lookups=(6, 5, 4), top_down=8),
        torch.randn(1, 1, 64, 64),
    )
    program = torch.export.export(network, (image,)).module()
    assert_close(program(image), network(image))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lookups": (7,)}, "levels 1 to 6"),
        ({"lookups": (), "pixels": True}, "name some lookups"),
        ({"sampling": "roi"}, "fixed, adaptive"),
        ({"align": "corner"}, "center, index"),
        ({"init": "zero"}, "fan_in, published"),
        ({"norm": "layer"}, "batch_stats"),
        ({"bottleneck": "flatten"}, "multiple of 32"),
        ({"bottleneck": "flatten", "size": 100}, "multiple of 32"),
        ({"bottleneck": 0}, "grid's side"),
        ({"bottleneck": "pool"}, "grid's side"),
        ({"size": 64}, "takes any"),
        ({"latent": 0}, "at least 1"),
        ({"organs": {"ring": 4}}, "at least 5"),
        ({"layer": functools.partial(layers.GATConv, heads=3)}, "concat=false"),
    ],
)
def test_what_cannot_be_built_is_told(arguments, words):
    with pytest.raises(ValueError, match=words):
        small(**arguments)


def test_only_a_network_with_a_pixel_head_draws_pixels():
    network = small()
    with pytest.raises(ValueError, match="pixels=True"):
        network.decode_pixels(network.encode(torch.randn(1, 1, 32, 32)).maps)
