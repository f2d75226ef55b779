"""Adam with one second moment a complex weight: its steps, its turns, and going on after a cut."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg.nn.complex.adam import PhaseAdam
from medseg.nn.complex.parts import ComplexParameter


def native(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values.clone())


def pair(values: torch.Tensor) -> ComplexParameter:
    return ComplexParameter(torch.view_as_real(values).clone())


def complex_of(weight: nn.Parameter) -> torch.Tensor:
    return weight if weight.is_complex() else torch.view_as_complex(weight)


FORMS = pytest.mark.parametrize("form", [native, pair])


def problem(turn: complex = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A least-squares problem A w = d, whose solution is turned by `turn`."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(12, 4, generator=generator, dtype=torch.complex128)
    truth = torch.randn(4, generator=generator, dtype=torch.complex128)
    return matrix, matrix @ truth * turn


def walk(weight, optimizer, steps, data):
    """So many steps; returns the weight after each."""
    matrix, wanted = data
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        (matrix @ complex_of(weight) - wanted).abs().square().mean().backward()
        optimizer.step()
        path.append(complex_of(weight).detach().clone())
    return torch.stack(path)


@FORMS
def test_the_first_step_has_the_gradients_phase(form):
    weight = form(torch.zeros(1, dtype=torch.complex128))
    gradient = torch.tensor([3 + 0.01j], dtype=torch.complex128)
    (complex_of(weight) * gradient.conj()).real.sum().backward()
    PhaseAdam([weight], lr=0.1).step()
    step = -complex_of(weight).detach()
    assert_close(step.angle(), gradient.angle(), rtol=1e-9, atol=0)
    assert_close(step.abs(), torch.tensor([0.1]).double(), rtol=1e-6, atol=0)


def test_adam_itself_loses_the_phase():
    weight = native(torch.zeros(1, dtype=torch.complex128))
    weight.grad = torch.tensor([3 + 0.01j], dtype=torch.complex128)
    torch.optim.Adam([weight], lr=0.1).step()
    assert weight.detach().angle().item() == pytest.approx(-3 * math.pi / 4, abs=1e-3)


def test_real_weights_move_as_under_adamw():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    theirs = copy.deepcopy(ours)
    settings = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    pairs = [
        (model, make(model.parameters(), **settings))
        for model, make in ((ours, PhaseAdam), (theirs, torch.optim.AdamW))
    ]
    for _ in range(20):
        x = torch.randn(7, 3).double()
        for model, optimizer in pairs:
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert_close(one, other, rtol=0, atol=1e-12)


def test_defaults_are_those_of_adamw():
    theirs = torch.optim.AdamW([torch.zeros(1, requires_grad=True)]).defaults
    ours = PhaseAdam([torch.zeros(1, requires_grad=True)]).defaults
    assert ours == {name: theirs[name] for name in ours}


def test_both_forms_of_a_complex_weight_take_the_same_path():
    start = torch.ones(4, dtype=torch.complex128)
    paths = [
        walk(weight, PhaseAdam([weight], lr=0.05), 10, problem())
        for weight in (native(start), pair(start))
    ]
    assert_close(*paths, rtol=0, atol=1e-12)


@FORMS
def test_least_squares_converge(form):
    weight = form(torch.zeros(4, dtype=torch.complex128))
    optimizer = PhaseAdam([weight], lr=0.1, weight_decay=0.0)
    matrix, wanted = problem()
    found = walk(weight, optimizer, 400, (matrix, wanted))[-1]
    assert (matrix @ found - wanted).abs().max() < 1e-3


@FORMS
def test_a_turned_problem_has_a_turned_path(form):
    turn = complex(math.cos(0.8), math.sin(0.8))
    start = torch.full((4,), 0.5 - 0.2j, dtype=torch.complex128)
    paths = []
    for phase in (1.0, turn):
        weight = form(start * phase)
        paths.append(walk(weight, PhaseAdam([weight], lr=0.05), 30, problem(phase)))
    assert_close(paths[1], paths[0] * turn, rtol=0, atol=1e-9)


@FORMS
def test_it_goes_on_where_it_was_cut(form, tmp_path):
    whole = form(torch.zeros(4, dtype=torch.complex64))
    data = [values.to(torch.complex64) for values in problem()]
    path = walk(whole, PhaseAdam([whole], lr=0.05), 10, data)
    first = form(torch.zeros(4, dtype=torch.complex64))
    optimizer = PhaseAdam([first], lr=0.05)
    walk(first, optimizer, 4, data)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    second = copy.deepcopy(first)
    again = PhaseAdam([second], lr=0.9)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_close(walk(second, again, 6, data), path[4:], rtol=0, atol=0)


def test_weights_without_a_gradient_stay_and_a_closure_gives_the_loss():
    used, unused = (native(torch.ones(2)) for _ in range(2))
    optimizer = PhaseAdam([used, unused])

    def closure():
        loss = used.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert_close(unused.detach(), torch.ones(2), rtol=0, atol=0)
    assert (used < 1).all()


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"betas": [0.9]}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"mend|betas"):
        PhaseAdam([torch.zeros(1, requires_grad=True)], **wrong)
