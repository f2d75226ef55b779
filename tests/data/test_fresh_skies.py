"""Training data on the fly: seeds and steps decide, and nothing that is judged is ever drawn."""

import numpy as np
import pytest
import torch

from medseg.data import freshskies
from medseg.data.cmb import Cmb
from medseg.data.freshskies import FreshMasks, FreshSkies
from medseg.data.skymasks import survey
from medseg.data.transforms import Chain, Chance
from medseg.sample import Batch

NSIDE = 16


def batch(cases=3, channels=2):
    image = torch.zeros(cases, channels, 12 * NSIDE**2)
    image[:, -1] = torch.from_numpy(np.array(survey(NSIDE, "wmap"), np.float32))
    present = torch.ones(cases, channels, dtype=torch.bool)
    return Batch(image, None, tuple("abcdefghijklmnopqrstuvwxyz"[:cases]), present)


def chance(seed=1):
    return Chance(torch.Generator().manual_seed(seed), (1.0,))


def changed(transform, one, seed=1):
    return transform.apply(one, transform.draw(one, chance(seed))).image


def test_equal_seeds_draw_equal_skies_and_masks():
    chain = Chain({"skies": FreshSkies(), "masks": FreshMasks(shares={"cuts": 1.0})})
    first, again, other = (chain(batch(), chance(seed)).image for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not (first == other).all(-1).any()


def test_every_case_gets_a_sky_of_its_own_and_keeps_its_mask():
    one = batch(4)
    skies = changed(FreshSkies(), one)
    assert torch.equal(skies[:, -1], one.image[:, -1])
    assert torch.corrcoef(skies[:, 0]).fill_diagonal_(0).abs().max() < 0.5
    assert ((skies[:, 0].std(-1) > 20) & (skies[:, 0].std(-1) < 90)).all()


def test_the_skies_have_the_spectrum_that_written_ones_have():
    stored = Cmb(n_train=1, n_val=0, n_test=0, nside=NSIDE, beam_arcmin=500.0, noise_uk=2.0)
    fresh = FreshSkies(beam_arcmin=500.0, noise_uk=2.0).simulator(NSIDE)
    assert np.array_equal(fresh.prior.seen, stored.simulator.prior.seen)
    assert fresh.prior.noise_uk == stored.simulator.prior.noise_uk


@pytest.mark.parametrize("fields", ["QU", "TQU"])
def test_polarisation_fills_as_many_channels(fields):
    skies = changed(FreshSkies(fields=fields), batch(2, channels=len(fields) + 1))
    assert skies.shape == (2, len(fields) + 1, 12 * NSIDE**2)
    assert (skies[:, :-1].std(-1) > 0).all()


def test_masks_come_in_their_shares_and_skies_stay():
    one = batch(26)
    one.image[:, 0] = torch.randn(26, 12 * NSIDE**2)
    masks = changed(FreshMasks(shares={"rotated": 0.5, "cuts": 0.25}), one)
    assert torch.equal(masks[:, 0], one.image[:, 0])
    assert set(masks[:, 1].unique().tolist()) == {0.0, 1.0}
    kept = (masks[:, 1] == one.image[:, 1]).all(-1).sum()
    turned = ((masks[:, 1].mean(-1) - one.image[0, 1].mean()).abs() < 0.02).sum() - kept
    assert 2 <= kept <= 12  # 6.5 +- 2.2
    assert 7 <= turned <= 20  # 13 +- 2.5, and a cut may hide as much by chance
    assert torch.equal(changed(FreshMasks(shares={}), one), one.image)


def test_no_seed_of_a_written_case_is_one_of_training():
    cases = Cmb(n_train=2, n_val=2, n_test=2, nside=NSIDE).cases
    stored = [s for r in cases.records() for s in cases.stream(r).spawn(3)]
    words = freshskies._words(batch(6), chance())
    fresh = [s for w in words for s in freshskies._stream(w).spawn(2)]

    def seed(stream):
        return tuple(stream.bit_generator.seed_seq.generate_state(8))

    assert len({seed(s) for s in (*stored, *fresh)}) == len(stored) + len(fresh)
    # what parts them is not the luck of the words: the first key is 0, 1, 2 or the fresh one's
    keys = [{s.bit_generator.seed_seq.spawn_key[0] for s in group} for group in (stored, fresh)]
    assert keys[0] == {0, 1, 2}
    assert keys[1] == {freshskies._FRESH}


@pytest.mark.parametrize(
    ("shares", "cure"),
    [({"round": 1.0}, "one of"), ({"cuts": 1.5}, "at most 1"), ({"cuts": -0.5}, "from 0 to 1")],
)
def test_shares_that_make_no_sense_are_refused(shares, cure):
    with pytest.raises(ValueError, match=cure):
        FreshMasks(shares=shares)


def test_skies_and_data_that_differ_in_their_fields_are_refused():
    with pytest.raises(ValueError, match="fill 2 channels"):
        changed(FreshSkies(fields="QU"), batch())


def test_what_makes_no_sky_is_refused_before_training():
    with pytest.raises(ValueError, match="one of T, QU, TQU"):
        FreshSkies(fields="B")
    with pytest.raises(FileNotFoundError, match="spectrum"):
        FreshSkies(spectrum="no.npz")
