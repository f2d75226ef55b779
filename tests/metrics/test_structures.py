import numpy as np
import pytest

from medseg.geometry.grid import Grid
from medseg.metrics.structures import METRICS, Structure, score_case

GRID = Grid((30, 30, 60), np.diag([1.0, 1.0, 2.0, 1.0]))
DIAGONAL = GRID.diagonal_mm


def box(start, size=6, value=1):
    labels = np.zeros(GRID.shape, dtype=np.uint8)
    labels[10 : 10 + size, 10 : 10 + size, start : start + size] = value
    return labels


def score(prediction, reference, *structures):
    rows = score_case(prediction, reference, grid=GRID, structures=structures)
    return {row["structure"]: row for row in rows}


CORD = Structure("cord", (1,), (1,))
DISC = Structure("disc", (1,), (1, 2, 3), instances=True)
NOTHING = np.zeros(GRID.shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("prediction", "reference", "status", "volume", "error"),
    [
        (NOTHING, box(4), "missed", 0.0, -0.432),
        (box(4), NOTHING, "spurious", 0.432, 0.432),
        (None, box(4), "failed", 0.0, -0.432),
        (None, NOTHING, "failed", 0.0, 0.0),
    ],
)
def test_what_is_missed_or_invented_has_the_worst_scores(
    prediction, reference, status, volume, error
):
    row = score(prediction, reference, CORD)["cord"]
    assert row["status"] == status
    assert (row["dice"], row["iou"], row["nsd"]) == (0, 0, 0)
    assert row["hd95_mm"] == row["assd_mm"] == row["distance_mm"] == DIAGONAL
    assert row["volume_ml"] == pytest.approx(volume)
    assert row["volume_error_ml"] == pytest.approx(error)


def test_what_is_in_neither_has_no_scores():
    row = score(NOTHING, NOTHING, CORD)["cord"]
    assert row["status"] == "absent"
    assert all(row[metric] is None for metric in METRICS)


def test_a_perfect_prediction_is_ok():
    row = score(box(4), box(4), CORD)["cord"]
    assert row["status"] == "ok"
    assert (row["dice"], row["iou"], row["nsd"]) == (1, 1, 1)
    assert (row["hd95_mm"], row["assd_mm"], row["distance_mm"], row["volume_error_ml"]) == (0,) * 4


def test_two_structures_far_apart_are_both_ok_with_a_dice_of_nothing():
    row = score(box(4), box(40), CORD)["cord"]
    assert row["status"] == "ok"
    assert row["dice"] == row["nsd"] == 0
    assert row["distance_mm"] == pytest.approx(72.0)
    assert row["hd95_mm"] < DIAGONAL


def test_values_are_mapped_on_either_side():
    structure = Structure("cord", (3,), (7, 255))
    reference = box(4, value=7) + box(20, value=255)
    row = score(box(4, value=3) + box(20, value=3), reference, structure)["cord"]
    assert row["dice"] == 1


def test_a_binary_prediction_is_shared_out_among_the_reference_instances():
    reference = box(4, value=1) + box(24, value=2) + box(44, value=3)
    prediction = np.roll((reference > 0).astype(np.uint8), 1, axis=0)
    prediction[:, :, 40:] = 0
    rows = score(prediction, reference, DISC)
    assert [*rows] == ["disc", "disc_1", "disc_2", "disc_3"]
    assert rows["disc_1"]["distance_mm"] == rows["disc_2"]["distance_mm"] == pytest.approx(1.0)
    assert rows["disc_1"]["dice"] == pytest.approx(5 / 6)
    assert rows["disc_3"]["status"] == "missed"
    assert rows["disc_3"]["distance_mm"] == DIAGONAL


def test_an_instance_that_is_barely_touched_is_missed():
    reference = box(4, size=20, value=1) + box(40, value=2)
    prediction = (reference == 2).astype(np.uint8)
    prediction[10, 10, 4] = 1  # one voxel of 8000: a Dice of 0.025 %
    rows = score(prediction, reference, DISC)
    assert rows["disc_1"]["status"] == "missed"
    assert rows["disc_1"]["dice"] == 0
    assert rows["disc_2"]["status"] == "ok"
    assert rows["disc_3"]["status"] == "absent"


def test_a_prediction_with_the_references_values_is_compared_value_by_value():
    named = Structure("disc", (1, 2), (1, 2), instances=True)
    reference = box(4, value=1) + box(24, value=2)
    swapped = box(4, value=2) + box(24, value=1)
    rows = score(swapped, reference, named)
    assert rows["disc"]["dice"] == 1
    assert rows["disc_1"]["status"] == rows["disc_2"]["status"] == "missed"


def test_without_a_prediction_each_instance_of_the_reference_fails():
    rows = score(None, box(4, value=1) + box(24, value=2), DISC)
    assert [row["status"] for row in rows.values()] == ["failed", "failed", "failed", "absent"]


def test_the_pieces_of_a_binary_reference_are_its_instances_from_the_lowest_up():
    reference = (box(44) + box(4) + box(24)) * 255
    prediction = (reference > 0).astype(np.uint8)
    prediction[:, :, :14] = 0
    rows = score(prediction, reference, Structure("disc", (1,), (1, 255), instances=True))
    assert [row["status"] for row in rows.values()] == ["ok", "missed", "ok", "ok"]
    assert [*rows] == ["disc", "disc_1", "disc_2", "disc_3"]


def test_large_label_values_are_found_too():
    reference = box(4).astype(np.int32) * 70001
    row = score(box(4), reference, Structure("rare", (1,), (70001,)))["rare"]
    assert row["dice"] == 1
