"""Schedules, whole-case scores and what the largest piece is worth."""

import functools
import math
import pickle

import pytest
import torch
from torch import nn
from torch.optim import SGD

from medseg import config
from medseg.config import Job, path_options
from medseg.sample import Batch
from medseg.tasks.learner import constant, cosine, poly, score_cases, table
from medseg.tasks.segment import Segment, gain_of_largest


def rates(schedule, steps: int = 100, **arguments: float) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, total_steps=steps, **arguments)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_rises_over_its_warm_up_and_ends_at_its_floor() -> None:
    found = rates(cosine, warmup=0.1, floor=0.01)
    assert found[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert max(found) == found[9] == 1.0
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[55] == pytest.approx(0.01 + 0.99 / 2)
    assert found[-1] == pytest.approx(0.01, abs=1e-3)


def test_poly_and_constant_follow_their_formulas() -> None:
    assert rates(poly)[50] == pytest.approx(math.pow(0.5, 0.9))
    assert set(rates(constant)) == {1.0}


def one_case(labels: torch.Tensor) -> Batch:
    return Batch(labels[None, None].float(), labels[None], ("a",), torch.ones(1, 1).bool())


def as_probabilities(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """The image's own values as certain labels."""
    del network
    return nn.functional.one_hot(image[0].long(), 2).movedim(-1, 0).float()


def test_scores_are_means_over_cases() -> None:
    labels = torch.zeros(4, 4, 4, dtype=torch.long)
    labels[1] = 1
    right, wrong = one_case(labels), one_case(labels)
    wrong = Batch(1 - wrong.image, wrong.target, ("b",), wrong.present)
    task = Segment(nn.Identity(), 2)
    task.whole = functools.partial(as_probabilities)
    assert score_cases(task, cases=[right, wrong])["val_dice"] == 0.5
    assert score_cases(task, cases=[]) == {}


def test_the_largest_piece_is_kept_only_where_that_helps() -> None:
    target = torch.zeros(12, 4, 4, dtype=torch.long)
    target[:4] = 1
    speckled = target.clone()
    speckled[10, 1, 1] = 1
    network = nn.Conv3d(1, 1, 1)
    case = Batch(speckled[None, None].float(), target[None], ("a",), torch.ones(1, 1).bool())
    assert gain_of_largest(network, as_probabilities, cases=[case], classes=[1])[1] > 0
    target[8:11] = 1
    two = Batch(target[None, None].float(), target[None], ("a",), torch.ones(1, 1).bool())
    assert gain_of_largest(network, as_probabilities, cases=[two], classes=[1])[1] < 0


def test_a_number_that_was_not_taken_is_an_empty_cell() -> None:
    rows = [{"epoch": 0, "train_loss": 1.5}, {"epoch": 1, "train_loss": 1.0, "val_dice": 0.25}]
    assert table(rows).splitlines()[1:] == ["0,1.5,,,,", "1,1,,0.25,,"]


def test_a_number_that_a_task_never_takes_has_no_column() -> None:
    rows = [{"epoch": 0, "val_dice": "", "val_loss": ""}, {"val_dice": "", "val_accuracy": 0.5}]
    assert table(rows).splitlines()[0] == "epoch,train_loss,val_loss,val_accuracy,lr,seconds"


def test_a_job_can_be_sent_to_another_process() -> None:
    from medseg.stages.train import train

    own = path_options("train").parse_args(["--in", "x"])
    again = pickle.loads(pickle.dumps(Job("train", train, paths=own)))  # noqa: S301 -- our own bytes
    assert again.function is train
    assert again.paths.source == own.source
    assert config.compose("train", []).seed == 0
