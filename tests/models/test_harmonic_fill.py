"""The iterated harmonic fill: where it comes to rest, and its limits."""

import numpy as np
import pytest

from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import centres
from medseg.models.harmonic import Harmonic

LMAX = 6


def sky(fields, nside=16):
    tt = 1e3 / (np.arange(LMAX + 1) + 1.0) ** 2
    prior = Prior(np.stack([tt, 0.1 * tt, 0.05 * tt, 0.2 * tt]))
    return prior.draw(nside, seed=0, fields=fields), prior


@pytest.mark.parametrize("fields", ["T", "QU", "TQU"])
def test_small_holes_of_a_band_limited_sky_close_exactly(fields):
    values, prior = sky(fields)
    seen = centres(16) @ np.array([0.6, 0.0, 0.8]) < np.cos(np.radians(12))
    found = Harmonic(iterations=200).fill(np.where(seen, values, 0), seen=seen, prior=prior)
    np.testing.assert_array_equal(found[:, seen], values[:, seen])
    error = np.linalg.norm((found - values)[:, ~seen]) / np.linalg.norm(values[:, ~seen])
    assert error < 0.01  # the quadrature of one transform errs by about as much


def test_more_turns_come_nearer():
    values, prior = sky("T")
    seen = np.abs(centres(16)[:, 2]) > 0.2
    errors = [
        np.linalg.norm(Harmonic(iterations=n).fill(values * seen, seen=seen, prior=prior) - values)
        for n in (1, 5, 25)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_no_turn_and_a_fourth_field_are_refused():
    with pytest.raises(ValueError, match="give 1 or more"):
        Harmonic(iterations=0)
    with pytest.raises(ValueError, match="4 fields"):
        Harmonic().fill(np.zeros((4, 192)), seen=np.ones(192, bool))
