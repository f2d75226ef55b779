"""Every block of the house keeps shape, type and the gradient's way."""

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import medseg.nn.blocks
from medseg.nn.blocks.convnext import ConvNeXt
from medseg.nn.blocks.residual import Residual

FOLDER = Path(medseg.nn.blocks.__file__).parent


def blocks():
    for path in sorted(FOLDER.glob("[!_]*.py")):
        module = importlib.import_module(f"medseg.nn.blocks.{path.stem}")
        for name, found in vars(module).items():
            own = isinstance(found, type) and found.__module__ == module.__name__
            if own and issubclass(found, nn.Module) and name.lower() == path.stem.replace("_", ""):
                yield found


@pytest.mark.parametrize("block", list(blocks()), ids=lambda block: block.__name__)
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_block_keeps_shape_and_type(block, ndim):
    torch.manual_seed(0)
    made = block(8, ndim=ndim).double()
    x = torch.randn(2, 8, *(9, 8, 7)[:ndim], dtype=torch.float64, requires_grad=True)
    y = made(x)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    y.square().sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_residual_adds_the_input():
    block = Residual(4).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        x = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
        assert_close(block(x), x.relu())


def test_convnext_starts_almost_as_the_identity():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 9, 9)
    assert_close(ConvNeXt(4)(x), x, atol=1e-4, rtol=0)
    assert not torch.equal(ConvNeXt(4, layer_scale=1.0)(x), x)
