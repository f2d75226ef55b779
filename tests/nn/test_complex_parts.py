"""Complex tensors as real ones: round trips, views, and parameters that survive."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from medseg.nn.complex.parts import (
    MEMORY,
    ComplexParameter,
    as_complex,
    channels_last,
    from_parts,
    interleaved,
    merged,
    to_parts,
)

SHAPES = [(2, 3), (2, 3, 7), (2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 4, 5, 6), (2, 3, 1, 1)]


def drawn(shape):
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_there_and_back_is_the_same(shape):
    z = drawn(shape)
    for layout in (z, channels_last(z), z.flip(0)):
        assert torch.equal(merged(interleaved(layout)), layout)
        assert torch.equal(from_parts(to_parts(layout)), layout)


def test_interleaved_channels_alternate_and_parts_do_not():
    z = torch.tensor([1 + 2j, 3 + 4j])[None, :, None, None]
    assert interleaved(z).flatten().tolist() == [1, 2, 3, 4]
    assert to_parts(z).flatten().tolist() == [1, 3, 2, 4]


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_channels_last_maps_are_seen_without_a_copy(shape):
    z = drawn(shape).contiguous(memory_format=MEMORY[len(shape)])
    real = interleaved(z)
    assert real.data_ptr() == z.data_ptr()
    assert real.is_contiguous(memory_format=MEMORY[len(shape)])
    back = merged(real)
    assert back.data_ptr() == z.data_ptr()
    assert back.is_contiguous(memory_format=MEMORY[len(shape)])
    assert from_parts(to_parts(z)).is_contiguous(memory_format=MEMORY[len(shape)])


def test_a_channels_last_line_is_seen_without_a_copy():
    z = channels_last(drawn((2, 3, 7)))
    assert channels_last(z).data_ptr() == z.data_ptr() == interleaved(z).data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_complex64(dtype):
    z = torch.tensor([[1 + 2j, 3 - 4j]])
    for there, back in ((interleaved, merged), (to_parts, from_parts)):
        assert_close(back(there(z).to(dtype)), z, rtol=0, atol=0)


def test_gradients_pass_both_ways():
    z = drawn((1, 2, 3, 3)).to(torch.complex128).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: merged(interleaved(z) * 2), (z,))
    assert torch.autograd.gradcheck(lambda z: from_parts(to_parts(z) * 2), (z,))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])  # noqa: S301
def test_a_parameter_keeps_its_class(clone):
    parameter = ComplexParameter(torch.randn(3, 2), requires_grad=False)
    twin = clone(parameter)
    assert isinstance(twin, ComplexParameter)
    assert not twin.requires_grad
    assert torch.equal(twin, parameter)


def test_a_parameter_survives_casts_and_is_trained():
    module = nn.Module()
    module.weight = ComplexParameter(torch.ones(2, 2))
    assert module.double().weight.dtype == torch.float64
    assert isinstance(module.weight, ComplexParameter)
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.1)
    as_complex(module.weight).abs().sum().backward()
    optimiser.step()
    assert bool((module.weight < 1).all())
