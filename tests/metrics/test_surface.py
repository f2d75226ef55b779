import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

from medseg.metrics.surface import assd, hd95, nsd, surface_scores, union_box
from medseg.metrics.surfels import surfel_areas

SHAPE = (34, 30, 26)


def blob(seed, shape=SHAPE, level=0.52):
    noise = gaussian_filter(np.random.default_rng(seed).random(shape), 3)
    low, high = noise.min(), noise.max()
    return (noise - low) / (high - low) > level


def ball(radius, spacing, shape=(48, 48, 48)):
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return x**2 + y**2 + z**2 < radius**2


def monai_scores(prediction, reference, spacing, tolerance):
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    pair = [torch.from_numpy(m)[None, None] for m in (prediction, reference)]
    options = {"include_background": True, "spacing": spacing}
    return [
        metrics.compute_hausdorff_distance(*pair, percentile=95, **options).item(),
        metrics.compute_average_surface_distance(*pair, symmetric=True, **options).item(),
        metrics.compute_surface_dice(*pair, [tolerance], use_subvoxels=True, **options).item(),
    ]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 2.5), (0.31, 0.72, 4.0)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("ignore")
def test_values_are_monais_on_random_shapes_that_reach_the_border(spacing, seed):
    prediction, reference = blob(seed), blob(seed + 50, level=0.48)
    ours = surface_scores(prediction, reference, spacing_mm=spacing, tolerance_mm=1.0)
    theirs = monai_scores(prediction, reference, spacing, 1.0)
    # MONAI keeps distances and areas in float32
    np.testing.assert_allclose([ours.hd95_mm, ours.assd_mm, ours.nsd], theirs, rtol=2e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_single_voxel_against_a_block_has_monais_values():
    prediction, reference = np.zeros((2, 9, 8, 7), dtype=bool)
    prediction[4, 4, 3] = True
    reference[2:6, 1:5, 0:7] = True
    ours = surface_scores(prediction, reference, spacing_mm=(1.0, 2.0, 3.0))
    theirs = monai_scores(prediction, reference, (1.0, 2.0, 3.0), 2.0)
    np.testing.assert_allclose([ours.hd95_mm, ours.assd_mm, ours.nsd], theirs, rtol=2e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.3, 4.0)])
def test_surfel_areas_are_the_published_weights_for_all_256_codes(spacing):
    utils = pytest.importorskip("monai.metrics.utils")
    table = utils.get_code_to_measure_table(spacing)[0].numpy()
    # MONAI counts the corners from the highest bit down
    theirs = [table[int(f"{code:08b}"[::-1], 2)] for code in range(256)]
    np.testing.assert_allclose(surfel_areas(spacing), theirs, rtol=1e-6, atol=1e-6)


def test_a_half_filled_cell_has_the_area_of_its_face():
    areas = surfel_areas((2.0, 3.0, 5.0))
    assert areas[0] == areas[255] == 0
    assert areas[0b00001111] == pytest.approx(15.0)
    assert areas[0b00110011] == pytest.approx(10.0)
    assert areas[0b01010101] == pytest.approx(6.0)


@pytest.mark.parametrize("axis", range(3))
def test_a_cut_face_is_no_surface_however_many_slices_lie_beyond(axis):
    """A slice of two columns scores like more slices of them, by the outlines' own distances."""
    outlines = blob(1)[:, :, 9], blob(51, level=0.48)[:, :, 9]
    scores = []
    for count in (1, 2, 7):
        columns = [np.stack([outline] * count, axis) for outline in outlines]
        scores.append(surface_scores(*columns, spacing_mm=(1.0, 1.0, 1.0), cropped=axis))
    for name in ("hd95_mm", "assd_mm", "nsd"):
        values = [getattr(score, name) for score in scores]
        np.testing.assert_allclose(values, values[0])
    edges = [outline & ~binary_erosion(outline) for outline in outlines]
    apart = np.concatenate([distance_transform_edt(~b)[a] for a, b in (edges, reversed(edges))])
    assert scores[0].assd_mm == pytest.approx(apart.mean())
    columns = [np.expand_dims(outline, axis) for outline in outlines]
    filled = surface_scores(*columns, spacing_mm=(1.0, 1.0, 1.0))
    assert filled.assd_mm < scores[0].assd_mm
    assert filled.nsd != scores[0].nsd


def test_masks_that_end_before_the_cut_score_as_in_the_whole_volume():
    one, other = np.zeros((2, 20, 20, 12), dtype=bool)
    one[4:12, 5:14, 2:9] = True
    other[6:13, 4:14, 3:10] = True
    spacing = (1.0, 1.5, 2.0)
    whole = surface_scores(one, other, spacing_mm=spacing)
    assert surface_scores(one, other, spacing_mm=spacing, cropped=2) == whole
    nearer = surface_scores(one[..., 4:], other[..., 4:], spacing_mm=spacing, cropped=2)
    assert nearer != whole


def test_equal_masks_have_no_distance_and_full_agreement():
    mask = blob(3)
    scores = surface_scores(mask, mask, spacing_mm=(1.0, 2.0, 3.0))
    assert (scores.hd95_mm, scores.assd_mm, scores.nsd) == (0, 0, 1)


def test_scores_are_symmetric():
    one, other = blob(1), blob(2)
    forth = surface_scores(one, other, spacing_mm=(1.0, 1.5, 2.0))
    back = surface_scores(other, one, spacing_mm=(1.0, 1.5, 2.0))
    assert forth.hd95_mm == back.hd95_mm
    assert (forth.assd_mm, forth.nsd) == pytest.approx((back.assd_mm, back.nsd), rel=1e-12)


def test_spacing_scales_distances_and_tolerance_scales_with_them():
    one, other = blob(1), blob(2)
    near = surface_scores(one, other, spacing_mm=(1.0, 1.5, 2.0), tolerance_mm=1.0)
    far = surface_scores(one, other, spacing_mm=(3.0, 4.5, 6.0), tolerance_mm=3.0)
    assert far.hd95_mm == pytest.approx(3 * near.hd95_mm)
    assert far.assd_mm == pytest.approx(3 * near.assd_mm)
    assert far.nsd == pytest.approx(near.nsd)


def test_axes_and_their_spacing_move_together():
    one, other = blob(1), blob(2)
    turned = surface_scores(
        one.transpose(2, 0, 1), other.transpose(2, 0, 1), spacing_mm=(2.0, 1.0, 1.5)
    )
    straight = surface_scores(one, other, spacing_mm=(1.0, 1.5, 2.0))
    assert turned.hd95_mm == pytest.approx(straight.hd95_mm)
    assert turned.nsd == pytest.approx(straight.nsd)


def test_a_shifted_plate_is_as_far_off_as_the_shift():
    plate, moved = np.zeros((2, 30, 30, 30), dtype=bool)
    plate[:, :, 10:12] = True
    moved[:, :, 15:17] = True
    spacing = (1.0, 1.0, 2.0)
    # the outer rims of both plates are surface as well, so all points lie 8 or 10 mm apart
    assert hd95(plate, moved, spacing_mm=spacing) == pytest.approx(10.0)
    assert nsd(plate, moved, spacing_mm=spacing, tolerance_mm=10.0) == 1.0
    # surface elements lie half a voxel further out: the facing sides are 3 voxels apart
    assert nsd(plate, moved, spacing_mm=spacing, tolerance_mm=6.0) == pytest.approx(0.45, abs=0.02)
    assert nsd(plate, moved, spacing_mm=spacing, tolerance_mm=5.9) == 0.0


def test_concentric_balls_are_apart_by_the_difference_of_their_radii():
    spacing = (0.5, 0.6, 0.7)
    small, large = ball(8.0, spacing), ball(10.0, spacing)
    # surfaces of voxels are rough by about a voxel's half diagonal
    assert assd(small, large, spacing_mm=spacing) == pytest.approx(2.0, abs=0.15)
    assert hd95(small, large, spacing_mm=spacing) == pytest.approx(2.0, abs=0.5)
    assert nsd(small, large, spacing_mm=spacing, tolerance_mm=2.8) == 1.0
    assert nsd(small, large, spacing_mm=spacing, tolerance_mm=1.0) == 0.0


def test_the_surfels_of_a_ball_add_up_to_its_area():
    from medseg.metrics.surface import _codes

    spacing, radius = (0.5, 0.6, 0.7), 10.0
    total = surfel_areas(spacing)[_codes(np.pad(ball(radius, spacing), 1))].sum()
    # cutting cell edges in the middle overestimates a curved surface by 7 to 9 per cent
    assert total == pytest.approx(1.08 * 4 * np.pi * radius**2, rel=0.02)


def test_a_mask_at_the_border_ends_there():
    full, none = np.ones((5, 5, 5), dtype=bool), np.zeros((5, 5, 5), dtype=bool)
    none[2, 2, 2] = True
    assert hd95(none, full, spacing_mm=(1.0, 1.0, 1.0)) > 1.9


def test_an_empty_mask_is_an_error_and_not_a_perfect_score():
    mask = blob(0)
    with pytest.raises(ValueError, match="a voxel in both masks"):
        surface_scores(mask, np.zeros_like(mask), spacing_mm=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="a voxel in both masks"):
        surface_scores(np.zeros_like(mask), np.zeros_like(mask), spacing_mm=(1.0, 1.0, 1.0))


def test_the_box_holds_both_masks_and_nothing_more():
    one, other = np.zeros((2, 9, 9, 9), dtype=bool)
    one[2, 3, 4] = True
    other[5, 1, 8] = True
    assert union_box(one, other) == (slice(2, 6), slice(1, 4), slice(4, 9))
    assert union_box(one & other, one & other) is None
