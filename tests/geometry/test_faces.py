"""Faces: the order of their pixels, what stands beyond their edges and corners, and the plane."""

import healpy
import numpy as np
import pytest

from medseg.geometry.faces import equirectangular, padded, raster
from medseg.geometry.neighbours import neighbours
from medseg.geometry.sphere import centres

NSIDES = (1, 2, 4, 8, 16)
CORNERS = 24


def squares(nside, pad):
    """Both sources as (face, x, y)."""
    return [part.reshape(12, nside + 2 * pad, -1) for part in padded(nside, pad)]


@pytest.mark.parametrize("nside", NSIDES)
def test_raster_is_a_permutation_that_healpy_knows(nside):
    face, x, y = np.unravel_index(np.arange(12 * nside**2), (12, nside, nside))
    np.testing.assert_array_equal(raster(nside), healpy.xyf2pix(nside, x, y, face, nest=True))


@pytest.mark.parametrize("nside", NSIDES)
def test_padding_by_one_gives_each_pixel_the_neighbours_healpy_knows(nside):
    first, second = squares(nside, 1)
    own = first[:, 1:-1, 1:-1].ravel()
    np.testing.assert_array_equal(own, raster(nside))
    known = healpy.get_all_neighbours(nside, own, nest=True)
    steps = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
    for beside, (right, up) in zip(known, steps, strict=True):
        there = (slice(None), slice(1 + right, nside + 1 + right), slice(1 + up, nside + 1 + up))
        for part in (first, second):
            same = part[there].ravel() == beside
            assert same[beside >= 0].all()


@pytest.mark.parametrize("nside", NSIDES)
def test_a_three_face_corner_is_the_mean_of_the_two_strips_beside_it(nside):
    first, second = squares(nside, 1)
    found = 0
    for face in range(12):
        for x, dx in ((0, 1), (-1, -1)):
            for y, dy in ((0, 1), (-1, -1)):
                one, other = first[face, x, y], second[face, x, y]
                if one != other:
                    found += 1
                    strips = {first[face, x, y + dy], first[face, x + dx, y]}
                    assert {one, other} == strips
    assert found == CORNERS
    assert (first != second).sum() == CORNERS


@pytest.mark.parametrize(("nside", "pad"), [(2, 2), (4, 3), (8, 8), (16, 5)])
def test_only_the_corner_squares_have_two_sources(nside, pad):
    first, second = squares(nside, pad)
    two = first != second
    assert two.sum() == CORNERS * pad**2
    middle = slice(pad, pad + nside)
    assert not two[:, middle].any()
    assert not two[:, :, middle].any()


@pytest.mark.parametrize("nside", [2, 8])
def test_less_padding_is_the_middle_of_more(nside):
    for part, more in zip(squares(nside, 1), squares(nside, 2), strict=True):
        np.testing.assert_array_equal(more[:, 1:-1, 1:-1], part)


@pytest.mark.parametrize("nside", [4, 16])
def test_padding_by_two_is_padding_by_one_twice(nside):
    # Stepping on through an edge: the pixel opposite to the one that was come from.
    first, _ = squares(nside, 2)
    table, inner = neighbours(nside), slice(2, 2 + nside)
    for one in (first, np.swapaxes(first, 1, 2)):
        for far, near, edge in ((0, 1, 2), (-1, -2, -3)):
            beside = table[one[:, near, inner].ravel()]
            back = np.argmax(beside == one[:, edge, inner].ravel()[:, None], 1)
            opposite = beside[np.arange(len(back)), (back + 4) % 8]
            np.testing.assert_array_equal(one[:, far, inner].ravel(), opposite)


@pytest.mark.parametrize("pad", [1, 3, 8])
def test_padded_faces_run_on_smoothly(pad):
    # A turned or wrong face would tear the sky: beyond an edge steps stay as long as within.
    nside = 16
    first, _ = squares(nside, pad)
    there = centres(nside)[first]
    middle = slice(pad, pad + nside)
    lengths = np.linalg.norm(np.diff(there[:, :, middle], axis=1), axis=-1)
    inside = np.linalg.norm(np.diff(there[:, middle, middle], axis=1), axis=-1)
    # A fifth more, since the shapes of pixels change at an edge.
    assert lengths.max() < 1.2 * inside.max()
    assert lengths.min() > 0.8 * inside.min()


def test_padding_wider_than_a_face_is_refused():
    with pytest.raises(ValueError, match=r"nside 4; take 0\.\.4"):
        padded(4, 5)


@pytest.mark.parametrize("nside", [2, 16])
def test_plane_takes_the_pixel_that_holds_each_place(nside):
    plane, back = equirectangular(nside)
    assert plane.shape == (2 * nside, 4 * nside)
    theta = (np.arange(2 * nside) + 0.5) / (2 * nside) * np.pi
    z = centres(nside)[plane][..., 2]
    # No further than a pixel's own half diagonal.
    assert np.abs(np.arccos(z) - theta[:, None]).max() < 1.1 * healpy.max_pixrad(nside)
    smooth = centres(nside) @ np.array([0.3, -0.5, 0.7])
    there = smooth[plane].ravel()[back]
    assert np.abs(there - smooth).max() < 2.2 * healpy.max_pixrad(nside)
