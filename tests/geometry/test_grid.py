import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.geometry.grid import Grid, Orientation

ALL_48 = [
    Orientation(axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


def rotation(alpha: float, beta: float, gamma: float) -> np.ndarray:
    (ca, sa), (cb, sb), (cg, sg) = ((np.cos(a), np.sin(a)) for a in (alpha, beta, gamma))
    x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    z = np.array([[cg, -sg, 0], [sg, cg, 0], [0, 0, 1]])
    return x @ y @ z


@st.composite
def grids(draw) -> Grid:
    """Rotated, anisotropic, sometimes left-handed grids with every kind of axis order."""
    angle, size = st.floats(-3.2, 3.2), st.floats(0.3, 9)
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=3, max_size=3)))
    affine = np.eye(4)
    signs = draw(st.lists(st.sampled_from([-1, 1]), min_size=3, max_size=3))
    spacing = np.array([draw(size) for _ in range(3)])
    affine[:3, :3] = rotation(draw(angle), draw(angle), draw(angle)) * spacing * signs
    affine[:3, 3] = [draw(st.floats(-300, 300)) for _ in range(3)]
    return Grid(shape, affine)


def faces(grid: Grid) -> np.ndarray:
    """World positions of the outer corners of the field of view."""
    unit = np.array(list(itertools.product((0, 1), repeat=3)))
    return grid.to_world(unit * np.array(grid.shape) - 0.5)


@given(grids())
@settings(max_examples=60, deadline=None)
def test_world_and_index_undo_each_other(grid):
    index = np.array([[0.0, 0.0, 0.0], [3.5, -2.0, 7.25]])
    np.testing.assert_allclose(grid.to_index(grid.to_world(index)), index, atol=1e-6)


@given(grids(), st.tuples(*[st.integers(1, 60)] * 3))
@settings(max_examples=60, deadline=None)
def test_reshaped_keeps_the_faces_and_comes_back(grid, shape):
    other = grid.reshaped(shape)
    np.testing.assert_allclose(faces(other), faces(grid), atol=1e-6)
    assert other.reshaped(grid.shape).misalignment_mm(grid) < 1e-6


@given(grids(), st.tuples(*[st.floats(0.4, 12)] * 3))
@settings(max_examples=60, deadline=None)
def test_respaced_is_within_half_a_voxel_of_the_wish(grid, spacing):
    other = grid.respaced(spacing)
    np.testing.assert_allclose(faces(other), faces(grid), atol=1e-6)
    for n, old, new, count in zip(grid.shape, grid.spacing_mm, spacing, other.shape, strict=True):
        assert count == 1 or abs(count - n * old / new) <= 0.501


@given(grids(), st.tuples(*[st.integers(-5, 9)] * 3))
@settings(max_examples=60, deadline=None)
def test_crop_names_the_same_points_and_comes_back(grid, start):
    part = grid.crop(start, (4, 5, 6))
    np.testing.assert_allclose(
        part.to_world(np.array([1.0, 2, 3])), grid.to_world(np.array([1.0, 2, 3]) + start)
    )
    back = part.crop(tuple(-s for s in start), grid.shape)
    assert back.misalignment_mm(grid) < 1e-9


@given(grids())
@settings(max_examples=60, deadline=None)
def test_orientation_round_trip_keeps_every_voxel_in_its_place(grid):
    orientation = grid.orientation
    small = grid.crop((0, 0, 0), (3, 4, 5))
    array = np.arange(2 * 60).reshape(2, 3, 4, 5)
    turned = orientation.apply(array)
    assert (orientation.undo(turned) == array).all()
    canonical = small.canonical()
    assert turned.shape[1:] == canonical.shape
    for index in ((0, 0, 0), (2, 3, 4), (1, 0, 3)):
        at = np.round(canonical.to_index(small.to_world(np.array(index, float)))).astype(int)
        assert turned[0][tuple(at)] == array[0][index]


@given(grids())
@settings(max_examples=15, deadline=None)
def test_every_turned_copy_has_the_same_canonical_grid(grid):
    canonical = grid.canonical()
    for turn in ALL_48:
        copy = turn.grid(grid).canonical()
        assert copy.shape == canonical.shape
        np.testing.assert_allclose(copy.affine, canonical.affine, atol=1e-6)


@pytest.mark.parametrize("angles", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 0), (3, 0, 1)])
def test_axes_at_45_degrees_have_one_canonical_order(angles):
    affine = np.eye(4)
    affine[:3, :3] = rotation(*(np.pi / 4 * a for a in angles)) * [1, 2, 3]
    grid = Grid((3, 4, 5), affine)
    for turn in ALL_48:
        copy = turn.grid(grid).canonical()
        assert copy.shape == grid.canonical().shape
        np.testing.assert_allclose(copy.affine, grid.canonical().affine, atol=1e-9)


def test_codes_agree_with_nibabel_on_all_48_axis_orders():
    grid = Grid(
        (3, 4, 5), np.array([[2.0, 0.1, 0, 5], [-0.1, 3, 0.2, 6], [0, 0.2, 4, 7], [0, 0, 0, 1]])
    )
    seen = set()
    for turn in ALL_48:
        copy = turn.grid(grid)
        assert copy.axcodes == "".join(nibabel.aff2axcodes(copy.affine))
        assert copy.canonical().axcodes == "RAS"
        seen.add(copy.axcodes)
    assert len(seen) == 48


def test_volume_spacing_and_diagonal_are_in_millimetres():
    grid = Grid((10, 20, 30), np.diag([-1.0, 2, 2.5, 1]))
    assert grid.spacing_mm == (1.0, 2.0, 2.5)
    assert grid.voxel_ml == pytest.approx(0.005)
    assert grid.diagonal_mm == pytest.approx(np.sqrt(10**2 + 40**2 + 75**2))


def test_misalignment_is_the_worst_corner():
    grid = Grid((11, 11, 11), np.eye(4))
    moved = np.eye(4)
    moved[0, 0] = 1.01
    assert grid.misalignment_mm(Grid((11, 11, 11), moved)) == pytest.approx(0.1)
    assert grid.misalignment_mm(Grid((11, 11, 12), np.eye(4))) == np.inf


@pytest.mark.parametrize(
    ("shape", "affine", "words"),
    [
        ((3, 4, 5), np.full((4, 4), np.nan), "not a finite 4x4"),
        ((3, 4, 5), np.diag([1.0, 0, 1, 1]), "singular"),
        ((3, 0, 5), np.eye(4), "at least one voxel"),
    ],
)
def test_a_grid_without_volume_is_refused(shape, affine, words):
    with pytest.raises(ValueError, match=words):
        Grid(shape, affine)


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -2.0, 1.0), (1.0, 1.0, float("nan"))])
def test_a_spacing_that_is_not_positive_is_refused(spacing):
    with pytest.raises(ValueError, match="positive"):
        Grid((3, 4, 5), np.eye(4)).respaced(spacing)
