"""Layers on the sphere: the papers' polynomials, symmetric, on any nside and part of the sky."""

import copy
import functools

import numpy as np
import pytest
import torch
import torch_geometric.nn as layers
from scipy import sparse
from sky_tables import dense
from torch.nn import functional
from torch.testing import assert_close

from medseg.geometry import skygraph
from medseg.geometry.sphere import Sphere
from medseg.geometry.symmetry import symmetries
from medseg.nn.cost import macs
from medseg.nn.sphere import ChebConv, SphereGraph, operator_of, propagate, sphere_of

QUARTER = (1, (0, 5, 8))


def sky(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def edges(nside, kind):
    """The graph as torch-geometric takes it."""
    graph = skygraph.graph(Sphere(nside), kind)
    found = sparse.coo_matrix(graph.adjacency().T)
    pairs = torch.tensor(np.stack([found.row, found.col]), dtype=torch.int64)
    return pairs, torch.tensor(found.data, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["knn8", "knn20", "healpix8"])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_values_and_gradients_are_those_of_torch_geometric(kind, order):
    ours = ChebConv(5, 7, order=order, kind=kind, laplacian="normalized")
    theirs = layers.ChebConv(5, 7, K=order)
    with torch.no_grad():
        theirs.bias.copy_(ours.bias)
        for linear, weight in zip(theirs.lins, ours.weight, strict=True):
            linear.weight.copy_(weight.T)
    lambda_max = skygraph.operator(Sphere(4), kind, laplacian="normalized").lambda_max
    x, cotangent = sky(1, 5, 192).requires_grad_(), sky(1, 7, 192, seed=1)
    found = ours(x)
    wanted = theirs(x[0].T, *edges(4, kind), lambda_max=torch.tensor(lambda_max)).T[None]
    assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    mine = torch.autograd.grad(found, [x, ours.weight, ours.bias], cotangent)
    others = [linear.weight for linear in theirs.lins]
    other = torch.autograd.grad(wanted, [x, theirs.bias, *others], cotangent)
    assert_close(mine[0], other[0], atol=1e-5, rtol=1e-5)
    assert_close(mine[1].mT, torch.stack(other[2:]), atol=1e-4, rtol=1e-4)
    assert_close(mine[2], other[1], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["ls8", "ls20"])
def test_an_operator_that_is_not_symmetric_has_the_transposed_gradient(kind):
    layer = ChebConv(2, 3, order=4, kind=kind).double()
    matrix = dense(operator_of(sky(1, 1, 192).double(), kind=kind))
    assert not torch.allclose(matrix, matrix.T, atol=1e-4)
    x = sky(2, 2, 192).double().requires_grad_()
    terms = [x, x @ matrix.T]
    for _ in range(2):
        terms.append(2 * terms[-1] @ matrix.T - terms[-2])
    wanted = layer.bias[:, None] + torch.einsum("kbin,kio->bon", torch.stack(terms), layer.weight)
    assert_close(layer(x), wanted, atol=1e-6, rtol=1e-6)  # the table's weights are float32
    cotangent = sky(2, 3, 192, seed=1).double()
    found, expected = (torch.autograd.grad(y, x, cotangent)[0] for y in (layer(x), wanted))
    assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["ls8", "ls20", "healpix8"])
def test_it_turns_with_the_sky_in_all_sixteen_ways(kind):
    layer, x = ChebConv(3, 4, kind=kind).requires_grad_(False), sky(2, 3, 768)
    layer.weight.copy_(0.2 * sky(5, 3, 4, seed=1))
    for turned in torch.tensor(symmetries(8)):
        assert_close(layer(x[..., turned]), layer(x)[..., turned], atol=1e-5, rtol=1e-5)


def test_a_constant_map_stays_constant_and_the_spectrum_is_scaled():
    """L annihilates constants, so that T(k) of the rescaled one gives them (-1)^k times."""
    for kind in ("ls8", "knn20"):
        operator = operator_of(sky(1, 1, 192), kind=kind)
        assert_close(dense(operator).sum(1), -torch.ones(192), atol=1e-5, rtol=0)
        values = torch.linalg.eigvals(dense(operator).double())
        assert float(values.abs().max()) <= 1 + 1e-6
        assert float(values.real.max()) > 0.99


def test_one_layer_takes_any_nside():
    layer = ChebConv(2, 3)
    for nside in (2, 4, 8):
        assert layer(sky(1, 2, 12 * nside**2)).shape == (1, 3, 12 * nside**2)
    assert sorted(layer.state_dict()) == ["bias", "weight"]


@pytest.mark.parametrize("kind", ["ls8", "knn8"])
def test_on_a_part_of_the_sky_the_laplacian_changes_at_its_edge_alone(kind):
    pixels = torch.tensor(sphere_of(192, QUARTER).numbers())
    x = sky(1, 1, 768)

    def laplacian(x, footprint=None):
        own = skygraph.operator(sphere_of(x.shape[-1], footprint), kind)
        operator = operator_of(x, kind=kind, footprint=footprint)
        return (propagate(x[0].T, operator) + x[0].T)[:, 0] * own.lambda_max / 2

    part, whole = laplacian(x[..., pixels], QUARTER), laplacian(x)[pixels]
    inner = torch.tensor(np.isin(skygraph.graph(Sphere(8), kind).index[pixels], pixels).all(1))
    assert 90 < inner.sum() < len(pixels)
    assert_close(part[inner], whole[inner], atol=1e-3, rtol=1e-5)
    assert (part - whole)[~inner].abs().min() > 1e-3
    layer = ChebConv(2, 3, kind=kind, footprint=QUARTER)
    assert layer(torch.ones(1, 2, 192)).std(-1).max() < 1e-5


def test_the_pixels_of_a_footprint_are_children_in_ascending_order():
    assert sphere_of(768).same(Sphere(8))
    assert sphere_of(8, (2, (7, 3))).numbers().tolist() == [12, 13, 14, 15, 28, 29, 30, 31]
    assert sphere_of(2, (2, (7, 3))).numbers().tolist() == [3, 7]
    with pytest.raises(ValueError, match="700 pixels; 12 pixels of nside 1 have 12, 48, 192, 768"):
        sphere_of(700)
    with pytest.raises(ValueError, match="3 pixels of nside 1 have 3, 12, 48"):
        sphere_of(700, QUARTER)


@pytest.mark.parametrize("batch", [1, 3])
def test_channels_lie_innermost_so_that_the_next_layer_copies_nothing(batch):
    y = ChebConv(2, 3)(sky(batch, 2, 48))
    assert y.permute(2, 0, 1).is_contiguous()
    assert_close(ChebConv(2, 3).eval()(y[:, :2]).shape, torch.Size((batch, 3, 48)))


def test_what_follows_may_write_over_the_result():
    """As activations do that work in place; the layer's backward needs its input alone."""
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        layer, x = ChebConv(2, 3), sky(1, 2, 48).requires_grad_()
        functional.relu(layer(x), inplace=inplace).sum().backward()
        found.append((x.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_copies_and_counts_need_no_table():
    layer = ChebConv(2, 3, order=4, footprint=QUARTER)
    x = sky(1, 2, 192)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert macs(layer, (2, 192)) == 4 * 2 * 3 * 192


def test_a_table_made_while_predicting_serves_training():
    layer = ChebConv(2, 3, footprint=(2, (1, 2, 7)))
    with torch.inference_mode():
        layer(sky(1, 2, 48))
    found = layer(sky(1, 2, 48))
    found.sum().backward()
    # Linear in weights and bias: what they add up to is what their gradients say.
    parts = [(p * p.grad).sum() for p in (layer.weight, layer.bias)]
    assert_close(sum(parts), found.sum(), rtol=1e-4, atol=1e-4)


def test_weights_begin_with_the_published_spread():
    layer = ChebConv(64, 64)
    assert layer.weight.std().item() == pytest.approx((2 / 320) ** 0.5, rel=0.02)
    assert layer.bias.tolist() == pytest.approx([0.01] * 64)
    assert not ChebConv(64, 64, start=0.0).bias.any()
    assert ChebConv(64, 64, bias=False).bias is None
    with pytest.raises(ValueError, match="order is 0"):
        ChebConv(2, 3, order=0)


FACTORIES = [
    layers.GCNConv,
    layers.SAGEConv,
    functools.partial(layers.ChebConv, K=3),
    functools.partial(layers.GATv2Conv, heads=4, concat=False),
]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("footprint", [None, QUARTER])
def test_a_layer_of_torch_geometric_takes_each_sky_by_itself(factory, footprint):
    layer = SphereGraph(5, 7, layer=factory, kind="healpix8", footprint=footprint).eval()
    x = sky(3, 5, 192)
    alone = torch.cat([layer(x[[k]]) for k in range(3)])
    assert_close(layer(x), alone, atol=1e-5, rtol=1e-5)
    assert layer(x).shape == (3, 7, 192)


def test_a_layer_of_torch_geometric_gets_the_weights_of_the_graph():
    layer = SphereGraph(5, 7, layer=layers.GraphConv, kind="ls8").eval()
    x = sky(1, 5, 192)
    assert_close(layer(x)[0].T, layer.layer(x[0].T, *edges(4, "ls8")), atol=1e-5, rtol=1e-5)


def test_a_layer_of_another_width_is_refused():
    with pytest.raises(ValueError, match="concat=false"):
        SphereGraph(5, 8, layer=functools.partial(layers.GATConv, heads=4))
