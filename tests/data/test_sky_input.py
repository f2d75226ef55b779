"""Maps on the way to a network: NESTED, of the working nside, scaled by what is known of them."""

import numpy as np
import pytest

from medseg.data.sky_input import working
from medseg.geometry.sphere import Regrid, Sphere, native_order

NSIDE = 4
PIXELS = 12 * NSIDE**2
RNG = np.random.default_rng(1)
MAPS = RNG.normal(10, 3, (2, PIXELS)).astype(np.float32)
KNOWN = np.arange(PIXELS) % 5 > 0
KNOWN[:4] = False  # all children of one parent
HOLED = np.where(KNOWN, MAPS, np.nan).astype(np.float32)
SAME = Regrid.to(Sphere(NSIDE))


def test_none_keeps_values_and_what_is_not_known() -> None:
    found, _ = working(HOLED, SAME, method="none")
    np.testing.assert_array_equal(found, HOLED)
    assert found.dtype == np.float32


def test_scaling_knows_known_pixels_alone_and_puts_zero_elsewhere() -> None:
    found, numbers = working(HOLED, SAME, method="zscore")
    assert (found[:, ~KNOWN] == 0).all()
    np.testing.assert_allclose(found[:, KNOWN].mean(1), 0, atol=1e-5)  # float32
    np.testing.assert_allclose(found[:, KNOWN].std(1), 1, atol=1e-4)
    assert len(numbers) == 2
    moved, _ = working(1e3 * HOLED + 5, SAME, method="zscore")
    np.testing.assert_allclose(moved, found, atol=1e-4)  # neither unit nor offset counts


@pytest.mark.parametrize("method", ["none", "zscore"])
def test_ring_and_nested_copies_are_one_map(method: str) -> None:
    ring = Sphere(NSIDE, nest=False)
    wanted, _ = working(HOLED, SAME, method=method)
    found, _ = working(native_order(HOLED, ring), Regrid.to(ring), method=method)
    np.testing.assert_array_equal(found, wanted)


def test_a_coarser_map_takes_the_mean_of_known_children() -> None:
    found, _ = working(HOLED, Regrid.to(Sphere(NSIDE), 2), method="none")
    children, there = HOLED.reshape(2, -1, 4), KNOWN.reshape(-1, 4)
    wanted = np.nansum(children, 2)[:, 1:] / there.sum(1)[1:]
    np.testing.assert_allclose(found[:, 1:], wanted, rtol=1e-5)
    assert np.isnan(found[:, 0]).all()


def test_maps_without_a_value_in_the_footprint_or_of_complex_numbers_are_refused() -> None:
    half = np.where(np.arange(PIXELS) < PIXELS // 2, MAPS, np.nan).astype(np.float32)
    south = Regrid.to(Sphere(NSIDE), footprint=(1, [8]))
    with pytest.raises(ValueError, match=r"no pixel has a value .* or lie outside the footprint"):
        working(half, south, method="zscore")
    north = Regrid.to(Sphere(NSIDE), footprint=(1, [0]))
    assert np.array_equal(working(half, north, method="none")[0], MAPS[:, :16])
    with pytest.raises(ValueError, match="complex values, and real ones are wanted"):
        working(MAPS + 1j, SAME, method="none")
