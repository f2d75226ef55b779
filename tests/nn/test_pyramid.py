"""The encoder against plain layers, and the top-down path."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg.nn import stripes
from medseg.nn.pyramid import NORMS, Pyramid, TopDown

PLAIN = Path(__file__).parents[1] / "benchmarks" / "hybridgnet.py"
WIDTHS = (8, 16, 32, 64)


@pytest.fixture(scope="module")
def plain_pyramid():
    spec = spec_from_file_location("plain_hybridgnet", PLAIN)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PlainPyramid


@pytest.fixture
def small_stripes(monkeypatch):
    """Stripes of few rows, so that small maps are made in many."""
    monkeypatch.setattr(stripes, "STRIPE", 2**11)


def pair(plain_pyramid, norm, channels=1):
    """An encoder and its plain form, with the same weights, both signs among the norms' gains."""
    torch.manual_seed(1)
    ours, plain = Pyramid(channels, WIDTHS, norm=norm), plain_pyramid(channels, WIDTHS, norm)
    for name, tensor in ours.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
            tensor[::3] *= 1 if "var" in name else -1
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 1, 48, 96), (3, 2, 42, 36)])
@pytest.mark.usefixtures("small_stripes")
def test_stripes_give_the_maps_of_plain_layers(plain_pyramid, norm, shape):
    ours, plain = pair(plain_pyramid, norm, shape[1])
    image = torch.rand(shape, dtype=torch.float64)
    with torch.no_grad():
        single = ours.eval()(image.float())
        exact = plain.eval().double()(image)
        assert_close(ours.double()(image), exact)
    for found, wanted in zip(single, exact, strict=True):  # as plain layers of float32 do
        assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_training_gives_the_maps_and_gradients_of_plain_layers(plain_pyramid, norm):
    ours, plain = pair(plain_pyramid, norm)
    ours, plain = ours.double(), plain.double()
    image = torch.rand(3, 1, 24, 40, dtype=torch.float64)
    for network in (ours, plain):
        sum(level.square().mean() for level in network(image)).backward()
    assert_close(ours(image), plain(image))
    for (name, mine), theirs in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert_close(mine.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.usefixtures("small_stripes")
def test_training_mode_without_gradients_still_learns_the_running_statistics(plain_pyramid):
    ours, plain = pair(plain_pyramid, "batch")
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert_close(ours(image), plain(image), atol=1e-5, rtol=1e-5)
    assert_close(ours.state_dict(), plain.state_dict())


@pytest.mark.usefixtures("small_stripes")
def test_fewer_levels_are_the_coarser_ones(plain_pyramid):
    ours, _ = pair(plain_pyramid, "group")
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        assert_close(ours(image, lowest=3), ours(image)[2:], atol=0, rtol=0)
    assert [level.shape[-1] for level in ours(image, lowest=3)] == [8, 4]


@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.usefixtures("small_stripes")
def test_an_image_does_not_depend_on_its_batch(plain_pyramid, norm):
    ours = pair(plain_pyramid, norm)[0].double()
    images = torch.rand(3, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert_close([level[1:2] for level in ours(images)], ours(images[1:2]))


@pytest.mark.usefixtures("small_stripes")
def test_instance_norm_forgets_window_and_level(plain_pyramid):
    ours = pair(plain_pyramid, "instance")[0].double()
    image = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        bright = ours(500 * image + 7)  # far above the norms' epsilon
        assert_close(ours(50 * image - 7), bright, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("small_stripes")
def test_batch_statistics_of_one_image_are_instance_norm(plain_pyramid):
    batch = pair(plain_pyramid, "batch_stats")[0].double()
    instance = pair(plain_pyramid, "instance")[0].double()
    image = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert_close(batch(image), instance(image))


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.usefixtures("small_stripes")
def test_an_even_image_gives_finite_maps(plain_pyramid, value):
    ours, plain = pair(plain_pyramid, "group")
    image = torch.full((1, 1, 32, 32), value)
    with torch.no_grad():
        assert_close(ours(image), plain(image), atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("small_stripes")
def test_stripes_keep_the_precision_of_a_faint_image_on_a_bright_ground(plain_pyramid):
    ours, plain = pair(plain_pyramid, "instance")
    image = 0.9 + 0.005 * torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        exact = plain.double()(image.double())[-1].float()
        assert_close(ours(image)[-1], exact, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("gradients", [True, False])
def test_the_coarsest_map_may_be_one_pixel(plain_pyramid, gradients):
    ours, _ = pair(plain_pyramid, "group")
    with torch.set_grad_enabled(gradients):
        assert ours(torch.rand(1, 1, 8, 16))[-1].shape == (1, 64, 1, 2)


def test_published_numbers_of_weights():
    encoder = Pyramid(1, norm="batch_stats")
    assert sum(weight.numel() for weight in encoder.parameters()) == 602_706
    assert encoder.channels == (8, 16, 32, 64, 128, 128)
    assert encoder.strides == (1, 2, 4, 8, 16, 32)
    assert isinstance(encoder.stages[5].skip, nn.Identity)
    assert "stages.0.skip.1.bias" in encoder.state_dict()


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match=r"layer.*batch_stats"):
        Pyramid(1, norm="layer")


def test_top_down_brings_the_coarsest_map_to_the_finest():
    torch.manual_seed(0)
    join = TopDown(WIDTHS, 16, lowest=2)
    maps = [torch.rand(2, c, 32 >> i, 48 >> i) for i, c in enumerate(WIDTHS)]
    joined = join(maps)
    assert [tuple(level.shape) for level in joined] == [
        (2, 16, 16, 24),
        (2, 16, 8, 12),
        (2, 16, 4, 6),
    ]
    assert_close(join(maps[1:]), joined)
    maps[-1] = maps[-1] + 1
    assert not torch.allclose(join(maps)[0], joined[0])


def test_a_top_down_path_has_its_lowest_level():
    with pytest.raises(ValueError, match="from 1 to 4"):
        TopDown(WIDTHS, 16, lowest=5)
