"""Phase augmentation: what a scanner does to phase leaves the magnitude and the labels' places."""

import pytest
import torch
from torch.testing import assert_close

from medseg.data.phase import FourierShift, GlobalPhase, PhaseRamp, SmoothPhase
from medseg.data.transforms import Chance, DropChannels, Gamma, Spatial
from medseg.nn.complex.parts import from_parts, to_parts
from medseg.sample import Batch

SPACING = (1.0, 1.0, 1.0)


def batch(ndim=2, channels=2, seed=0):
    source = torch.Generator().manual_seed(seed)
    size = (2, channels, *(12, 15, 8)[:ndim])
    z = torch.complex(torch.randn(size, generator=source), torch.randn(size, generator=source))
    target = torch.randint(0, 3, (2, *size[2:]), generator=source)
    present = torch.ones(2, 2 * channels, dtype=torch.bool)
    return Batch(to_parts(z), target, ("a", "b"), present, complex_parts=True)


def chance(ndim, seed=1):
    return Chance(torch.Generator().manual_seed(seed), SPACING[:ndim])


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    "change",
    [GlobalPhase(), SmoothPhase(chance=1.0), PhaseRamp(chance=1.0)],
    ids=lambda c: type(c).__name__,
)
def test_phase_changes_and_magnitude_and_labels_stay(change, ndim):
    one = batch(ndim)
    changed = change.apply(one, change.draw(one, chance(ndim)))
    before, after = from_parts(one.image), from_parts(changed.image)
    assert_close(after.abs(), before.abs())
    assert (after / before).angle().abs().max() > 0.1
    assert torch.equal(changed.target, one.target)


def test_channels_of_a_case_turn_together():
    one = batch()
    change = SmoothPhase(chance=1.0)
    changed = change.apply(one, change.draw(one, chance(2)))
    turn = from_parts(changed.image) / from_parts(one.image)
    assert_close(turn[:, 0], turn[:, 1], rtol=1e-4, atol=1e-4)


def test_a_ramp_of_one_sample_moves_kspace_by_one():
    one = batch()
    drawn = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    moved = PhaseRamp().apply(one, drawn)
    spectra = [torch.fft.fftn(from_parts(b.image), dim=(2, 3)) for b in (one, moved)]
    for case, axis in ((0, 1), (1, 2)):
        # place counts from the middle, which turns everything by one further constant phase
        expected, found = torch.roll(spectra[0][case], 1, axis), spectra[1][case]
        turn = (found / expected).flatten()
        assert_close(turn, turn[:1].expand_as(turn), rtol=1e-3, atol=1e-3)
        assert_close(found.abs(), expected.abs(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ndim", [2, 3])
def test_whole_voxels_move_as_rolling_does(ndim):
    one = batch(ndim)
    steps = torch.tensor([[2, -3, 1][:ndim], [0, 4, -2][:ndim]])
    moved = FourierShift().apply(one, steps.float())
    axes = list(range(1, ndim + 1))
    for case in range(2):
        wanted = torch.roll(one.image[case], steps[case].tolist(), axes)
        assert_close(moved.image[case], wanted, rtol=1e-4, atol=1e-4)
        labels = torch.roll(one.target[case], steps[case].tolist(), list(range(ndim)))
        assert torch.equal(moved.target[case], labels)


def test_odd_sizes_moved_by_half_a_voxel_come_back():
    one = batch()
    image = one.image[..., :11, :15]  # an even size has a Nyquist line, which half a voxel mixes
    one = Batch(image, None, one.ids, one.present, complex_parts=True)
    there = FourierShift().apply(one, torch.full((2, 2), 0.5))
    back = FourierShift().apply(there, torch.full((2, 2), -0.5))
    assert_close(back.image, one.image, rtol=1e-4, atol=1e-4)


def test_real_batches_have_no_phase_to_change():
    one = batch()
    real = Batch(one.image, one.target, one.ids, one.present)
    for change in (GlobalPhase(), SmoothPhase(chance=1.0), PhaseRamp(), FourierShift()):
        assert change.apply(real, change.draw(real, chance(2))) is real


def test_rotated_complex_images_are_rotated_part_by_part_over_zero():
    one = batch()
    change = Spatial(chance=1.0, rotate_deg=30)
    drawn = change.draw(one, chance(2))
    whole = change.apply(one, drawn).image
    turned = Batch(-one.image, one.target, one.ids, one.present, complex_parts=True)
    assert_close(change.apply(turned, drawn).image, -whole)


def test_gamma_raises_the_magnitude_and_keeps_the_phase():
    one = batch()
    change = Gamma(chance=1.0)
    drawn = change.draw(one, chance(2))
    changed = change.apply(one, drawn)
    before, after = from_parts(one.image), from_parts(changed.image)
    assert_close(torch.sgn(after), torch.sgn(before), rtol=1e-4, atol=1e-4)
    top = before.abs().amax((2, 3), keepdim=True)
    wanted = (before.abs() / top).pow(drawn[..., None, None]) * top
    assert_close(after.abs(), wanted, rtol=1e-4, atol=1e-5)


def test_a_dropped_channel_loses_both_parts():
    one = batch(channels=3)
    change = DropChannels(chance=0.5)
    changed = change.apply(one, change.draw(one, chance(2, seed=3)))
    there = changed.present
    assert torch.equal(there[:, :3], there[:, 3:])
    assert 0 < int(there.sum()) < there.numel()
    assert torch.equal(from_parts(changed.image).abs().sum((2, 3)) > 0, there[:, :3])
