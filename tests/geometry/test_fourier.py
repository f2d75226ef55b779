"""Centred transforms are unitary inverses of each other, and masks hold what they promise."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from medseg.geometry import fourier

MASKS = [fourier.regular_lines, fourier.random_lines, fourier.random_points]


def noise(*shape, dtype=np.complex128, seed=0):
    draw = np.random.default_rng(seed).normal
    return (draw(size=shape) + 1j * draw(size=shape)).astype(dtype)


@pytest.mark.parametrize("shape", [(8, 6), (7, 6), (7, 5), (1, 5), (4, 5, 6), (3, 7, 9)])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_transforms_are_inverses_and_keep_type_and_norm(shape, dtype):
    image, axes = noise(*shape, dtype=dtype), tuple(range(len(shape)))
    kspace = fourier.fft(image, axes)
    assert kspace.dtype == fourier.ifft(kspace, axes).dtype == dtype
    tolerance = 1e-6 if dtype == np.complex64 else 1e-14
    for back in (fourier.ifft(kspace, axes), fourier.fft(fourier.ifft(image, axes), axes)):
        assert_allclose(back, image, atol=4 * tolerance)
    assert_allclose(np.linalg.norm(kspace), np.linalg.norm(image), rtol=10 * tolerance)


@pytest.mark.parametrize("shape", [(8, 6), (7, 6), (7, 5)])
def test_the_origin_is_the_sample_behind_the_middle(shape):
    """A constant image has its one coefficient at n // 2, and a point there a flat spectrum."""
    flat = np.ones(shape, np.float32)
    kspace = fourier.fft(flat, (0, 1))
    origin = tuple(n // 2 for n in shape)
    assert_allclose(kspace[origin], np.sqrt(flat.size), rtol=1e-6)
    kspace[origin] = 0
    assert_allclose(kspace, 0, atol=1e-5)
    point = np.zeros(shape, np.float32)
    point[origin] = 1
    assert_allclose(fourier.fft(point, (0, 1)), 1 / np.sqrt(flat.size), atol=1e-6)


def test_only_the_named_axes_are_transformed():
    coils = noise(3, 6, 5)
    assert_allclose(fourier.fft(coils, (1, 2))[1], fourier.fft(coils[1], (0, 1)), atol=1e-14)
    assert_allclose(fourier.fft(coils, (-1,)), fourier.fft(coils, (2,)), atol=0)


def test_a_shift_of_the_image_is_a_ramp_of_phase():
    image = noise(9, 8)
    ramp = np.exp(-2j * np.pi * (np.arange(9) - 4) / 9)[:, None]
    moved = fourier.ifft(fourier.fft(image, (0, 1)) * ramp, (0, 1))
    assert_allclose(moved, np.roll(image, 1, 0), atol=1e-13)


@pytest.mark.parametrize("make", MASKS)
@pytest.mark.parametrize("acceleration", [1, 2.5, 4, 8])
@pytest.mark.parametrize("shape", [(160, 96), (129, 97)])
def test_masks_hold_their_share_and_their_centre(make, acceleration, shape):
    mask = make(shape, acceleration=acceleration, centre=12, generator=np.random.default_rng(3))
    assert mask.shape == shape
    assert mask.dtype == bool
    lines = make is not fourier.random_points
    # Whole lines: the share is right to half a line, 0.5 * 8 / 129 of it at worst.
    assert_allclose(1 / mask.mean(), acceleration, rtol=0.032 if lines else 1e-3)
    centre = fourier.centre(mask)
    assert min(centre) >= 12
    assert mask[fourier.middle(shape, (12, 12))].all()
    if lines:
        assert (mask == mask[:, :1]).all()
        assert centre[1] == shape[1]


@pytest.mark.parametrize("make", MASKS)
def test_equal_generators_give_equal_masks_and_others_other_ones(make):
    masks = [
        make((128, 40), acceleration=4, centre=8, generator=np.random.default_rng(seed))
        for seed in (1, 1, 2)
    ]
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any()


def test_points_are_denser_near_the_origin():
    mask = fourier.random_points(
        (128, 128), acceleration=8, centre=8, generator=np.random.default_rng(0)
    )
    inner = mask[fourier.middle(mask.shape, (40, 40))].mean()
    assert inner > 3 * mask.mean()
    assert mask[:16].any()


def test_regular_lines_keep_their_distance():
    mask = fourier.regular_lines(
        (200, 4), acceleration=5, centre=0, generator=np.random.default_rng(0), axis=0
    )
    assert set(np.diff(np.flatnonzero(mask[:, 0]))) <= {4, 5, 6}
    other = fourier.regular_lines(
        (4, 200), acceleration=5, centre=10, generator=np.random.default_rng(0), axis=1
    )
    assert (other == other[:1]).all()


def test_points_in_three_dimensions_fill_a_block():
    mask = fourier.random_points(
        (24, 32, 20), acceleration=6, centre=6, generator=np.random.default_rng(0)
    )
    assert_allclose(mask.mean(), 1 / 6, rtol=1e-3)
    assert min(fourier.centre(mask)) >= 6


def test_an_acceleration_that_leaves_no_centre_is_refused():
    with pytest.raises(ValueError, match="leaves 4 of 32 samples, fewer than the 8 of the centre"):
        fourier.random_lines((32, 8), acceleration=8, centre=8, generator=np.random.default_rng(0))
    with pytest.raises(ValueError, match="acceleration is from 1"):
        fourier.random_points((8, 8), acceleration=0.5, centre=2, generator=np.random.default_rng())


def test_what_is_zero_in_every_coil_was_not_sampled():
    kspace = noise(3, 6, 5, dtype=np.complex64)
    kspace[:, 2] = 0
    kspace[1, 4, 4] = 0
    mask = fourier.sampled(kspace)
    assert not mask[2].any()
    assert mask.sum() == 25


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 3), (9, 8)])
def test_the_centre_is_measured(size):
    mask = np.zeros((12, 11), bool)
    mask[fourier.middle(mask.shape, size)] = True
    assert fourier.centre(mask) == size
    assert fourier.centre(np.ones((12, 11), bool)) == (12, 11)
    assert fourier.centre(np.zeros((12, 11), bool)) == (0, 0)


def test_the_real_scans_centre(reference):
    kspace = np.load(reference / "data/complex/sigpy_tutorial_cartesian_ksp.npy")
    mask = fourier.sampled(kspace)
    assert_allclose(mask.mean(), 0.1243, atol=1e-4)
    assert min(fourier.centre(mask)) >= 24
