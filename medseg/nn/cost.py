"""What a network costs: real trainable numbers, and real multiply-adds for one input.

A complex weight is two real numbers. A complex product counts as the real products that are made:
4 by our layers' block form, which is what they count as wherever they run, and in complex matrix
products; 3 by Gauss' form, which is also how torch's own complex convolution computes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode, flop_registry

_REAL_PRODUCTS = 4


def dof(network: nn.Module) -> int:
    """Degrees of freedom: trainable real numbers; a complex one counts twice."""
    trained = (p for p in network.parameters() if p.requires_grad)
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in trained)


def macs(network: nn.Module, shape: Sequence[int]) -> int:
    """Real multiply-adds of convolutions and matrix products for one input of this shape.

    `shape` is channels, then space. Nothing is computed: the count follows shapes alone, and the
    network stays as it is. Normalisation, activation and pooling are not counted.
    """
    meta = {
        name: tensor.detach().to("meta")
        for name, tensor in (*network.named_parameters(), *network.named_buffers())
    }
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_formulas()) as counter:
            functional_call(network, meta, (torch.empty(1, *shape, device="meta"),))
    finally:
        network.train(was_training)
    return counter.get_total_flops() // 2


def _formulas() -> dict[Any, Callable[..., int]]:
    """Torch's own counts; those of complex operands as real products."""
    return {operation: _in_real_products(count) for operation, count in flop_registry.items()}


def _in_real_products(count: Callable[..., int]) -> Callable[..., int]:
    def counted(*args: Any, **rest: Any) -> int:  # noqa: ANN401 -- any operation's operands
        held = any(isinstance(a, Tensor) and a.is_complex() for a in args)
        return count(*args, **rest) * (_REAL_PRODUCTS if held else 1)

    counted._get_raw = True  # type: ignore[attr-defined] # operands, not their shapes
    return counted
