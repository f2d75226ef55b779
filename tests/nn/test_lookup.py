"""Image features at positions: the published values, the border, and gradients."""

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from medseg.nn.lookup import lookup, lookup_adaptive

BOTH = pytest.mark.parametrize("look", [lookup, lookup_adaptive])


@pytest.fixture(scope="module")
def published(reference):
    from safetensors.torch import load_file

    return load_file(reference / "fixtures/hybridgnet/operators.safetensors")


@pytest.mark.parametrize("window", [1, 2, 3, 5, 7])
def test_the_adaptive_count_gives_the_published_values_to_the_bit(published, window):
    found = lookup_adaptive(published["roi/pos"], published["roi/fm"], window=window)
    assert torch.equal(found, published[f"roi/w{window}"])


@pytest.mark.parametrize("window", [1, 2, 3, 5, 7])
def test_a_fixed_count_agrees_wherever_the_adaptive_one_is_not_rounded_up(published, window):
    positions, maps = published["roi/pos"], published["roi/fm"]
    reach, side = window // 2, maps.shape[-1]
    centre = positions * side
    low, high = (centre - reach) - 0.5, (centre + reach + 1) - 0.5
    same = ((high - low).ceil() == 2 * reach + 1).all(-1)
    assert same.float().mean() > 0.5
    found = lookup(positions, maps, window=window, shift=0.0)
    assert_close(found[same], published[f"roi/w{window}"][same], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("x", "share"),
    [(-0.2, 0), (-0.05, 1 / 3), (0, 1), (0.5, 1), (1, 2 / 3), (1.05, 0), (1.2, 0)],
)
def test_what_lies_outside_counts_as_zero(x, share):
    positions = torch.tensor([[[x, 0.5]]])
    found = lookup(positions, torch.ones(1, 1, 32, 32), shift=0.0)
    assert found.item() == pytest.approx(share, abs=1e-5)


@BOTH
def test_a_window_of_one_reads_the_pixel_at_its_centre(look):
    maps = torch.arange(48.0).view(1, 1, 6, 8)
    positions = torch.tensor([[[(3 + 0.5) / 8, (2 + 0.5) / 6]]])
    found = look(positions, maps, window=1, shift=0.5)
    assert found.item() == pytest.approx(maps[0, 0, 2, 3].item(), abs=1e-3)


@BOTH
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_x_runs_along_the_columns(look, shift):
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    positions = torch.rand(1, 20, 2) * 0.6 + 0.2
    found = look(positions, ramp, shift=shift)[..., 0]
    assert_close(found, positions[..., 0] * 16 - shift, atol=1e-4, rtol=0)


def test_the_mean_is_that_of_nine_bilinear_samples():
    maps, positions = torch.randn(2, 3, 9, 9), torch.rand(2, 30, 2) * 0.6 + 0.2
    smooth = functional.avg_pool2d(maps, 3, stride=1, padding=1)
    grid = (2 * positions - 1)[:, :, None]
    wanted = functional.grid_sample(smooth, grid, align_corners=False)[..., 0].transpose(1, 2)
    assert_close(lookup(positions, maps), wanted, atol=1e-5, rtol=1e-5)


@BOTH
def test_one_map_serves_every_row(look):
    maps, positions = torch.randn(1, 3, 9, 7), torch.rand(4, 5, 2)
    expected = look(positions, maps.expand(4, -1, -1, -1))
    assert_close(look(positions, maps), expected)


@BOTH
def test_each_row_reads_its_own_map(look):
    maps, positions = torch.randn(4, 3, 9, 7), torch.rand(4, 5, 2)
    alone = torch.cat([look(positions[k : k + 1], maps[k : k + 1]) for k in range(4)])
    assert_close(look(positions, maps), alone)


@BOTH
def test_positions_from_a_network_gone_astray_do_no_harm(look):
    positions = torch.tensor([[[float("nan"), 0.5], [1e30, -1e30], [float("inf"), 0.2]]])
    assert look(positions, torch.ones(1, 2, 8, 8)).shape == (1, 3, 2)


def test_gradients_reach_the_map_and_the_positions():
    maps = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    positions = (torch.rand(1, 4, 2, dtype=torch.float64) * 0.5 + 0.26).requires_grad_()
    assert torch.autograd.gradcheck(lookup, (positions, maps))
