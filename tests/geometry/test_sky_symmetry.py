"""Symmetries of the grid permute its pixels; other turns go through harmonics and agree."""

import numpy as np
import pytest
from caps import cap
from scipy.spatial.transform import Rotation

from medseg.geometry.faces import raster
from medseg.geometry.sphere import Sphere, centres
from medseg.geometry.symmetry import (
    matrices,
    rotate,
    rotate_mask,
    rotations_about_axis,
    symmetries,
)


@pytest.mark.parametrize("nside", [1, 2, 8, 32])
def test_symmetries_take_centres_to_centres(nside):
    there = centres(nside)
    for moved, matrix in zip(symmetries(nside), matrices(), strict=True):
        np.testing.assert_allclose(there[moved], there @ matrix.T, atol=1e-12)


def test_matrices_are_eight_rotations_and_eight_reflections():
    determinants = np.linalg.det(matrices())
    np.testing.assert_allclose(determinants, [1] * 8 + [-1] * 8, atol=1e-15)
    np.testing.assert_array_equal(matrices()[0], np.eye(3))


@pytest.mark.parametrize("nside", [1, 4])
def test_symmetries_are_a_group_of_sixteen(nside):
    found = {tuple(row) for row in symmetries(nside)}
    assert len(found) == 16
    assert all(tuple(np.sort(row)) == tuple(range(12 * nside**2)) for row in found)
    assert {tuple(a[b]) for a in symmetries(nside) for b in symmetries(nside)} == found


def test_turns_about_the_axis_move_whole_faces_and_turn_none():
    nside = 8
    places = np.empty(12 * nside**2, int)
    places[raster(nside)] = np.arange(12 * nside**2)
    for moved in rotations_about_axis(nside):
        before, after = np.arange(12 * nside**2), places[moved[raster(nside)]]
        np.testing.assert_array_equal(before % nside**2, after % nside**2)


def test_a_smooth_map_turns_as_its_formula_does():
    nside, turn = 16, Rotation.random(rng=3).as_matrix()
    there = centres(nside)

    def value(x):
        return (x @ [0.3, -1.0, 0.4]) ** 3 + x @ [1.0, 2.0, -0.5]

    turned = rotate(np.stack([value(there), there[:, 0]]), turn, lmax=8, iterations=10)
    # The quadrature of ten iterations is good to 1e-10.
    np.testing.assert_allclose(turned[0], value(there @ turn), atol=1e-9)
    np.testing.assert_allclose(turned[1], (there @ turn)[:, 0], atol=1e-9)


def test_exact_symmetries_agree_with_both_ways_of_turning():
    nside = 8
    map_ = np.random.default_rng(0).standard_normal(12 * nside**2)
    for moved, matrix in zip(symmetries(nside)[:8], matrices()[:8], strict=True):
        there = np.empty_like(map_)
        there[moved] = map_
        np.testing.assert_array_equal(rotate_mask(map_, matrix), there)


def test_a_turned_mask_is_the_mask_of_the_turned_cap():
    sphere, turn = Sphere(16), Rotation.random(rng=5).as_matrix()
    axis = np.array([0.0, 0.6, 0.8])
    turned = rotate_mask(cap(sphere, axis, 30), turn)
    # Pixels at the rim differ by their own size.
    assert turned[cap(sphere, turn @ axis, 25)].all()
    assert not turned[~cap(sphere, turn @ axis, 35)].any()
