"""Heads and the attention gate: real logits, which of them see the phase, gradients."""

import pytest
import torch
from torch.testing import assert_close

from medseg.nn.complex.attention import AttentionGate
from medseg.nn.complex.head import KINDS, Head

SPACE = {0: (), 1: (5,), 2: (4, 3), 3: (3, 2, 4)}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.complex128)


def head(kind: str, ndim: int = 2) -> Head:
    """A head of float64 numbers drawn anew."""
    torch.manual_seed(0)
    made = Head(3, 2, ndim=ndim, kind=kind).double()
    for weight in made.parameters():
        torch.nn.init.normal_(weight)
    return made


@pytest.mark.parametrize("ndim", SPACE)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_real_of_either_sign_and_differentiable(kind, ndim):
    made, z = head(kind, ndim), noise(5, 3, *SPACE[ndim])
    logits = made(z)
    assert logits.shape == (5, 2, *SPACE[ndim])
    assert logits.dtype == torch.float64
    assert torch.autograd.gradcheck(made, z[:2].requires_grad_())
    if kind == "magnitude":
        with torch.no_grad():
            made.bias.fill_(-100.0)
        assert (made(z) < 0).all()


@pytest.mark.parametrize(("kind", "sees"), zip(KINDS, (True, False, True, False), strict=True))
def test_which_heads_see_a_turn_of_all_phases(kind, sees):
    made, z = head(kind), noise(2, 3, 4, 5)
    change = (made(z * torch.polar(*torch.tensor([1.0, 0.9]).double())) - made(z)).abs().max()
    assert change > 0.1 if sees else change < 1e-12


@pytest.mark.parametrize("ndim", [0, 2])
def test_the_real_part_of_a_complex_layer_is_a_layer_of_both_parts(ndim):
    real, concat = head("real", ndim), head("concat", ndim)
    z = noise(2, 3, *SPACE[ndim])
    with torch.no_grad():
        concat.layer.weight.copy_(_columns(real, ndim))
        concat.layer.bias.copy_(real.bias)
    assert_close(concat(z), real(z))


def _columns(real: Head, ndim: int) -> torch.Tensor:
    """What the layer answers to 1 and to i in every channel, as a real layer's weight."""
    units = torch.eye(3, dtype=torch.complex128)
    answers = torch.stack([real.layer(_points(units * turn, ndim)).real for turn in (1, 1j)], 1)
    return answers.reshape(6, 2, *ndim * (1,)).transpose(0, 1)


def _points(vectors: torch.Tensor, ndim: int) -> torch.Tensor:
    return vectors.view(*vectors.shape, *ndim * (1,))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_gate_weighs_every_voxel_by_a_real_number(ndim):
    torch.manual_seed(0)
    gate = AttentionGate(4, 3, ndim=ndim).double()
    z, deep = noise(2, 4, *SPACE[ndim]), noise(2, 3, *SPACE[ndim], seed=1)
    weight = gate(z, deep) / z
    assert weight.imag.abs().max() < 1e-12
    assert (weight.real > 0).all()
    assert (weight.real < 1).all()
    assert_close(weight.real, gate.attention(z, deep).expand(-1, 4, *SPACE[ndim]))
    assert gate.attention(z, deep).std() > 1e-3
    corner = (slice(0, 1), slice(None), *ndim * (slice(0, 2),))
    inputs = (z[corner].requires_grad_(), deep[corner].requires_grad_())
    assert torch.autograd.gradcheck(gate, inputs)


def test_a_turn_goes_through_a_gate():
    torch.manual_seed(0)
    gate = AttentionGate(4, 3, hidden=5).double()
    z, deep = noise(2, 4, 3, 3), noise(2, 3, 3, 3, seed=1)
    assert_close(gate(z * 1j, deep * 1j), gate(z, deep) * 1j)


def test_unknown_heads_are_refused():
    with pytest.raises(ValueError, match="concat, magnitude, real, invariant"):
        Head(3, 2, kind="abs")
    with pytest.raises(ValueError, match="ndim"):
        Head(3, 2, ndim=4)
    with pytest.raises(ValueError, match="ndim"):
        AttentionGate(3, 2, ndim=0)
