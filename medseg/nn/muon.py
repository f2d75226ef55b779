"""Muon: each matrix of weights steps by its momentum made orthogonal, so all directions move alike.

Deep linear parts and inputs of steep spectra leave most directions of a gradient small; their
steps are as long as the others' here. Vectors, and matrices of one row, move by Adam.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon (momentum after Nesterov,
five Newton-Schulz steps with 3.4445, -4.7750, 2.0315); Liu et al. 2025, arXiv:2502.16982, eq. 4
(step 0.2 sqrt(longer side), so that rates of AdamW do). A convolution's kernel counts as a matrix
of out-channels times all else. No code followed.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5
BETAS = (0.9, 0.99)
EPS = 1e-8
MATCHED = 0.2


class Muon(Optimizer):
    """Orthogonal steps for matrices and kernels, Adam for the rest.

    Args:
        params: weights, or groups of them.
        lr: length of a step; a matrix' entries move by about a fifth of it.
        momentum: how much of the mean gradient is kept at every step.
        weight_decay: every step takes this times `lr` off the matrices.
        adam_lr: the rate of vectors, as a share of `lr`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-3,
        *,
        momentum: float = 0.95,
        weight_decay: float = 1e-2,
        adam_lr: float = 0.5,
    ) -> None:
        if lr < 0 or weight_decay < 0 or adam_lr < 0:
            raise ValueError(
                f"lr {lr}, weight_decay {weight_decay}, adam_lr {adam_lr}: none may be negative; "
                "mend them"
            )
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; give a share from 0 up to, but not, 1")
        chosen = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adam_lr": adam_lr}
        super().__init__(params, chosen)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401 -- Optimizer's own
        """One step of every weight that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    rule = _turned if weight.ndim > 1 and len(weight) > 1 else _adam
                    rule(weight, weight.grad, self.state[weight], group)
        return loss


def _turned(weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["mean"] = torch.zeros_like(weight)
    mean = state["mean"].lerp_(gradient, 1 - group["momentum"])
    way = orthogonal(gradient.lerp(mean, group["momentum"]).flatten(1))
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    length = MATCHED * max(way.shape) ** 0.5
    weight.add_(way.view(weight.shape), alpha=-group["lr"] * length)


def _adam(weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["step"] = torch.zeros(())
        state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
    state["step"] += 1
    mean = state["mean"].lerp_(gradient, 1 - BETAS[0])
    square = state["square"].lerp_(gradient.square(), 1 - BETAS[1])
    step = float(state["step"])
    scale = (square / (1 - BETAS[1] ** step)).sqrt_().add_(EPS)
    rate = group["lr"] * group["adam_lr"] / (1 - BETAS[0] ** step)
    weight.addcdiv_(mean, scale, value=-rate)


def orthogonal(matrix: Float[Tensor, "r c"]) -> Float[Tensor, "r c"]:
    """Nearly the orthogonal factor of a matrix: its singular values moved to 0.7 to 1.2.

    Five odd polynomials of the matrix; singular values below about 1e-3 of the norm stay smaller.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    found = wide / wide.norm().clamp_min(1e-12)
    for _ in range(STEPS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found if found.shape == matrix.shape and wide is matrix else found.T
