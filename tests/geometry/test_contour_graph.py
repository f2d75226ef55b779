"""Graphs of contours: the published matrices, and what must hold for any contour."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from medseg.geometry import graph
from medseg.geometry.contour import Contour, contours

ORGANS = {
    "right_lung": 44, "left_lung": 50, "heart": 26, "right_clavicle": 23, "left_clavicle": 23,
}  # fmt: skip
SETS = {"L": 2, "LH": 3, "LHC": 5}
RING, PATH = Contour("ring", 7), Contour("path", 6, closed=False)


@pytest.mark.parametrize("name", SETS)
def test_matrices_are_the_published_ones(reference, name):
    from safetensors.numpy import load_file

    found = load_file(reference / "fixtures/hybridgnet/operators.safetensors")
    organs = contours(dict(list(ORGANS.items())[: SETS[name]]))
    assert_array_equal(graph.adjacency(organs), found[f"mat/{name}/A"])
    assert_array_equal(graph.adjacency(graph.coarse(organs)), found[f"mat/{name}/AD"])
    assert_array_equal(graph.down(organs), found[f"mat/{name}/D"])
    assert_array_equal(graph.up(organs, circular=False), found[f"mat/{name}/U"])


def test_a_path_has_ends_and_a_ring_has_none():
    degree = graph.adjacency([RING, PATH]).sum(-1)
    assert degree.tolist() == [2] * 7 + [1, 2, 2, 2, 2, 1]


def test_contours_are_not_connected():
    matrix = graph.adjacency([RING, PATH])
    assert not matrix[:7, 7:].any()
    assert_array_equal(matrix, matrix.T)


@pytest.mark.parametrize("nodes", [5, 6, 23, 44])
@pytest.mark.parametrize("closed", [True, False])
def test_every_row_is_a_mean(nodes, closed):
    contour = Contour("organ", nodes, closed)
    assert_allclose(graph.down([contour]).sum(-1), 1)
    assert_allclose(graph.up([contour]).sum(-1), 1)


def test_only_a_closed_contour_is_closed_by_unpooling():
    assert_array_equal(graph.up([Contour("even", 6)])[-1], [0.5, 0, 0.5])
    assert_array_equal(graph.up([Contour("even", 6)], circular=False)[-1], [0, 0, 1])
    assert_array_equal(graph.up([PATH])[-1], [0, 0, 1])


def test_circular_unpooling_commutes_with_a_shift():
    up = graph.up([Contour("even", 8)])
    coarse = np.random.default_rng(0).normal(size=(4, 2))
    assert_allclose(up @ np.roll(coarse, 1, 0), np.roll(up @ coarse, 2, 0))


def test_edges_are_the_adjacency():
    matrix = graph.adjacency([RING, PATH])
    source, target = graph.edges(matrix)
    rebuilt = np.zeros_like(matrix)
    rebuilt[source, target] = 1
    assert_array_equal(rebuilt, matrix)


def test_the_parts_of_the_graph_are_the_contours():
    assert graph.parts(graph.adjacency([RING, PATH, RING])) == (7, 13, 20)
    assert graph.parts(np.eye(3)[::-1]) == (3,)


def test_the_laplacian_is_between_minus_one_and_one():
    values = np.linalg.eigvalsh(graph.scaled_laplacian(graph.adjacency([RING, PATH])))
    assert values.min() > -1 - 1e-9
    assert values.max() < 1 + 1e-9


def test_the_basis_is_the_cosine_of_multiples():
    laplacian = graph.scaled_laplacian(graph.adjacency([RING, PATH]))
    values, vectors = np.linalg.eigh(laplacian)
    for k, matrix in enumerate(graph.chebyshev(laplacian, 6)):
        cosine = np.cos(k * np.arccos(values.clip(-1, 1)))
        assert_allclose(matrix, vectors * cosine @ vectors.T, atol=1e-6)


def test_order_six_reaches_five_neighbours_to_each_side():
    basis = graph.chebyshev(graph.scaled_laplacian(graph.adjacency([Contour("ring", 20)])), 6)
    assert (np.abs(basis).sum(0)[0] > 0).sum() == 11


def test_an_order_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        graph.chebyshev(np.eye(3), 0)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16])
def test_curves_to_start_from_do_not_touch(count):
    organs = [Contour(f"organ {n}", 12, closed=n % 2 == 0) for n in range(count)]
    points = graph.ellipses(organs).reshape(count, 12, 2)
    assert points.min() > 0
    assert points.max() < 1
    gaps = np.linalg.norm(points[:, None, :, None] - points[None, :, None], axis=-1).min((-1, -2))
    assert (gaps[~np.eye(count, dtype=bool)] > 0.005).all()
