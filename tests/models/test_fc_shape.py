"""The fully connected decoder: corrections of a mean shape from a latent."""

import pytest
import torch
from torch.testing import assert_close

from medseg.models.fc_shape import FCShape

TWO = {"ring": 7, "line": {"nodes": 6, "closed": False}}


def small(**arguments):
    torch.manual_seed(0)
    given = {"widths": (4, 4, 8, 8, 8, 8), "bottleneck": 2, "latent": 6} | arguments
    return FCShape(TWO, **given).eval()


def test_it_starts_near_the_mean_shape():
    network, mean = small(), torch.rand(13, 2)
    network.set_mean(mean)
    found = network(torch.rand(3, 1, 64, 32))
    assert_close(found, mean.expand(3, -1, -1), atol=0.2, rtol=0)


def test_the_decoder_is_the_published_one():
    network = FCShape({"right_lung": 44, "left_lung": 50, "heart": 26})
    shapes = [tuple(layer.weight.shape) for layer in (network.start, network.out)]
    assert shapes == [(512, 64), (240, 512)]


def test_an_image_and_its_halves_of_the_way_agree():
    network, image = small(), torch.rand(2, 1, 32, 64)
    noise = torch.randn(2, 6)
    encoding = network.encode(image)
    drawn = encoding.mu + noise * (0.5 * encoding.logvar).exp()
    assert_close(network(image), network.decode(encoding.mu, encoding.maps).landmarks)
    assert_close(network(image, noise), network.decode(drawn).landmarks)
    assert (network.ndim, network.stride, network(image).shape) == (2, 32, (2, 13, 2))


def test_every_parameter_learns():
    network = small().train()
    (network(torch.rand(2, 1, 32, 32), torch.randn(2, 6)) - 0.3).square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", ["hidden", "latent", "bottleneck"])
def test_a_size_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        small(**{name: 0})
