"""Adam for complex weights: a step along the gradient's phase, whatever that phase is.

Ordinary Adam divides real and imaginary parts by scales of their own, so that its first step lies
on a diagonal. Here both parts of a weight share one second moment: turning a problem's phase turns
its path.

Source: Adam, ICLR 2015, arXiv:1412.6980; its decoupled decay Loshchilov and Hutter 2019,
arXiv:1711.05101. Differs: v <- b2 v + (1 - b2) |g|² for a complex weight.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from medseg.nn.complex.parts import ComplexParameter


class PhaseAdam(Optimizer):
    """AdamW; complex weights (`ComplexParameter` or of a complex dtype) step with their phase.

    Real weights move exactly as under `torch.optim.AdamW`.

    Args:
        params: weights, or groups of them.
        lr: length of a step.
        betas: how much of the first and the second moment is kept at every step.
        eps: added to the root of the second moment.
        weight_decay: every step takes this times `lr` off the weights.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise ValueError(
                f"lr {lr}, eps {eps}, weight_decay {weight_decay}: none may be negative; mend them"
            )
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are {betas}; give two shares from 0 up to, but not, 1")
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """One step of all weights that have a gradient; returns what `closure` gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    _step(weight, weight.grad, state=self.state[weight], group=group)
        return loss


def _step(weight: Tensor, grad: Tensor, *, state: dict[str, Any], group: dict[str, Any]) -> None:
    """One weight's moments and the weight itself, in place; complex ones as pairs of numbers."""
    pairs = isinstance(weight, ComplexParameter) or weight.is_complex()
    values, gradient = _numbers(weight), _numbers(grad)
    if not state:
        state["step"] = torch.tensor(0.0)
        state["exp_avg"] = torch.zeros_like(values)
        state["exp_avg_sq"] = torch.zeros_like(values[..., :1] if pairs else values)
    first, second = group["betas"]
    state["step"] += 1
    steps = state["step"].item()
    state["exp_avg"].lerp_(gradient, 1 - first)
    square = gradient * gradient
    square = square.sum(-1, keepdim=True) if pairs else square
    state["exp_avg_sq"].lerp_(square, 1 - second)
    scale = (state["exp_avg_sq"] / (1 - second**steps)).sqrt_().add_(group["eps"])
    values.mul_(1 - group["lr"] * group["weight_decay"])
    values.addcdiv_(state["exp_avg"], scale, value=-group["lr"] / (1 - first**steps))


def _numbers(tensor: Tensor) -> Tensor:
    """Real numbers of a tensor, in place: (real, imaginary) along a last axis if it is complex."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor.detach()
