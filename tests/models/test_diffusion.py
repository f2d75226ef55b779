"""The harmonic extension into holes: what defines it, and what follows from that."""

import healpy
import numpy as np
import pytest

from medseg.geometry.neighbours import neighbours
from medseg.geometry.sphere import centres
from medseg.geometry.symmetry import symmetries
from medseg.models.diffusion import Diffusion


def holed(nside, seed=0):
    """White noise behind a Galactic cut of 25 degrees, a polar hole and single pixels."""
    rng = np.random.default_rng(seed)
    height = centres(nside)[:, 2]
    seen = (np.abs(height) > np.sin(np.radians(25))) & (height > -0.97)
    seen &= rng.random(len(seen)) > 0.02
    return rng.normal(size=(2, len(seen))), seen


@pytest.mark.parametrize("nside", [1, 8, 32])
def test_a_hidden_pixel_is_the_mean_of_its_neighbours(nside):
    values, seen = holed(nside)
    found = Diffusion().fill(np.where(seen, values, 0), seen=seen)
    near = neighbours(nside)
    there = near >= 0
    mean = np.where(there, found[:, near], 0).sum(2) / there.sum(1)
    np.testing.assert_allclose(found[:, ~seen], mean[:, ~seen], atol=1e-9)
    np.testing.assert_array_equal(found[:, seen], values[:, seen])


def test_no_hidden_pixel_leaves_the_range_of_the_edge():
    values, seen = holed(16)
    found = Diffusion().fill(values, seen=seen)
    assert (found[:, ~seen].max(1) < values[:, seen].max(1)).all()
    assert (found[:, ~seen].min(1) > values[:, seen].min(1)).all()


def test_many_sweeps_end_there():
    values, seen = holed(4)
    near = neighbours(4)
    there = near >= 0
    swept = np.where(seen, values, 0)
    for _ in range(1000):
        mean = np.where(there, swept[:, near], 0).sum(2) / there.sum(1)
        swept = np.where(seen, values, mean)
    np.testing.assert_allclose(Diffusion().fill(values, seen=seen), swept, atol=1e-9)


def test_the_grids_symmetries_are_kept():
    values, seen = holed(16)
    whole = Diffusion().fill(values, seen=seen)
    for turn in symmetries(16):
        found = Diffusion().fill(values[:, turn], seen=seen[turn])
        np.testing.assert_allclose(found, whole[:, turn], atol=1e-9)


def test_a_constant_stays_and_what_lies_in_holes_does_not_count():
    _, seen = holed(8)
    there = np.where(seen, 7.0, np.nan)[None]
    np.testing.assert_allclose(Diffusion().fill(there, seen=seen), 7.0, rtol=1e-12)


def test_another_mask_is_another_fill():
    values, seen = holed(8)
    method = Diffusion()
    first = method.fill(values, seen=seen)
    method.fill(values, seen=seen[::-1].copy())
    np.testing.assert_array_equal(method.fill(values, seen=seen), first)


def test_a_linear_field_is_filled_nearly_exactly():
    """x, y and z are harmonic but for the curvature: the error falls with the hole's area."""
    vectors = centres(64)
    near_x = healpy.query_disc(64, (1.0, 0.0, 0.0), np.radians(3), nest=True)
    seen = np.ones(len(vectors), bool)
    seen[near_x] = False
    found = Diffusion().fill(vectors.T.copy(), seen=seen)
    assert np.abs(found - vectors.T).max() < 2e-3


def test_an_empty_map_and_a_full_one():
    values, _ = holed(4)
    full = np.ones(values.shape[1], bool)
    np.testing.assert_array_equal(Diffusion().fill(values, seen=full), values)
    with pytest.raises(ValueError, match="no pixel is seen"):
        Diffusion().fill(values, seen=~full)
