"""Turning skies: exact moves of pixels, labels with them, Stokes parameters with their signs."""

import healpy
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from medseg.data.skyturns import Brightness, Turn
from medseg.data.transforms import Chance, Noise
from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import centres, nest_numbers
from medseg.sample import Batch

NSIDE = 8


def batch(cases=3, channels=2, seed=0, nside=NSIDE):
    source = torch.Generator().manual_seed(seed)
    n = 12 * nside**2
    target = torch.randint(0, 4, (cases, n), generator=source)
    image = torch.randn(cases, channels, n, generator=source)
    present = torch.ones(cases, channels, dtype=torch.bool)
    return Batch(image, target, tuple("abcdefgh"[:cases]), present)


def chance(seed=1):
    return Chance(torch.Generator().manual_seed(seed), (1.0,))


def each(**options):
    """A batch of sixteen equal skies, and what the sixteen symmetries make of them."""
    one = batch(1, **options)
    many = Batch(
        one.image.repeat(16, 1, 1), one.target.repeat(16, 1), ("a",) * 16, one.present.repeat(16, 1)
    )
    return many, torch.arange(16)


def test_labels_move_with_the_sky():
    one = batch()
    one.image[:, 0] = one.target.float()
    turn = Turn()
    moved = turn.apply(one, turn.draw(one, chance()))
    assert not torch.equal(moved.target, one.target)
    assert torch.equal(moved.image[:, 0], moved.target.float())


def test_the_sixteen_are_all_different_and_lose_nothing():
    many, drawn = each()
    moved = Turn().apply(many, drawn)
    assert torch.equal(moved.image[0], many.image[0])
    assert len({sky.numpy().tobytes() for sky in moved.image}) == 16
    assert torch.equal(moved.image.sort(-1).values, many.image.sort(-1).values)


def test_a_turn_of_the_pixels_is_one_of_the_sphere():
    many, drawn = each(channels=3)
    where = torch.from_numpy(np.array(centres(NSIDE).T)).float()
    many.image[:] = where
    moved = Turn().apply(many, drawn).image
    for number, sky in enumerate(moved):
        matrix = sky @ where.T @ torch.linalg.inv(where @ where.T)
        assert_close(matrix @ matrix.T, torch.eye(3), atol=1e-5, rtol=0)
        assert_close(matrix @ where, sky, atol=1e-5, rtol=0)
        assert_close(torch.det(matrix), torch.tensor(1.0 if number < 8 else -1.0))


def test_without_mirrors_only_rotations_are_drawn():
    one = batch(64)
    assert Turn(mirror=False).draw(one, chance()).max() < 8
    drawn = Turn().draw(one, chance())
    assert drawn.max() >= 8
    assert (Turn(chance=0.25).draw(one, chance()) == 0).float().mean() > 0.5


@pytest.mark.parametrize("odd", [(), (1,)])
def test_mirrored_polarisation_stays_free_of_b_modes_if_u_changes_its_sign(odd):
    nside = 16
    spectrum = np.zeros((4, 25))
    spectrum[1, 2:] = 1.0
    maps = Prior(spectrum).draw(nside, seed=0, fields="QU")
    many, drawn = each(nside=nside)
    many.image[:] = torch.from_numpy(maps).float()
    moved = Turn(odd=odd).apply(many, drawn).image.numpy().astype(float)[:, :, nest_numbers(nside)]
    leaks = []
    for sky in moved:
        _, e, b = healpy.map2alm([sky[0] * 0, *sky], lmax=24, iter=3, use_pixel_weights=False)
        leaks.append((np.abs(b) ** 2).sum() / (np.abs(e) ** 2).sum())
    assert max(leaks[:8]) < 1e-6  # of the quadrature
    assert max(leaks[8:]) < 1e-6 if odd else min(leaks[8:]) > 0.1


def test_brightness_scales_each_channel_within_its_bounds():
    one = batch(32)
    change = Brightness(gain=1.25)
    drawn = change.draw(one, chance())
    changed = change.apply(one, drawn)
    assert_close(changed.image, one.image * drawn[..., None])
    assert drawn.min() >= 0.8 - 1e-6
    assert drawn.max() <= 1.25 + 1e-6
    still = (drawn == 1).all(1)
    assert 8 <= still.sum() <= 24
    assert (drawn[~still, 0] != drawn[~still, 1]).all()
    with pytest.raises(ValueError, match="1 or more"):
        Brightness(gain=0.5)


@pytest.mark.parametrize("change", [Turn(), Brightness(), Noise()], ids=lambda c: type(c).__name__)
def test_equal_seeds_change_skies_alike(change):
    one = batch(8)
    first, again, other = (change.apply(one, change.draw(one, chance(s))) for s in (5, 5, 6))
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)


def test_skies_without_labels_are_turned_too():
    one = batch()
    plain = Batch(one.image, None, one.ids, one.present)
    moved = Turn().apply(plain, torch.tensor([3, 0, 12]))
    assert moved.target is None
    assert torch.equal(moved.image[1], one.image[1])
