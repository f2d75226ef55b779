import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage.transform import resize

from medseg.geometry.grid import Grid, Orientation
from medseg.geometry.resample import (
    Passage,
    resample_between,
    resample_image,
    resample_labels,
    resample_scores_argmax,
)

ALL_48 = [
    Orientation(axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
CASES = [
    ((20, 31, 17), (33, 25, 40)),
    ((70, 9, 130), (150, 9, 66)),
    ((1, 12, 5), (3, 7, 12)),
    ((40, 40, 5), (1, 60, 2)),
]


def smooth(shape, seed=0) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).random(shape), 1).astype(np.float32)


def turned(degrees: float) -> np.ndarray:
    """Direction cosines of a rotation about two axes."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return about_z @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def grid_of(shape, direction, spacing) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:3, 3] = [-20, 31.5, 7]
    return Grid(shape, affine)


@pytest.mark.parametrize(("old", "new"), CASES)
@pytest.mark.parametrize("order", [1, 3])
def test_values_are_those_of_skimage_everywhere(old, new, order):
    image = smooth(old)
    peer = resize(
        image.astype(np.float64), new, order=order, mode="edge", anti_aliasing=False, clip=False
    )
    # float32 sums of about forty products
    np.testing.assert_allclose(
        resample_image(image, new, order=order), peer, rtol=0, atol=5e-6 * np.ptp(image)
    )


def test_values_are_those_of_map_coordinates_inside():
    image, shape = smooth((30, 40, 40)), (45, 50, 29)
    at = [(np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(image.shape, shape, strict=True)]
    slow = map_coordinates(
        image.astype(np.float64), np.meshgrid(*at, indexing="ij"), order=3, mode="mirror"
    )
    # twelve voxels from the faces the two ways to continue the image have faded below 1e-6
    inner = np.s_[18:-18, 15:-15, 9:-9]
    ours = resample_image(image, shape)
    np.testing.assert_allclose(ours[inner], slow[inner], rtol=0, atol=5e-6 * np.ptp(image))


def test_an_axis_that_stays_is_not_touched():
    image = smooth((5, 6, 7))
    assert (resample_image(image, (5, 6, 7)) == image).all()
    alone = resample_image(image, (5, 9, 7))
    plane = resample_image(image[:, :, 3:4], (5, 9, 1))
    np.testing.assert_allclose(alone[:, :, 3:4], plane, rtol=0, atol=1e-6)


def test_constants_stay_constant_and_linear_never_overshoots():
    assert np.abs(resample_image(np.full((4, 5, 6), 7.0), (9, 3, 8)) - 7).max() < 1e-5
    step = (np.arange(20) > 9).astype(np.float32) * np.ones((3, 3, 1), np.float32)
    linear = resample_image(step, (5, 5, 33), order=1)
    assert linear.min() >= -1e-6
    assert linear.max() <= 1 + 1e-6
    assert resample_image(step, (5, 5, 33)).max() > 1.01


def test_memory_layout_and_byte_order_do_not_change_a_bit():
    image = smooth((23, 31, 18))
    wanted = resample_image(image, (30, 20, 40))
    for other in (
        np.asfortranarray(image),
        image.astype(">f4"),
        image.astype(np.float64),
        np.ascontiguousarray(image[::-1])[::-1],
        np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0),
    ):
        assert (resample_image(other, (30, 20, 40)) == wanted).all()


def test_channels_are_resampled_one_by_one():
    image = np.stack([smooth((6, 7, 8), seed) for seed in range(3)])
    both = resample_image(image, (9, 9, 9))
    for channel, result in zip(image, both, strict=True):
        assert (resample_image(channel, (9, 9, 9)) == result).all()


def test_an_order_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="take 3"):
        resample_image(smooth((4, 4, 4)), (5, 5, 5), order=2)


@given(st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.integers(1, 20)] * 3))
@settings(max_examples=40, deadline=None)
def test_labels_are_those_at_the_voxel_centres(old, new):
    labels = np.random.default_rng(1).integers(0, 9, old).astype(np.uint16)
    result = resample_labels(labels, new)
    assert result.dtype == labels.dtype
    at = [
        np.floor((np.arange(m) + 0.5) * n / m + 1e-9).astype(int)
        for n, m in zip(old, new, strict=True)
    ]
    assert (result == labels[np.ix_(*at)]).all()


@given(st.tuples(*[st.integers(1, 9)] * 3), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_labels_on_a_finer_grid_come_back_exactly(shape, factor):
    labels = np.random.default_rng(2).integers(0, 5, shape).astype(np.uint8)
    fine = resample_labels(labels, tuple(n * factor for n in shape))
    assert (resample_labels(fine, shape) == labels).all()


@pytest.mark.parametrize("kind", ["array", "generator", "half"])
def test_running_arg_max_gives_the_labels_of_the_whole_tensor(kind):
    scores = np.random.default_rng(3).random((7, 12, 14, 9)).astype(np.float32)
    scores[3] = scores[2]  # a tie everywhere: the first class wins
    if kind == "half":
        scores = scores.astype(np.float16)
    whole = resample_image(scores, (80, 21, 17), order=1).argmax(0)
    given_scores = (volume for volume in scores) if kind == "generator" else scores
    labels = resample_scores_argmax(given_scores, (80, 21, 17))
    assert labels.dtype == np.uint8
    assert (labels == whole).all()
    assert not (labels == 3).any()


def test_running_arg_max_counts_beyond_255_classes():
    scores = np.zeros((300, 2, 2, 2), dtype=np.float32)
    scores[280, 1] = 1
    scores[7, 0] = 1
    labels = resample_scores_argmax(scores, (2, 2, 2))
    assert labels.dtype == np.uint16
    assert (labels[1] == 280).all()
    assert (labels[0] == 7).all()


def test_running_arg_max_needs_a_fifth_of_the_memory():
    scores = np.random.default_rng(4).random((12, 24, 40, 40)).astype(np.float32)
    shape = (30, 60, 60)
    peaks = []
    for run in (
        lambda: resample_image(scores, shape, order=1).argmax(0),
        lambda: resample_scores_argmax(scores, shape),
    ):
        run()
        tracemalloc.start()
        run()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] <= 0.35 * peaks[0]  # twelve classes; the bench row has twenty-five


def test_resampling_between_equal_grids_changes_nothing():
    grid = grid_of((9, 10, 11), turned(17), (1.1, 2.3, 0.7))
    image = smooth((9, 10, 11))
    # rebuilt through its inverse twice, so that it carries rounding noise
    noisy = Grid(grid.shape, np.linalg.inv(np.linalg.inv(grid.affine)))
    for order in (0, 1, 3):
        same = resample_between(image, grid, target=noisy, order=order, fill=-5)
        np.testing.assert_allclose(same, image, atol=2e-6)


def test_resampling_between_grids_meets_the_function_it_samples():
    source = grid_of((40, 36, 30), turned(10), (1.0, 1.2, 1.5))
    target = grid_of((20, 20, 20), turned(-15), (0.8, 0.9, 1.1)).crop((-4, 3, 2), (20, 20, 20))

    def scene(grid):
        index = np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3).astype(float)
        x, y, z = grid.to_world(index).T
        return (np.sin(x / 9) + np.cos(y / 8) + z / 30).reshape(grid.shape).astype(np.float32)

    result = resample_between(scene(source)[None], source, target=target, fill=np.nan)[0]
    inside = np.isfinite(result)
    assert 0.1 < inside.mean() < 1
    index = source.to_index(target.to_world(np.argwhere(inside).astype(float)))
    assert (index >= -0.51).all()
    assert (index <= np.array(source.shape) - 0.49).all()
    deep = ((index > 3) & (index < np.array(source.shape) - 4)).all(1)
    assert np.abs(result[inside] - scene(target)[inside])[deep].max() < 1e-3


def test_labels_between_grids_stay_labels():
    source = grid_of((12, 12, 12), turned(0), (1, 1, 1))
    labels = np.random.default_rng(5).choice([0, 7, 201], (12, 12, 12)).astype(np.uint8)
    result = resample_between(
        labels, source, target=grid_of((9, 9, 9), turned(8), (1, 1, 1)), order=0
    )
    assert set(np.unique(result)) <= {0.0, 7.0, 201.0}


def network(image: np.ndarray) -> np.ndarray:
    """Scores of four classes with ties, from neighbourhoods and a position-dependent term."""
    volume = np.round(gaussian_filter(image[0].astype(np.float64), (1.5, 1, 0.7)), 2)
    ramp = np.linspace(0, 0.2, volume.shape[2])
    return np.stack([volume, volume, 1.0 - volume + ramp, np.full_like(volume, 0.53)])


def predict(image: np.ndarray, grid: Grid, spacing) -> tuple[np.ndarray, np.ndarray]:
    passage = Passage.to(grid, spacing)
    scores = network(passage.image(image))
    entropy = scores.std(0).astype(np.float32)
    return passage.restore_scores(scores), passage.restore_image(entropy)


@pytest.mark.parametrize("spacing", [None, (1.3, None, 2.0), (3.0, 0.7, 1.0)])
@pytest.mark.parametrize("degrees", [0, 13, 45])
def test_prediction_of_a_turned_scan_is_the_turned_prediction(spacing, degrees):
    grid = grid_of((13, 18, 11), turned(degrees), (0.9, 0.9, 2.5))
    image = np.random.default_rng(6).random((1, 13, 18, 11)).astype(np.float32)
    labels, entropy = predict(image, grid, spacing)
    assert len(np.unique(labels)) == 3
    for turn in ALL_48:
        for copy in (turn.apply(image), np.ascontiguousarray(turn.apply(image))):
            other, other_entropy = predict(copy, turn.grid(grid), spacing)
            assert (other == turn.apply(labels)).all()
            assert (other_entropy == turn.apply(entropy)).all()


def test_passage_keeps_values_where_only_axes_turn():
    grid = grid_of((4, 5, 6), turned(0)[:, [2, 0, 1]] * [-1, 1, -1], (1, 2, 3))
    passage = Passage.to(grid)
    image = np.random.default_rng(7).random((2, 4, 5, 6)).astype(np.float32)
    labels = (image[0] * 9).astype(np.uint16)
    assert passage.working.axcodes == "RAS"
    assert (passage.restore_image(passage.image(image)) == image).all()
    back = passage.restore_labels(passage.labels(labels))
    assert (back == labels).all()
    assert back.dtype == np.uint16


def test_passage_puts_every_value_at_its_place_in_the_world():
    grid = grid_of((12, 9, 15), turned(20), (1.0, 2.0, 0.8))
    passage = Passage.to(grid, (2.0, 2.0, 1.6))
    index = np.moveaxis(np.indices(grid.shape), 0, -1).reshape(-1, 3).astype(float)
    world = grid.to_world(index).T.reshape(3, *grid.shape).astype(np.float32)
    inner = np.s_[1:-1, 1:-1, 2:-2]
    working = passage.image(world, order=1)
    centres = np.moveaxis(np.indices(passage.working.shape), 0, -1).reshape(-1, 3).astype(float)
    wanted = passage.working.to_world(centres).T.reshape(3, *passage.working.shape)
    np.testing.assert_allclose(working[(0, *inner)], wanted[(0, *inner)], atol=1e-4)
    np.testing.assert_allclose(working[(1, *inner)], wanted[(1, *inner)], atol=1e-4)
    np.testing.assert_allclose(working[(2, *inner)], wanted[(2, *inner)], atol=1e-4)


def test_passage_refuses_an_array_of_another_grid():
    passage = Passage.to(grid_of((4, 5, 6), turned(0), (1, 1, 1)))
    with pytest.raises(ValueError, match="does not lie on a grid"):
        passage.image(np.zeros((1, 4, 6, 5), np.float32))
