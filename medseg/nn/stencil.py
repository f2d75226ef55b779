"""Operators with a few numbers a pixel, and their Chebyshev polynomials: fast both ways, on little.

Source: Defferrard, Bresson, Vandergheynst 2016, arXiv:1606.09375, eq. 4. Differs: an operator's
weighted sums are one `embedding_bag`; the polynomials are Chebyshev's divided by their leading
coefficient, a power of two that the weights take back; they run on whichever side has fewer
channels; backward keeps the input alone, and applies the transposed polynomials to the gradient
once, for both of its results. No code followed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class Stencil:
    """A linear operator: (L x)[i] = sum over j of weight[i, j] x[index[i, j]].

    Attributes:
        index: pixels that each pixel takes from; those without use have weight 0.
        weight: what they are multiplied by.
        transposed: the transposed operator; None where the operator is symmetric.
    """

    index: Int[Tensor, "n k"]
    weight: Float[Tensor, "n k"]
    transposed: "Stencil | None" = None

    @property
    def back(self) -> "Stencil":
        """The operator that gradients go through."""
        return self.transposed or self


def propagate(x: Float[Tensor, "n c"], operator: Stencil) -> Float[Tensor, "n c"]:
    """The operator applied to every channel; gradients go to `x` alone, and only once."""
    found: Tensor = _Propagate.apply(x.contiguous(), operator)  # type: ignore[no-untyped-call]
    return found


def chebyshev(
    x: Float[Tensor, "n b i"],
    weight: Float[Tensor, "k i o"],
    *,
    operator: Stencil,
    bias: Float[Tensor, " o"] | None = None,
) -> Float[Tensor, "n b o"]:
    """Sum over k of T(k) x weight[k], plus the bias; T(k) the operator's Chebyshev polynomials.

    Half precision is computed in float32, and the result has the precision of `x`. Gradients go
    to all but the operator, and only once.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    powers = (torch.arange(len(weight), device=x.device) - 1).clamp_min(0)
    found: Tensor = _Chebyshev.apply(  # type: ignore[no-untyped-call]
        x.to(dtype).contiguous(),
        weight.to(dtype) * (2.0**powers).to(dtype)[:, None, None],
        None if bias is None else bias.to(dtype),
        operator,
    )
    return found.to(x.dtype)


def _bags(x: Float[Tensor, "n c"], operator: Stencil) -> Float[Tensor, "n c"]:
    return functional.embedding_bag(
        operator.index, x, per_sample_weights=operator.weight, mode="sum"
    )


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Stencil) -> Tensor:  # noqa: ANN401
        ctx.operator = operator
        return _bags(x, operator)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return _bags(gradient.contiguous(), ctx.operator.back), None


class _Chebyshev(torch.autograd.Function):
    """Sum over k of M(k) x weight[k], with M(k) Chebyshev's polynomial over 2^(k-1)."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        operator: Stencil,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.operator = operator
        order, i, o = weight.shape
        if o < i:
            y = _nested(x, weight, operator)
            return y if bias is None else y.add_(bias)
        y = x.new_empty(*x.shape[:2], o)
        for k, term in enumerate(_polynomials(x, order, operator)):
            _multiply(term, weight[k], out=y, more=y if k else bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        gradient = gradient.contiguous()
        grad_x = torch.empty_like(x) if for_x else None
        grad_weight = torch.empty_like(weight) if for_weight else None
        order, i, o = weight.shape
        if i * (for_x + for_weight) < o:
            if grad_x is not None:
                grad_x = _nested(gradient, weight.transpose(1, 2), ctx.operator.back)
            if grad_weight is not None:
                for k, term in enumerate(_polynomials(x, order, ctx.operator)):
                    _correlate(term, gradient, out=grad_weight[k])
        else:
            for k, term in enumerate(_polynomials(gradient, order, ctx.operator.back)):
                if grad_x is not None:
                    _multiply(term, weight[k].T, out=grad_x, more=grad_x if k else None)
                if grad_weight is not None:
                    _correlate(x, term, out=grad_weight[k])
        return grad_x, grad_weight, gradient.sum((0, 1)) if for_bias else None, None


def _polynomials(
    x: Float[Tensor, "n b c"], order: int, operator: Stencil
) -> Iterator[Float[Tensor, "n b c"]]:
    """M(k) x for k < order, from M(k) = L M(k-1) - share M(k-2)."""
    before, now = x, x
    yield now
    for k in range(1, order):
        after = _bags(now.flatten(1), operator).view_as(now)
        if k > 1:
            after.sub_(before, alpha=_share(k))
        before, now = now, after
        yield now


def _nested(
    x: Float[Tensor, "n b i"], weight: Float[Tensor, "k i o"], operator: Stencil
) -> Float[Tensor, "n b o"]:
    """Sum over k of M(k) x weight[k] by Clenshaw's recurrence, on as many channels as come out."""
    order, _, o = weight.shape
    y = x.new_empty(*x.shape[:2], o)
    _multiply(x, weight[-1], out=y, more=None)
    before = None
    for k in reversed(range(order - 1)):
        after = _bags(y.flatten(1), operator).view_as(y)
        if before is not None:
            after.sub_(before, alpha=_share(k + 2))
        _multiply(x, weight[k], out=after, more=after)
        before, y = y, after
    return y


def _share(k: int) -> float:
    """What M(k) has of M(k-2), as T(k) = 2 L T(k-1) - T(k-2) has it, in the polynomials' scale."""
    return 0.5 if k == 2 else 0.25


def _multiply(
    x: Float[Tensor, "n b i"],
    weight: Float[Tensor, "i o"],
    *,
    out: Float[Tensor, "n b o"],
    more: Tensor | None,
) -> None:
    """Write `x weight` to `out`, with `more` added: another map or numbers for the channels."""
    rows, to = x.flatten(0, 1), out.flatten(0, 1)  # with `out=`, autocast leaves the precision
    if more is None:
        torch.mm(rows, weight, out=to)
    else:
        torch.addmm(to if more is out else more, rows, weight, out=to)


def _correlate(
    x: Float[Tensor, "n b i"], y: Float[Tensor, "n b o"], *, out: Float[Tensor, "i o"]
) -> None:
    """Write the sums over pixels and skies of the products of all pairs of channels to `out`."""
    torch.mm(x.flatten(0, 1).T, y.flatten(0, 1), out=out)
