"""Neighbours and places of HEALPix pixels: healpy's at every nside, and beyond a face."""

import healpy
import numpy as np
import pytest

from medseg.geometry.neighbours import DIRECTIONS, neighbours, neighbours_of, pixel, places, walk

NSIDES = (1, 2, 4, 8, 16, 32, 64)


@pytest.mark.parametrize("nside", NSIDES)
def test_neighbours_are_healpys(nside):
    everything = np.arange(12 * nside**2)
    known = healpy.get_all_neighbours(nside, everything, nest=True).T
    np.testing.assert_array_equal(neighbours(nside), known)


@pytest.mark.parametrize("nside", NSIDES)
def test_places_are_healpys_and_lead_back(nside):
    everything = np.arange(12 * nside**2)
    x, y, face = healpy.pix2xyf(nside, everything, nest=True)
    for ours, theirs in zip(places(nside), (face, x, y), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(pixel(face, x, y=y, nside=nside), everything)


def test_large_numbers_keep_their_bits():
    nside = 8192
    chosen = np.random.default_rng(0).integers(0, 12 * nside**2, 5000)
    known = healpy.get_all_neighbours(nside, chosen, nest=True).T
    np.testing.assert_array_equal(neighbours_of(chosen, nside), known)


@pytest.mark.parametrize("nside", NSIDES)
def test_only_the_pixels_in_three_face_corners_lack_a_neighbour(nside):
    assert (neighbours(nside) < 0).sum() == 24


@pytest.mark.parametrize("nside", [2, 16])
def test_a_neighbours_neighbour_is_the_pixel_again(nside):
    found = neighbours(nside)
    own = np.repeat(np.arange(len(found))[:, None], len(DIRECTIONS), 1)
    assert (found[found] == own[..., None]).any(2)[found >= 0].all()


def test_walking_inside_a_face_ends_at_one_pixel():
    face, x, y = (part.copy() for part in places(8))
    first, second = walk(face, x, y=y, nside=8)
    np.testing.assert_array_equal(first, np.arange(12 * 64))
    np.testing.assert_array_equal(second, first)
