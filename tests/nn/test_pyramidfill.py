"""The fill from coarse to fine: what it keeps, what it repeats, and a slow reference."""

import numpy as np
import torch
from torch.testing import assert_close

from medseg.geometry.neighbours import neighbours
from medseg.geometry.sphere import centres
from medseg.geometry.symmetry import symmetries
from medseg.nn.pyramidfill import pyramid_fill

NSIDE = 16
PIXELS = 12 * NSIDE**2


def hidden_belt(nside=NSIDE):
    seen = np.abs(centres(nside)[:, 2]) > 0.3
    return torch.tensor(seen, dtype=torch.float32)[None, None]


def skies(many=2, fields=2):
    return torch.randn(many, fields, PIXELS, generator=torch.Generator().manual_seed(0))


def slowly(values, seen, sweeps):
    """One sky, level by level, with plain loops over pixels."""
    if len(values) == 12:
        known = values[seen]
        return np.where(seen, values, known.mean() if len(known) else 0.0)
    groups = [np.flatnonzero(four) + 4 * i for i, four in enumerate(seen.reshape(-1, 4))]
    above = np.array([values[g].mean() if len(g) else 0.0 for g in groups])
    coarse = slowly(above, np.array([len(g) > 0 for g in groups]), sweeps)
    found = np.where(seen, values, coarse.repeat(4))
    around = [row[row >= 0] for row in neighbours(round((len(values) / 12) ** 0.5))]
    for _ in range(sweeps):
        found = np.where(seen, values, [found[row].mean() for row in around])
    return found


def test_it_is_the_slow_one():
    values, seen = skies(1, 1), hidden_belt()
    expected = slowly(values[0, 0].double().numpy(), seen[0, 0].numpy() > 0, 3)
    found = pyramid_fill(values, seen, sweeps=3)[0, 0]
    assert_close(found.double(), torch.tensor(expected), atol=1e-5, rtol=0)


def test_seen_pixels_stay_and_hidden_ones_do_not_matter():
    values, seen = skies(), hidden_belt().expand(2, 1, -1)
    filled = pyramid_fill(values, seen)
    assert torch.equal(filled * seen, values * seen)
    assert torch.equal(pyramid_fill(values * seen, seen), filled)


def test_a_constant_fills_with_itself_and_nothing_with_zero():
    seen = hidden_belt()
    ones = torch.ones(1, 1, PIXELS)
    assert_close(pyramid_fill(ones, seen), ones)
    assert torch.equal(pyramid_fill(ones, torch.zeros_like(seen)), torch.zeros_like(ones))


def test_it_is_linear_in_the_map():
    (first, second), seen = skies().split(1), hidden_belt()
    both = pyramid_fill(2 * first - 3 * second, seen)
    apart = 2 * pyramid_fill(first, seen) - 3 * pyramid_fill(second, seen)
    assert_close(both, apart, atol=1e-5, rtol=1e-5)


def test_the_sixteen_symmetries_are_kept():
    values, seen = skies(1, 1), hidden_belt()
    seen = seen * (skies(1, 1)[:, :, torch.arange(PIXELS - 1, -1, -1)] > -1)
    filled = pyramid_fill(values, seen)
    for moved in torch.tensor(symmetries(NSIDE)):
        again = pyramid_fill(values[..., moved], seen[..., moved])
        assert_close(again, filled[..., moved], atol=1e-5, rtol=0)
