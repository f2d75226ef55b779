"""Commuting with turns of the sky: what passes exactly, and what is seen to fail."""

import numpy as np
import pytest
import torch

from medseg.geometry.neighbours import neighbours
from medseg.geometry.sphere import nest_numbers, ring_numbers
from medseg.metrics.equivariance import equivariance_error, symmetry_deviation

NSIDE = 8


def smooth(values):
    """A filter of l alone, through harmonics: it commutes with every rotation."""
    import healpy

    alm = healpy.map2alm(values[nest_numbers(NSIDE)], iter=10, use_pixel_weights=False)
    lmax = 3 * NSIDE - 1
    healpy.almxfl(alm, 1 / (1 + np.arange(lmax + 1.0)), inplace=True)
    return healpy.alm2map(alm, NSIDE)[ring_numbers(NSIDE)]


def around(values):
    """The mean over the neighbours that are there: closed under the grid's symmetries alone."""
    there = neighbours(NSIDE)
    return np.where(there >= 0, values[there], 0).sum(1) / (there >= 0).sum(1) - values


def test_a_filter_of_degrees_commutes_with_every_rotation():
    found = equivariance_error(smooth, NSIDE, degree=5, rotations=2)
    assert found.squared < 1e-6, "what is left is the quadrature, refined ten times"
    assert found.degree == 5


def test_neighbour_means_do_not_and_both_ways_of_telling_it_agree():
    one = equivariance_error(around, NSIDE, degree=4, functions=1)
    assert one.squared == pytest.approx(one.plain**2)
    assert one.squared > 1e-3
    assert equivariance_error(around, NSIDE, degree=4, seed=3) == equivariance_error(
        around, NSIDE, degree=4, seed=3
    )


def test_scaling_an_operator_changes_nothing():
    scaled = equivariance_error(lambda sky: -7 * around(sky), NSIDE, degree=4)
    assert scaled.squared == pytest.approx(equivariance_error(around, NSIDE, degree=4).squared)


def test_a_degree_that_the_grid_does_not_hold_is_refused():
    with pytest.raises(ValueError, match=r"1\.\.23"):
        equivariance_error(around, NSIDE, degree=24)


def test_the_symmetries_of_the_grid_are_exact_for_neighbour_means():
    table = torch.from_numpy(np.where((t := neighbours(NSIDE)) >= 0, t, 0))
    there = torch.from_numpy(t >= 0).double()

    def network(sky):
        return torch.tanh((sky[..., table] * there).sum(-1) / there.sum(-1))

    sky = torch.randn(2, 3, 12 * NSIDE**2, generator=torch.Generator().manual_seed(0)).double()
    found = symmetry_deviation(network, sky)
    assert found.shape == (16,)
    assert found.max() < 1e-12
    assert found[0] == 0
    assert symmetry_deviation(lambda s: network(s).mean(-1), sky).max() < 1e-12, "one vector a sky"


def test_one_neighbour_alone_has_a_direction():
    north = torch.from_numpy(neighbours(NSIDE)[:, 0].copy())
    sky = torch.randn(1, 1, 12 * NSIDE**2, generator=torch.Generator().manual_seed(1))
    found = symmetry_deviation(lambda s: s[..., north], sky, which=(0, 1, 4, 8))
    assert found[0] == 0
    assert found[1] < 1e-6, "a quarter turn about the poles keeps south-west"
    assert found[2] > 0.1
    assert found[3] > 0.1
