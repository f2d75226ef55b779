"""Losses: their values at the ends, and MONAI's for the rest."""

import pytest
import torch
from torch.testing import assert_close

from medseg import losses


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 6, 7, 5, generator=source)
    return logits, torch.randint(0, 4, (3, 6, 7, 5), generator=source)


def test_a_perfect_prediction_costs_nothing(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, target = pair
    logits = 50 * torch.nn.functional.one_hot(target, 4).movedim(-1, 1).float()
    for loss in (losses.dice, losses.cross_entropy, losses.dice_ce):
        assert_close(loss(logits, target), torch.tensor(0.0), atol=1e-5, rtol=0)


def test_a_class_absent_from_both_counts_as_a_match() -> None:
    logits = torch.tensor([[50.0], [0.0], [-50.0]])[None, :, :, None].expand(1, 3, 4, 4)
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    assert float(losses.dice(logits.contiguous(), target)) < 1e-4


def test_batch_dice_weighs_voxels_and_not_slices() -> None:
    target = torch.zeros(2, 8, 8, dtype=torch.long)
    target[0, :4] = 1
    logits = torch.stack([1.0 - target, target.float()], 1) * 20
    logits[1, 1, 0, 0] = 40
    each, pooled = losses.dice(logits, target), losses.dice(logits, target, batch=True)
    assert float(each) > 0.4 > 0.1 > float(pooled)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_equals_monai(
    pair: tuple[torch.Tensor, torch.Tensor], batch: bool, background: bool
) -> None:
    monai = pytest.importorskip("monai.losses")
    logits, target = pair
    theirs = monai.DiceCELoss(
        include_background=background,
        to_onehot_y=True,
        softmax=True,
        batch=batch,
        smooth_nr=1e-5,
        smooth_dr=1e-5,
    )
    ours = losses.dice_ce(logits, target, batch=batch, background=background)
    assert_close(ours, theirs(logits, target[:, None]))


def test_weights_scale_the_classes(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target = pair
    only = losses.cross_entropy(logits, target, weights=[0.0, 0.0, 0.0, 1.0])
    there = target == 3
    own = torch.nn.functional.cross_entropy(logits.movedim(1, -1)[there], target[there])
    assert_close(only, own)
