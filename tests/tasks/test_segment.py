"""Segmentation as a task: what is scored, and that scores and loss agree with their definitions."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg import losses
from medseg.sample import Batch, Prediction
from medseg.tasks.segment import LOSSES, Segment


def batch(target: torch.Tensor) -> Batch:
    n = len(target)
    image = torch.randn(n, 2, *target.shape[1:], generator=torch.Generator().manual_seed(0))
    return Batch(image, target, ("a",) * n, torch.ones(n, 2, dtype=torch.bool))


@pytest.fixture
def task() -> Segment:
    torch.manual_seed(0)
    return Segment(nn.Conv2d(2, 3, 1), n_classes=3)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_two_steps_make_the_loss_smaller(loss: str) -> None:
    torch.manual_seed(0)
    task = Segment(nn.Conv2d(2, 3, 1), n_classes=3, loss=loss)  # type: ignore[arg-type]
    case = batch(torch.randint(0, 3, (2, 8, 8)))
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.5)
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        value = task.loss(case)
        value.backward()
        optimizer.step()
        seen.append(float(value))
    assert seen[2] < seen[1] < seen[0]


def test_probabilities_sum_to_one_and_labels_are_their_largest(task: Segment) -> None:
    found = task.predict(batch(torch.zeros(2, 8, 8, dtype=torch.uint8)))
    assert_close(found.probabilities.sum(1), torch.ones(2, 8, 8))
    assert torch.equal(found.labels, found.probabilities.argmax(1))


def test_the_validated_loss_is_the_trained_one(task: Segment) -> None:
    case = batch(torch.randint(0, 3, (1, 8, 8)))
    found = task.metrics(task.predict(case), case)
    assert_close(found["loss"], task.loss(case), atol=1e-5, rtol=0)


def test_dice_is_the_mean_over_classes_that_are_somewhere(task: Segment) -> None:
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[0, 0] = 1
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 0, :2] = 1
    probabilities = nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    found = task.metrics(Prediction(probabilities, labels), batch(target))
    assert_close(found["dice"], torch.tensor(2 * 2 / (4 + 2)))
    labels[0, 3, 3] = 2
    found = task.metrics(Prediction(probabilities, labels), batch(target))
    assert_close(found["dice"], torch.tensor((2 / 3 + 0) / 2))


def test_a_loss_may_be_any_function_of_logits_and_target() -> None:
    assert Segment(nn.Identity(), 2, loss=losses.dice).criterion is losses.dice


def test_a_case_without_a_label_is_named(task: Segment) -> None:
    bare = Batch(torch.zeros(1, 2, 4, 4), None, ("case-7",), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="case-7"):
        task.loss(bare)
