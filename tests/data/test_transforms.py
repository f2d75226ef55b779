"""Augmentation: equal draws give equal batches, labels follow images, absent stays absent."""

import pytest
import torch
from torch import Generator
from torch.testing import assert_close

from medseg.data.transforms import (
    BiasField,
    Chain,
    Chance,
    DropChannels,
    Gamma,
    Noise,
    Spatial,
)
from medseg.sample import Batch


def chance(seed: int = 0, ndim: int = 2) -> Chance:
    return Chance(Generator().manual_seed(seed), (1.0,) * ndim)


def batch(ndim: int = 2, n: int = 3) -> Batch:
    shape = (24, 20, 12)[:ndim]
    image = torch.randn(n, 2, *shape, generator=Generator().manual_seed(1))
    target = torch.zeros(n, *shape, dtype=torch.uint8)
    target[(slice(None), *(slice(4, 9),) * ndim)] = 1
    return Batch(image, target, ("a",) * n, torch.ones(n, 2, dtype=torch.bool))


ALL = [
    Spatial(chance=1.0),
    Spatial(chance=0.0, flip=[0, 1]),
    Gamma(chance=1.0),
    Noise(chance=1.0),
    BiasField(chance=1.0),
    DropChannels(chance=0.5),
]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_the_same_generator_gives_the_same_batch(transform: object, ndim: int) -> None:
    chain = Chain({"only": transform})  # type: ignore[dict-item]
    one, two = (chain(batch(ndim), chance(5, ndim)) for _ in range(2))
    other = chain(batch(ndim), chance(6, ndim))
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.target, two.target)
    assert not torch.equal(one.image, other.image)
    assert one.image.shape == batch(ndim).image.shape
    assert one.target.dtype == torch.uint8


@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_the_batch_that_came_in_is_not_touched(transform: object) -> None:
    given = batch()
    before = given.image.clone()
    Chain({"only": transform})(given, chance())  # type: ignore[dict-item]
    assert torch.equal(given.image, before)


@pytest.mark.parametrize("ndim", [2, 3])
def test_no_rotation_and_no_scaling_changes_nothing(ndim: int) -> None:
    still = Spatial(rotate_deg=0.0, scale=0.0, chance=1.0)
    given = batch(ndim)
    moved = Chain({"s": still})(given, chance(ndim=ndim))
    assert_close(moved.image, given.image, atol=1e-4, rtol=0)
    assert torch.equal(moved.target, given.target)


def test_labels_move_with_the_image() -> None:
    given = batch()
    given = Batch(given.target[:, None].float(), given.target, given.ids, given.present[:, :1])
    moved = Chain({"s": Spatial(rotate_deg=40.0, scale=0.3, chance=1.0)})(given, chance(2))
    assert not torch.equal(moved.target, given.target)
    agree = ((moved.image[:, 0] > 0.5) == moved.target.bool()).float().mean()
    assert agree > 0.98


def test_rotation_is_rigid_in_millimetres() -> None:
    target = torch.zeros(1, 40, 20, dtype=torch.uint8)
    target[:, 10:30, 9:11] = 1  # 20 x 4 mm at a spacing of 1 x 2 mm
    given = Batch(target[:, None].float(), target, ("a",), torch.ones(1, 1, dtype=torch.bool))
    turn = Spatial(rotate_deg=1.0, chance=1.0)
    quarter = torch.tensor([[0.0, -2.0], [0.5, 0.0]])  # in voxels, i then j
    extent = torch.tensor([40.0, 20.0])
    matrix = (quarter * extent[None] / extent[:, None]).flip(0, 1)
    moved = turn.apply(given, (torch.tensor([True]), matrix[None]))
    rows, columns = moved.target[0].nonzero().T
    assert (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1) == (4, 10)
    drawn = turn.draw(given, Chance(Generator().manual_seed(0), (1.0, 2.0)))[1][0].flip(0, 1)
    in_mm = drawn / extent[None] * extent[:, None]
    in_mm = in_mm / torch.tensor([[1.0, 2.0]]) * torch.tensor([[1.0], [2.0]])
    assert_close(in_mm @ in_mm.T, torch.eye(2) * (in_mm @ in_mm.T)[0, 0], atol=1e-5, rtol=0)


def test_gamma_keeps_a_channels_extremes() -> None:
    given = batch()
    changed = Chain({"g": Gamma(power=2.0, chance=1.0)})(given, chance())
    assert_close(changed.image.amin((2, 3)), given.image.amin((2, 3)), atol=1e-4, rtol=0)
    assert_close(changed.image.amax((2, 3)), given.image.amax((2, 3)), atol=1e-4, rtol=0)


def test_one_channel_always_stays_and_absent_ones_are_zero() -> None:
    chain = Chain({"d": DropChannels(chance=0.95)})
    changed = chain(batch(n=64), chance())
    assert bool(changed.present.any(1).all())
    assert not bool(changed.present.all())
    assert not bool(changed.image[~changed.present].any())
    assert chain.drops_channels


def test_a_channel_that_was_absent_is_never_called_present() -> None:
    given = batch(n=32)
    given.present[:, 1] = False
    changed = Chain({"d": DropChannels(chance=0.9)})(given, chance())
    assert bool(changed.present[:, 0].all())
    assert not bool(changed.present[:, 1].any())
