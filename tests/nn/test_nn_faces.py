"""Face-padded convolutions: against neighbours one by one, their symmetry, their gradient."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from medseg.geometry.neighbours import neighbours
from medseg.geometry.sphere import centres
from medseg.geometry.symmetry import rotations_about_axis
from medseg.nn.faces import (
    GRIDS,
    FaceConv,
    from_faces,
    from_planes,
    pad,
    position,
    to_faces,
    to_planes,
)

NSIDE = 8
PIXELS = 12 * NSIDE**2
# Where the eight neighbours lie in a kernel of three rows along x and three columns along y.
TAPS = {0: (0, 1), 1: (0, 2), 2: (1, 2), 3: (2, 2), 4: (2, 1), 5: (2, 0), 6: (1, 0), 7: (0, 0)}


def skies(many=2, channels=3, nside=NSIDE):
    return torch.randn(many, channels, 12 * nside**2, generator=torch.Generator().manual_seed(0))


def through(maps, layer):
    return from_planes(layer(to_planes(maps, layer.grid)), layer.grid)


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return FaceConv(3, 4)


def test_faces_and_back():
    maps = skies()
    planes = to_faces(maps)
    assert planes.shape == (24, 3, NSIDE, NSIDE)
    assert planes.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(from_faces(planes), maps)


def test_a_convolution_is_a_sum_over_the_eight_neighbours(layer):
    """Where all eight are there; across borders within a belt no axis turns."""
    maps = skies(1)
    around = neighbours(NSIDE).copy()
    z = np.abs(centres(NSIDE)[:, 2])
    plain = (around >= 0).all(1) & (z < 0.5) & (z[around] < 0.6).all(1)
    expected = layer.bias[:, None] + layer.weight[:, :, 1, 1] @ maps[0]
    for k, (i, j) in TAPS.items():
        expected = expected + layer.weight[:, :, i, j] @ maps[0][:, around[:, k]]
    assert plain.sum() > PIXELS / 3
    found = through(maps, layer)[0]
    assert_close(found[:, plain], expected[:, plain], atol=1e-5, rtol=0)


def test_an_equal_kernel_is_a_sum_over_the_eight_neighbours_everywhere():
    """But in the pixels of 24 corners, which have seven: the eighth is the mean of two of them."""
    maps = skies(1, 1)
    layer = FaceConv(1, 1, bias=False)
    torch.nn.init.ones_(layer.weight)
    around = neighbours(NSIDE).copy()
    whole = (around >= 0).all(1)
    expected = maps[0, 0] + maps[0, 0][around].sum(1)
    assert (~whole).sum() == 24
    assert_close(through(maps, layer)[0, 0][whole], expected[whole], atol=1e-5, rtol=0)


def test_a_corner_of_three_faces_is_the_mean_of_both_strips():
    maps = skies(1, 1)
    padded = pad(to_faces(maps), 1, grid="faces")
    # Face 0 lies in the north: nothing lies beyond its corner where x ends and y begins.
    east = padded[0, 0, -1, 0]
    assert_close(east, (padded[0, 0, -2, 0] + padded[0, 0, -1, 1]) / 2)


@pytest.mark.parametrize("dilation", [1, 2, 8])
@pytest.mark.parametrize("grid", GRIDS[:2])
def test_quarter_turns_about_the_axis_are_kept(grid, dilation):
    torch.manual_seed(0)
    layer = FaceConv(3, 4, dilation=dilation, grid=grid)
    maps = skies(1)
    found = through(maps, layer)
    for turn in torch.tensor(rotations_about_axis(NSIDE)):
        assert_close(through(maps[..., turn], layer), found[..., turn], atol=1e-5, rtol=0)


def test_the_plane_goes_round_and_over_the_poles():
    """A turn by one column is kept, and rows beyond a pole are those of the other half circle."""
    plane = torch.randn(1, 2, 16, 32, generator=torch.Generator().manual_seed(0))
    layer = FaceConv(2, 3, dilation=3, grid="equirectangular")
    assert_close(layer(plane.roll(1, 3)), layer(plane).roll(1, 3), atol=1e-5, rtol=0)
    padded = pad(plane, 2, grid="equirectangular")
    assert torch.equal(padded[:, :, 0, 2:-2], plane[:, :, 1].roll(16, -1))
    assert torch.equal(padded[:, :, -1, 2:-2], plane[:, :, -2].roll(16, -1))


def test_skies_of_a_batch_do_not_mix(layer):
    maps = skies(3)
    assert_close(through(maps, layer)[1:2], through(maps[1:2], layer), atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_constant_stays_one(grid):
    layer = FaceConv(1, 1, dilation=3, bias=False, grid=grid)
    maps = torch.ones(1, 1, PIXELS)
    assert_close(through(maps, layer), maps * layer.weight.sum(), atol=1e-6, rtol=1e-6)


def jumps(maps):
    """Mean squared step to the next pixel, over faces' borders and within faces."""
    around = torch.tensor(neighbours(NSIDE).copy())
    face = torch.arange(maps.shape[-1]) // (maps.shape[-1] // 12)
    next_to = around[:, [2, 4]]
    squares = (maps[..., next_to] - maps[..., None]).square().mean((0, 1))
    over = face[next_to] != face[:, None]
    return squares[over].mean() / squares[~over].mean()


def test_noise_shows_seams_on_regions_alone():
    maps = skies(64, 1)
    ratios = {}
    for grid in ("faces", "regions"):
        layer = FaceConv(1, 1, bias=False, grid=grid)
        torch.nn.init.ones_(layer.weight)
        ratios[grid] = jumps(through(maps, layer)).item()
    # 64 skies leave two per cent of chance; a border's own padding makes steps twice as large.
    assert abs(ratios["faces"] - 1) < 0.1
    assert ratios["regions"] > 2


def test_the_gradient_is_that_of_differences():
    maps = skies(2, 2).double()
    torch.manual_seed(0)
    layer = FaceConv(2, 2, dilation=4).double()
    way, weights = torch.randn_like(maps), torch.randn_like(maps)
    maps.requires_grad_()
    (gradient,) = torch.autograd.grad((through(maps, layer) * weights).sum(), maps)
    with torch.no_grad():
        moved = ((through(maps + way, layer) - through(maps, layer)) * weights).sum()
    assert_close((gradient * way).sum(), moved, rtol=1e-9, atol=1e-9)


def test_what_was_first_asked_for_in_inference_trains_later():
    layer = FaceConv(1, 1, dilation=2)
    maps = skies(1, 1, nside=4)
    with torch.inference_mode():
        through(maps, layer)
    found = through(maps, layer)
    found.sum().backward()
    # Linear in weights and bias: what they add up to is what their gradients say.
    parts = [(p * p.grad).sum() for p in layer.parameters()]
    assert_close(sum(parts), found.sum(), rtol=1e-4, atol=1e-4)


def test_position_is_nearly_the_same_at_every_nside():
    coarse, fine = position(16), position(32)
    means = fine.reshape(4, -1, 4).mean(-1)
    inner = to_faces(torch.tensor(np.stack([coarse, means])))[..., 2:-2, 2:-2]
    # The shape of a pixel changes fastest at the poles.
    assert (inner[:12] - inner[12:]).abs().max() < 0.4


def test_position_does_not_change_with_a_quarter_turn():
    for turn in rotations_about_axis(16):
        np.testing.assert_allclose(position(16)[:, turn], position(16), atol=4e-5)


def test_an_even_kernel_and_an_unknown_grid_are_refused():
    with pytest.raises(ValueError, match="take an odd one"):
        FaceConv(1, 1, kernel=2)
    with pytest.raises(ValueError, match="choose one of faces"):
        FaceConv(1, 1, grid="cube")
