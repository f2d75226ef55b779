"""Orthogonal steps: how long, which way, and Adam for the rest."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg.nn.muon import MATCHED, Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (4, 30), (30, 4)])
def test_singular_values_come_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_the_way_is_that_of_the_orthogonal_factor():
    torch.manual_seed(0)
    matrix = torch.randn(6, 20)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    exact = left @ right
    found = orthogonal(matrix)
    # The polynomial leaves singular values between 0.7 and 1.2.
    assert (found * exact).sum() / (found.norm() * exact.norm()) > 0.97


def test_a_gradients_length_does_not_matter():
    torch.manual_seed(0)
    start, gradient = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    ends = []
    for scale in (1e-3, 1e3):
        weight = nn.Parameter(start.clone())
        weight.grad = gradient * scale
        Muon([weight], lr=0.1, weight_decay=0.0).step()
        ends.append(weight.detach() - start)
    assert_close(ends[0], ends[1], atol=1e-5, rtol=1e-4)
    root_mean_square = ends[0].square().mean().sqrt()
    # r orthogonal rows of c entries have r / (r c) as mean square.
    assert root_mean_square.item() == pytest.approx(0.1 * MATCHED * 27**0.5 / 27**0.5, rel=0.25)


def test_vectors_and_single_rows_move_as_under_adam():
    torch.manual_seed(0)
    starts = [torch.randn(5), torch.randn(1, 7)]
    ours, plain = ([nn.Parameter(s.clone()) for s in starts] for _ in range(2))
    steps = Muon(ours, lr=0.02, adam_lr=0.5), torch.optim.Adam(plain, lr=0.01, betas=(0.9, 0.99))
    for _ in range(4):
        for mine, theirs in zip(ours, plain, strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.clone()
        for step in steps:
            step.step()
    for mine, theirs in zip(ours, plain, strict=True):
        assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_a_state_is_taken_up_again():
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 4), torch.randn(3, 3, 4)

    def stepped(weight, optimizer, many):
        for gradient in many:
            weight.grad = gradient.clone()
            optimizer.step()

    whole = nn.Parameter(start.clone())
    stepped(whole, Muon([whole]), gradients)
    part = nn.Parameter(start.clone())
    first = Muon([part])
    stepped(part, first, gradients[:1])
    second = Muon([part])
    second.load_state_dict(first.state_dict())
    stepped(part, second, gradients[1:])
    assert torch.equal(part, whole)


def test_wrong_numbers_are_refused():
    weight = [nn.Parameter(torch.zeros(2, 2))]
    with pytest.raises(ValueError, match="none may be negative"):
        Muon(weight, lr=-1.0)
    with pytest.raises(ValueError, match="momentum is 1"):
        Muon(weight, momentum=1.0)
