"""Chebyshev layers on stencils: polynomials of the operator, right gradients, little memory."""

import itertools

import numpy as np
import pytest
import torch
from scipy import sparse
from sky_tables import dense, stencil_of
from torch.testing import assert_close

from medseg.nn.stencil import chebyshev, propagate

WIDTHS = [(5, 3), (3, 3), (3, 5), (2, 5), (1, 5)]


def operator(n=12, dtype=torch.float64, *, symmetric=False, seed=0):
    """A sparse random operator whose spectral norm is below 1."""
    rng = np.random.default_rng(seed)
    matrix = sparse.random(n, n, 0.3, rng=rng, format="csr")
    matrix = matrix + matrix.T if symmetric else matrix
    matrix = matrix / np.linalg.norm(matrix.toarray(), 2)
    return stencil_of(matrix, dtype, symmetric=symmetric)


def drawn(*shape, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


def by_definition(x, weight, matrix, bias=None):
    """T(k) from cos(k arccos) on the eigenvalues' side: the recurrence, dense."""
    terms = [x, torch.einsum("nm,mbi->nbi", matrix, x)]
    for _ in range(2, len(weight)):
        terms.append(2 * torch.einsum("nm,mbi->nbi", matrix, terms[-1]) - terms[-2])
    y = sum(t @ w for t, w in zip(terms, weight, strict=False))
    return y if bias is None else y + bias


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("i", "o"), WIDTHS)
@pytest.mark.parametrize("order", [1, 2, 3, 4, 7])
def test_it_is_a_sum_of_chebyshev_polynomials(order, i, o, symmetric):
    L = operator(symmetric=symmetric)
    x, weight, bias = drawn(12, 2, i), drawn(order, i, o, seed=2), drawn(o, seed=3)
    ours = chebyshev(x, weight, operator=L, bias=bias)
    theirs = by_definition(x, weight, dense(L), bias)
    assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    cotangent = drawn(12, 2, o, seed=4).detach()
    mine, wanted = (torch.autograd.grad(y, [x, weight, bias], cotangent) for y in (ours, theirs))
    for found, expected in zip(mine, wanted, strict=True):
        assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_a_polynomial_turns_an_angle():
    """On the eigenvector of cos(a), T(k) multiplies by cos(k a)."""
    L = operator(symmetric=True)
    values, vectors = torch.linalg.eigh(dense(L))
    for k in range(6):
        weight = torch.zeros(6, 1, 1, dtype=torch.float64)
        weight[k] = 1
        found = chebyshev(vectors.T.reshape(12, 12, 1).transpose(0, 1), weight, operator=L)
        wanted = vectors * torch.cos(k * torch.arccos(values.clamp(-1, 1)))
        assert_close(found[..., 0], wanted, atol=1e-7, rtol=0)  # arccos is steep near 1


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("i", "o"), WIDTHS)
@pytest.mark.parametrize("order", [1, 4])
def test_gradients_are_those_of_differences(order, i, o, symmetric):
    L = operator(7, symmetric=symmetric)
    given = drawn(7, 2, i), drawn(order, i, o, seed=2), drawn(o, seed=3)
    assert torch.autograd.gradcheck(lambda x, w, b: chebyshev(x, w, operator=L, bias=b), given)
    assert torch.autograd.gradcheck(lambda x: propagate(x, L), drawn(7, 3))


@pytest.mark.parametrize(("i", "o"), WIDTHS)
@pytest.mark.parametrize("wanted", itertools.product([False, True], repeat=3))
def test_gradients_that_nobody_asks_for_change_no_other(i, o, wanted):
    L = operator()
    given = [drawn(12, 2, i), drawn(4, i, o, seed=2), drawn(o, seed=3)]
    chebyshev(given[0], given[1], operator=L, bias=given[2]).square().sum().backward()
    frozen = [t.detach().requires_grad_(w) for t, w in zip(given, wanted, strict=True)]
    y = chebyshev(frozen[0], frozen[1], operator=L, bias=frozen[2])
    assert y.requires_grad == any(wanted)
    if any(wanted):
        y.square().sum().backward()
    for mine, whole, asked in zip(frozen, given, wanted, strict=True):
        assert (mine.grad is not None) == asked
        if asked:
            assert_close(mine.grad, whole.grad, atol=1e-12, rtol=1e-12)


def test_skies_of_a_batch_do_not_see_each_other():
    L = operator(dtype=torch.float32)
    x, weight = drawn(12, 3, 4, dtype=torch.float32), drawn(5, 4, 6, dtype=torch.float32)
    alone = torch.cat([chebyshev(x[:, [k]], weight, operator=L) for k in range(3)], 1)
    assert_close(chebyshev(x, weight, operator=L), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
def test_propagation_is_a_product_with_the_matrix(symmetric):
    L = operator(symmetric=symmetric)
    x = drawn(12, 4)
    y = propagate(x, L)
    assert_close(y, dense(L) @ x, atol=1e-14, rtol=0)
    cotangent = drawn(12, 4, seed=5).detach()
    y.backward(cotangent)
    assert_close(x.grad, dense(L).T @ cotangent, atol=1e-14, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_single(dtype, autocast):
    L = operator(dtype=torch.float32)
    x, weight = drawn(12, 2, 4, dtype=torch.float32), drawn(5, 4, 6, dtype=torch.float32)
    small = x.detach().to(dtype).requires_grad_()
    exact = chebyshev(small.detach().float(), weight, operator=L)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        y = chebyshev(small, weight, operator=L)
        gradient = torch.autograd.grad(y.float().sum(), weight)[0]
    assert y.dtype == dtype
    assert_close(y, exact.to(dtype), atol=0, rtol=0)
    assert_close(gradient, torch.autograd.grad(exact.sum(), weight)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("i", "o"), WIDTHS)
def test_backward_keeps_the_input_and_the_weights_alone(i, o):
    """Not the polynomials: what a layer holds for training does not grow with the order."""
    kept = []
    x, weight = drawn(12, 2, i), drawn(6, i, o, seed=2)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, id):
        chebyshev(x, weight, operator=operator())
    assert max(kept) <= max(x.numel(), weight.numel())
    assert sum(kept) <= x.numel() + 2 * weight.numel() + 6  # the weights' scale
