"""Patches: what is drawn depends on seed, epoch and position, and on nothing else."""

import numpy as np
import pytest
import torch

from medseg.data.patches import Batches, Case, Patches

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(2, 6, 20, 30)).astype(np.float32)
TARGET = np.zeros((6, 20, 30), np.uint8)
TARGET[4, 15, 3] = 1
TARGET[1, 2:5, 25:28] = 2


def patches(
    size: list[int], *, axis: int | None = 0, foreground: float = 0.0, seed: int = 0
) -> Patches:
    case = Case("a", IMAGE, TARGET, (True, True))
    items = [(0, None)] if axis is None else [(0, n) for n in range(IMAGE.shape[axis + 1])]
    return Patches(
        lambda _: case, items, size=size, slice_axis=axis, foreground=foreground, seed=seed
    )


def test_a_key_gives_the_same_patch_again_and_another_epoch_another() -> None:
    one, two = patches([8, 8]), patches([8, 8])
    assert torch.equal(one[3, 5, 2][0], two[3, 5, 2][0])
    assert not torch.equal(one[3, 5, 2][0], two[4, 5, 2][0])
    assert not torch.equal(one[3, 5, 2][0], patches([8, 8], seed=1)[3, 5, 2][0])


@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_foreground_patches_hold_a_labelled_voxel_of_each_class_alike(axis: int | None) -> None:
    size = [4, 8, 8] if axis is None else [8, 6] if axis == 0 else [4, 8]
    found = [patches(size, axis=axis, foreground=1.0)[0, n, 0][1] for n in range(60)]
    assert all(bool((f > 0).any()) for f in found)
    rare = sum(bool((f == 1).any()) for f in found)
    assert 15 < rare < 45


def test_a_short_axis_is_padded_evenly_with_the_smallest_value() -> None:
    image, target, _, present = patches([24, 32])[0, 0, 3]
    assert image.shape == (2, 24, 32)
    assert torch.equal(image[:, 2:22, 1:31], torch.from_numpy(IMAGE[:, 3]))
    floor = torch.from_numpy(IMAGE.min((1, 2, 3)))
    assert torch.equal(image[:, 0], floor[:, None].expand(2, 32))
    assert not target[0].any()
    assert present.all()


def test_three_dimensional_patches_come_from_the_volume() -> None:
    image, target, _, _ = patches([4, 8, 8], axis=None)[0, 1, 0]
    assert image.shape == (2, 4, 8, 8)
    assert target.shape == (4, 8, 8)


def keys(epoch: int, rank: int = 0, world: int = 1, **more: int) -> list[tuple[int, int, int]]:
    asked = {"steps": 6, "batch_size": 2, "seed": 0} | more
    batches = Batches(5, rank=rank, world=world, **asked)
    batches.set_epoch(epoch)
    return [key for batch in batches for key in batch]


def test_every_item_comes_once_a_pass() -> None:
    items = [item for _, _, item in keys(0)]
    assert sorted(items[:5]) == sorted(items[5:10]) == list(range(5))
    assert len(items) == 12


def test_epochs_differ_and_an_epoch_does_not_depend_on_the_ones_before() -> None:
    assert keys(1) == keys(1)
    assert [k[2] for k in keys(1)] != [k[2] for k in keys(2)]


def test_processes_share_out_what_one_would_see() -> None:
    shared = sorted(keys(3, 0, 2, steps=3) + keys(3, 1, 2, steps=3))
    assert shared == sorted(keys(3, steps=6))


def test_without_a_count_of_steps_an_epoch_is_one_pass() -> None:
    assert len(Batches(5, steps=None, batch_size=2, seed=0, rank=0, world=1)) == 3
