"""Masks of the sky: turning keeps what is seen, cuts hide what they say, seeds decide."""

import healpy
import numpy as np
import pytest

from medseg.data.skymasks import KINDS, Masks, check_kind, cuts, rotation, survey
from medseg.geometry.sphere import centres


def dice(seed=0):
    return np.random.default_rng(seed)


def test_the_shipped_mask_is_that_of_wmap_at_every_nside():
    shares = {nside: survey(nside, "wmap").mean() for nside in (16, 32, 64)}
    assert shares[32] == pytest.approx(0.61865, abs=1e-5)
    assert shares[64] == shares[32]
    assert shares[16] == pytest.approx(shares[32], abs=0.06)  # by half a pixel of the edge


def test_turning_keeps_the_share_of_the_sky():
    masks = Masks(32)
    shares = [masks.draw("rotated", dice(seed)).mean() for seed in range(20)]
    # the nearest pixel is taken, so a ragged edge gains or loses some
    assert np.abs(np.array(shares) - masks.base.mean()).max() < 0.01
    assert len({masks.draw("rotated", dice(seed)).tobytes() for seed in range(5)}) == 5


def test_no_rotation_is_likelier_than_another():
    source = dice()
    turns = np.stack([rotation(source) for _ in range(4000)])
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(turns), 1)
    # entries have mean 0 and mean square 1/3, and these means are sure to about 1/sqrt(4000)
    assert np.abs(turns.mean(0)).max() < 0.04
    assert np.abs((turns**2).mean(0) - 1 / 3).max() < 0.025


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_hides_its_band_and_discs_lie_outside_it_too(seed):
    seen = cuts(32, dice(seed))
    latitude = np.abs(np.degrees(np.arcsin(centres(32)[:, 2])))
    assert not seen[latitude < 5].any()
    assert 0.3 < seen.mean() < 0.92
    band = dice(seed).uniform(5, 30)
    assert not seen[latitude < band].any()
    hidden = 1 - seen[latitude >= band].mean()
    assert hidden < 0.25


def test_the_smallest_disc_hides_a_pixel_of_a_coarse_map():
    # 40 discs of 0.5 to 3 degrees, at nside 4 where a pixel is 15 degrees wide
    holes = [~cuts(4, dice(seed)) for seed in range(8)]
    polar = np.abs(centres(4)[:, 2]) > 0.55
    assert sum(h[polar].any() for h in holes) >= 7


@pytest.mark.parametrize("kind", KINDS)
def test_equal_streams_draw_equal_masks_of_both_kinds_of_pixels(kind):
    masks = Masks(16)
    one, two = (masks.draw(kind, dice(3)) for _ in range(2))
    assert one.dtype == bool
    assert np.array_equal(one, two)
    assert 0 < one.mean() < 1


def test_a_mask_file_takes_the_place_of_the_shipped_one(tmp_path):
    north = (centres(8, nest=False)[:, 2] > 0).astype(np.float32)
    healpy.write_map(tmp_path / "own.fits", north, dtype=np.float32)
    for nside in (4, 8, 16):
        seen = Masks(nside, base=tmp_path / "own.fits").draw("wmap", dice())
        z = centres(nside)[:, 2]
        assert seen[z > 0.2].all()
        assert not seen[z < -0.2].any()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_mask_that_hides_all_or_nothing_is_refused(value, tmp_path):
    healpy.write_map(tmp_path / "own.fits", np.full(192, value, np.float32), dtype=np.float32)
    with pytest.raises(ValueError, match="some of both"):
        Masks(8, base=tmp_path / "own.fits")


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="rotated_cuts"):
        check_kind("round")
