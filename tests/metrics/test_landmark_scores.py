"""Scores of contours: the published definitions, each against the slow way to compute it."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, generate_binary_structure

from medseg.geometry.contour import contours, flags, rasterise, slices
from medseg.metrics import landmarks
from medseg.metrics.landmarks import METRICS, Row, score_landmarks

ORGANS = contours({"right_lung": 24, "left_lung": 30, "heart": 16})
SIDE = 128
DIAGONAL = SIDE * 0.35 * 2**0.5


def anatomy(seed: int) -> np.ndarray:
    """Two lungs and a heart as wobbly ellipses, in units of the side."""
    source = np.random.default_rng(seed)
    places = {"right_lung": (0.3, 0.5), "left_lung": (0.7, 0.5), "heart": (0.55, 0.6)}
    found = []
    for contour in ORGANS:
        angle = np.arange(contour.nodes) * 2 * np.pi / contour.nodes
        ring = np.stack([0.12 * np.cos(angle), 0.25 * np.sin(angle)], axis=1)
        found.append(ring + places[contour.name] + source.normal(0, 0.008, ring.shape))
    return np.concatenate(found)


def rows_of(prediction: object, reference: object, **options: object) -> dict[str, Row]:
    rows = score_landmarks(prediction, reference, contours=ORGANS, side=SIDE, **options)
    return {str(row["structure"]): row for row in rows}


def slow_hausdorff(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Largest and mean distance between the boundaries, every pair looked at."""
    cross = generate_binary_structure(2, 1)
    a, b = (np.argwhere(mask & ~binary_erosion(mask, cross)) for mask in (one, other))
    apart = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1))
    both = np.concatenate([apart.min(1), apart.min(0)]) * 0.35
    return float(both.max()), float(both.mean())


def masks_of(points: np.ndarray) -> dict[str, np.ndarray]:
    return {n: rasterise(points[own] * SIDE, (SIDE, SIDE)) for n, own in slices(ORGANS).items()}


@pytest.mark.parametrize("seed", range(3))
def test_the_field_scores_both_lungs_as_one_mask(seed: int) -> None:
    found, wanted = anatomy(seed), anatomy(seed + 50)
    rows, own = rows_of(found, wanted), slices(ORGANS)
    ours, theirs = masks_of(found), masks_of(wanted)
    assert list(rows) == ["right_lung", "left_lung", "heart", "lungs", "lungs_heart"]
    members = {"heart": ["heart"], "lungs": ["right_lung", "left_lung"], "lungs_heart": list(own)}
    for name, organs in members.items():
        one, other = (np.logical_or.reduce([m[o] for o in organs]) for m in (ours, theirs))
        hd, assd = slow_hausdorff(one, other)
        nodes = np.concatenate([np.arange(70)[own[o]] for o in organs])
        errors = (found - wanted)[nodes] * SIDE
        row = rows[name]
        assert row["status"] == "ok"
        assert row["mse_px2"] == pytest.approx((errors**2).mean())
        assert row["error_mm"] == pytest.approx(np.hypot(*errors.T).mean() * 0.35)
        if name == "lungs_heart":
            assert all(row[metric] is None for metric in landmarks.MASK_METRICS)
            continue
        assert row["dice"] == pytest.approx(2 * (one & other).sum() / (one.sum() + other.sum()))
        assert row["hd_mm"] == pytest.approx(hd)
        assert row["assd_mm"] == pytest.approx(assd)
    assert [rows[n]["components"] for n in ("right_lung", "lungs")] == [1, 2]
    assert rows["lungs"]["holes"] == rows["lungs"]["self_intersections"] == 0


def test_a_boundary_runs_along_the_images_edge() -> None:
    full = np.ones((20, 20), dtype=bool)
    spot = np.zeros((20, 20), dtype=bool)
    spot[9:11, 9:11] = True
    found = landmarks.boundary_scores(full, spot, spacing_mm=0.35)
    hd, assd = slow_hausdorff(full, spot)
    assert found.hd_mm == pytest.approx(hd)
    assert found.assd_mm == pytest.approx(assd)
    with pytest.raises(ValueError, match="both masks"):
        landmarks.boundary_scores(full, spot & False, spacing_mm=1.0)


def test_every_metric_and_status_is_defined() -> None:
    assert set(METRICS) <= set(landmarks.DEFINITIONS)
    assert {"missed", "spurious", "absent", "failed"} <= set(landmarks.DEFINITIONS)
    for row in rows_of(anatomy(0), anatomy(1)).values():
        assert set(row) == {"structure", "status", *METRICS}


def test_an_organ_that_was_not_annotated_is_absent_and_so_is_its_group() -> None:
    wanted = anatomy(1)
    wanted[slices(ORGANS)["left_lung"]] = np.nan
    rows = rows_of(anatomy(0), wanted)
    status = {name: row["status"] for name, row in rows.items()}
    assert status == {
        "right_lung": "ok",
        "left_lung": "absent",
        "heart": "ok",
        "lungs": "absent",
        "lungs_heart": "absent",
    }
    assert all(rows["lungs"][metric] is None for metric in METRICS)


def test_some_annotated_nodes_have_an_error_but_no_mask() -> None:
    found, wanted = anatomy(0), anatomy(1)
    wanted[:4] = np.nan
    row = rows_of(found, wanted)["right_lung"]
    assert row["dice"] is None
    assert row["mse_px2"] == pytest.approx(((found - wanted)[4:24] ** 2).mean() * SIDE**2)


def test_no_prediction_is_scored_as_a_miss() -> None:
    rows = rows_of(None, anatomy(1))
    assert {row["status"] for row in rows.values()} == {"failed"}
    assert rows.pop("lungs_heart")["mse_px2"] == SIDE**2
    for row in rows.values():
        assert (row["dice"], row["mse_px2"]) == (0, SIDE**2)
        assert row["hd_mm"] == row["assd_mm"] == row["error_mm"] == pytest.approx(DIAGONAL)
    unknown = rows_of(None, np.full((70, 2), np.nan))
    assert {row["status"] for row in unknown.values()} == {"absent"}


def test_a_contour_that_is_not_there_or_beyond_the_image_is_missed() -> None:
    found, wanted = anatomy(0), anatomy(1)
    own = slices(ORGANS)
    found[own["heart"]] = np.nan
    found[own["left_lung"]] += 3
    rows = rows_of(found, wanted)
    assert rows["heart"]["status"] == rows["left_lung"]["status"] == "missed"
    assert rows["heart"]["dice"] == rows["left_lung"]["dice"] == 0
    assert rows["heart"]["mse_px2"] == SIDE**2
    error = (found - wanted)[own["left_lung"]] * SIDE
    assert rows["left_lung"]["mse_px2"] == pytest.approx((error**2).mean())


def test_a_label_map_has_the_same_rows_without_landmarks() -> None:
    found, wanted = anatomy(0), anatomy(1)
    drawn = flags(found * SIDE, ORGANS, shape=(SIDE, SIDE))
    by_points, by_labels = rows_of(found, wanted), rows_of(drawn, wanted)
    by_masks = rows_of(drawn, flags(wanted * SIDE, ORGANS, shape=(SIDE, SIDE)))
    assert list(by_points) == list(by_labels) == list(by_masks)
    assert by_labels.pop("lungs_heart")["status"] == by_masks["lungs_heart"]["status"] == "absent"
    for name in by_labels:
        row = by_points[name]
        for metric in ("dice", "hd_mm", "assd_mm", "components", "holes", "status"):
            assert row[metric] == by_labels[name][metric] == by_masks[name][metric]
        for metric in ("mse_px2", "error_mm", "self_intersections"):
            assert by_labels[name][metric] is None
            assert by_masks[name][metric] is None


def test_a_reference_of_masks_scores_landmarks_by_their_masks() -> None:
    found, wanted = anatomy(0), masks_of(anatomy(1))
    del wanted["heart"]
    rows = rows_of(found, wanted)
    assert rows["heart"]["status"] == rows["lungs_heart"]["status"] == "absent"
    assert rows["lungs"]["status"] == "ok"
    assert rows["lungs"]["mse_px2"] is None
    assert rows["lungs"]["self_intersections"] == 0


def test_a_class_map_of_groups_is_scored_on_the_groups_alone() -> None:
    found, wanted = masks_of(anatomy(0)), anatomy(1)
    lungs = found["right_lung"] | found["left_lung"]
    classes = np.where(found["heart"], 2, lungs.astype(int))
    rows = rows_of({"lungs": classes == 1, "heart": classes == 2}, wanted)
    assert list(rows) == ["heart", "lungs"]
    whole = rows_of(anatomy(0), wanted)
    assert rows["heart"]["dice"] == whole["heart"]["dice"]
    assert rows["lungs"]["dice"] != whole["lungs"]["dice"]


def test_an_empty_mask_tells_missed_from_spurious_from_absent() -> None:
    some = np.zeros((SIDE, SIDE), dtype=bool)
    some[40:60, 40:60] = True
    none = some & False
    pairs = {
        "missed": (none, some),
        "spurious": (some, none),
        "absent": (none, none),
        "ok": (some, some),
    }
    for status, (found, wanted) in pairs.items():
        row = rows_of({"heart": found}, {"heart": wanted})["heart"]
        assert row["status"] == status
        assert row["dice"] == {"ok": 1, "absent": None}.get(status, 0)
        assert row["mse_px2"] is None


def test_masks_of_another_size_are_brought_to_the_side() -> None:
    wanted = anatomy(1)
    large = flags(wanted * 512, ORGANS, shape=(512, 512))
    rows = rows_of(large, wanted)
    del rows["lungs_heart"]
    assert all(row["dice"] > 0.95 for row in rows.values())
    with pytest.raises(ValueError, match="not square"):
        rows_of(large[:500], wanted)
    with pytest.raises(ValueError, match="69 landmarks for contours of 70 nodes"):
        rows_of(wanted[1:], wanted)


def test_an_open_contour_has_an_error_and_no_mask() -> None:
    organs = contours({"heart": 16, "diaphragm": {"nodes": 9, "closed": False}})
    points = np.random.default_rng(0).uniform(0.2, 0.8, (25, 2))
    rows = score_landmarks(points, points + 0.01, contours=organs, side=SIDE)
    assert [row["structure"] for row in rows] == ["heart", "diaphragm"]
    assert rows[1]["dice"] is None
    assert rows[1]["mse_px2"] == pytest.approx((0.01 * SIDE) ** 2)
    assert rows[1]["status"] == "ok"


def test_published_landmarks_score_high_against_the_masks(reference: Path) -> None:
    from skimage.io import imread

    folder = reference / "data/jsrt"
    organs = contours({"right_lung": 44, "left_lung": 50, "heart": 26})
    name = Path((folder / "val.txt").read_text().split()[0]).stem
    points = np.load(folder / f"landmarks/{name}.npy").astype(float)[:120] / 1024
    rows = score_landmarks(points, imread(folder / f"masks/{name}.png"), contours=organs)
    for row in rows[:4]:
        assert row["dice"] > 0.99
        assert row["hd_mm"] < 15
        assert row["assd_mm"] < 1
        assert row["holes"] == row["self_intersections"] == 0
