"""The moving average of weights: its formula, the swap, and going on where it was cut."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg.nn.average import Average


class Counted(nn.Module):
    """One weight and a whole number beside it, as batch statistics have one."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))
        self.register_buffer("seen", torch.tensor(0))


def walk(average: Average, model: nn.Module, steps: range) -> None:
    """Weights that change with every step, and the average behind them."""
    for step in steps:
        with torch.no_grad():
            model.weight.fill_(float(step) ** 2)
            model.seen.fill_(step)
        average.follow(model, step)


def test_the_average_of_constants_is_the_constant() -> None:
    model = nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    average = Average(model, 0.9)
    for step in range(20):
        average.follow(model, step)
    for name, value in average.state.items():
        assert_close(value, before[name])


def test_each_step_goes_the_share_that_the_decay_leaves() -> None:
    """Decay min(d, (1 + t) / (10 + t)): early steps forget faster."""
    model = Counted(0.0)
    average = Average(model, 0.5)
    expected = 0.0
    for step in range(1, 15):
        walk(average, model, range(step, step + 1))
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step**2
        assert_close(average.state["weight"], torch.tensor([expected]))


def test_whole_numbers_are_taken_over() -> None:
    model = Counted()
    average = Average(model, 0.999)
    walk(average, model, range(1, 8))
    assert average.state["seen"] == 7
    assert average.state["seen"].dtype == torch.int64


def test_two_swaps_leave_both_as_they_were() -> None:
    model = Counted(4.0)
    average = Average(model, 0.9)
    walk(average, model, range(1, 6))
    own, mean = copy.deepcopy(model.state_dict()), copy.deepcopy(average.state)
    average.swap(model)
    assert torch.equal(model.weight, mean["weight"])
    assert torch.equal(average.state["weight"], own["weight"])
    average.swap(model)
    for name in own:
        assert torch.equal(model.state_dict()[name], own[name])
        assert torch.equal(average.state[name], mean[name])


def test_what_is_averaged_is_not_what_is_trained() -> None:
    """Neither the start nor a swap makes the two share their memory."""
    model = Counted(1.0)
    average = Average(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(5.0)
    assert average.state["weight"] == 1
    average.swap(model)
    with torch.no_grad():
        model.weight.fill_(9.0)
    assert average.state["weight"] == 5
    average.swap(model)
    assert model.weight == 5


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_a_resumed_average_goes_on_as_if_never_cut(cut: int) -> None:
    whole, first, second = Counted(), Counted(), Counted(-7.0)
    straight, before, after = (Average(model, 0.8) for model in (whole, first, second))
    walk(straight, whole, range(1, 10))
    walk(before, first, range(1, cut + 1))
    after.state = copy.deepcopy(before.state)
    walk(after, second, range(cut + 1, 10))
    for name, value in straight.state.items():
        assert torch.equal(after.state[name], value)
