"""The pixels of a sphere: orderings, parts, and the way to other pixels and back."""

import healpy
import numpy as np
import pytest

from medseg.geometry.sphere import (
    Regrid,
    Sphere,
    carried,
    centres,
    native_order,
    nested,
    nside_of,
    whole_pixels,
)


def _map(nside: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=12 * nside**2).astype(np.float32)


@pytest.mark.parametrize("nside", [1, 4, 32])
def test_orders_are_healpys_and_turn_back(nside: int) -> None:
    ring = Sphere(nside, nest=False)
    values = _map(nside)
    assert np.array_equal(nested(values, ring), healpy.reorder(values, r2n=True))
    assert np.array_equal(native_order(nested(values, ring), ring), values)


def test_part_of_a_sky_turns_and_turns_back() -> None:
    pixels = np.sort(np.random.default_rng(1).choice(768, 200, replace=False))
    part, values = Sphere(8, nest=False, pixels=pixels), _map(8)
    own = part.nested()
    whole = healpy.reorder(values, r2n=True)
    assert np.array_equal(nested(values[pixels], part), whole[own.numbers()])
    assert np.array_equal(native_order(nested(values[pixels], part), part), values[pixels])
    assert np.allclose(np.sort(own.vectors(), 0), np.sort(part.vectors(), 0))


def test_coarser_pixels_are_ud_grade_and_a_constant_survives_the_way_back() -> None:
    values = _map(16)[None]
    ring = Regrid.to(Sphere(16, nest=False), 4)
    down = healpy.ud_grade(values[0], 4, order_in="RING", order_out="NESTED")
    assert np.allclose(ring.image(values)[0], down, atol=1e-6)
    assert np.allclose(ring.back(np.ones((2, 192), np.float32)), 1)


def test_back_to_finer_pixels_is_linear_interpolation() -> None:
    coarse = _map(8)[None]
    found = Regrid.to(Sphere(32, nest=False), 8).back(coarse)[0]
    angles = healpy.pix2ang(32, np.arange(12 * 32**2))
    assert np.allclose(found, healpy.get_interp_val(coarse[0], *angles, nest=True), atol=1e-5)


def test_footprint_takes_what_is_there_and_says_nan_elsewhere() -> None:
    native = Sphere(8, pixels=np.arange(60, 130))
    passage = Regrid.to(native, 8, footprint=(1, [0, 1]))
    assert passage.working.shape == (128,)
    seen = passage.image(np.arange(60, 130)[None])
    assert np.isnan(seen[0, :60]).all()
    assert np.array_equal(seen[0, 60:], np.arange(60, 128))
    assert np.array_equal(np.isnan(passage.back(seen)[0]), np.arange(60, 130) >= 128)
    assert np.array_equal(whole_pixels(8, 1, pixels=[1]), np.arange(64, 128))


def test_unknown_pixels_do_not_count_in_means() -> None:
    values = np.full((1, 768), 3.0, np.float32)
    values[0, ::2] = np.nan
    values[0, :4] = np.nan
    down = carried(values, Sphere(8), onto=Sphere(4))
    assert np.isnan(down[0, 0])
    assert (down[0, 1:] == 3).all()


def test_labels_take_the_commonest_child() -> None:
    labels = np.zeros(768, np.int16)
    labels[:3] = 2
    labels[4:6] = 1
    found = Regrid.to(Sphere(8), 4).labels(labels)
    assert found[0] == 2
    assert found[1:].max() <= 1


def test_centres_are_unit_vectors() -> None:
    assert np.allclose(np.linalg.norm(centres(8), axis=1), 1)


def test_refusals_name_what_is_wanted() -> None:
    with pytest.raises(ValueError, match="power of two"):
        Sphere(12)
    with pytest.raises(ValueError, match="12 nside²"):
        nside_of(1000)
    with pytest.raises(ValueError, match=r"0\.\.767"):
        Sphere(8, pixels=np.array([768]))
    with pytest.raises(ValueError, match="ascend"):
        Sphere(8, pixels=np.array([5, 5]))
    with pytest.raises(ValueError, match="or coarser"):
        Regrid.to(Sphere(4), footprint=(8, [0]))
