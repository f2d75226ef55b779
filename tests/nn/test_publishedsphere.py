"""State dicts of the DeepSphere networks: tensors find their place, weights as they are used."""

import pytest
import torch
from deepsphere_states import climate, weather
from torch.testing import assert_close

from medseg.models.spherenet import SphereNet, from_published, published_arguments, published_key
from medseg.nn.publishedsphere import coefficients


@pytest.mark.parametrize("state", [climate(), climate(order=2, inputs=1), weather()])
def test_a_network_of_the_arguments_found_takes_every_tensor(state):
    given = published_arguments(state, kind="healpix8")
    network = SphereNet(**given)
    network.load_state_dict(from_published(state))
    assert given["kind"] == "healpix8"
    assert network.eval()(torch.zeros(1, given["in_channels"], 12 * 32**2)).isfinite().all()


def test_the_arguments_are_those_of_the_tensors():
    found = published_arguments(climate())
    assert found["widths"] == [[5, 6], [7], [8], [9], [10], [10]]
    assert found["up"] == [[9], [8], [7], [6], [4]]
    assert (found["order"], found["plain_bottom"], found["skip_finest"]) == (3, True, False)
    assert published_arguments(weather())["topology"] == "weather"
    assert published_arguments(weather())["up"] == [[6, 5], [4, 3]]


def test_a_weight_multiplies_what_it_does_in_the_authors_code():
    """There the features lie input by input, each with its polynomials, before one product."""
    torch.manual_seed(0)
    stored = torch.randn(3, 4, 5)
    terms = torch.randn(3, 7, 4)  # polynomial, pixel, input
    theirs = terms.permute(1, 2, 0).reshape(7, 12) @ stored.reshape(12, 5)
    ours = sum(term @ weight for term, weight in zip(terms, coefficients(stored), strict=True))
    assert_close(ours, theirs)
    naive = sum(term @ weight for term, weight in zip(terms, stored, strict=True))
    assert float((naive - theirs).abs().max()) > 1


def test_the_weather_code_stores_a_weight_as_it_uses_it():
    stored = torch.randn(4, 3, 5)
    assert_close(coefficients(stored, stored_by_input=True)[2, 1], stored[1, 2])


def test_tensors_go_to_their_unit():
    state = climate()
    ours = from_published(state)
    same = {
        "decoder.dec_l2.spherical_cheb_bn_pool.spherical_cheb_bn.batchnorm.running_mean":
            "rise.1.norm.running_mean",
        "decoder.dec_l4.spherical_cheb_bn.spherical_cheb.chebconv.bias": "join.3.0.conv.bias",
        "encoder.enc_l5.spherical_cheb_bn_2.batchnorm.weight": "encoder.0.1.norm.weight",
        "encoder.enc_l0.spherical_cheb.chebconv.bias": "encoder.5.0.conv.bias",
        "decoder.dec_l5.spherical_cheb.chebconv.bias": "head.bias",
    }  # fmt: skip
    for theirs, name in same.items():
        assert published_key(f"module.{theirs}", levels=6) == name
        assert ours[name] is state[theirs]
    final = from_published(weather())
    assert final["head.gain"].shape == (1,)
    assert final["join.0.path.1.conv.weight"].shape == (3, 6, 5)


@pytest.mark.parametrize("key", ["fc.weight", "conv1.convblock1.bn.weight", "pool1.weights"])
def test_a_foreign_tensor_is_named(key):
    with pytest.raises(ValueError, match=key):
        from_published(climate() | {key: torch.zeros(2)})


def test_half_a_state_dict_is_refused():
    state = {key: t for key, t in climate().items() if "dec_l5" not in key}
    with pytest.raises(ValueError, match="no whole state dict"):
        published_arguments(state)
