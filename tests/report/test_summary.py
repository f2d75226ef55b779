import pytest

from medseg.report.summary import summarise

METRICS = ("dice", "distance_mm")


def row(case, structure, dice, status="ok", distance=1.0):
    return {"case": case, "structure": structure, "status": status, "dice": dice,
            "distance_mm": distance}  # fmt: skip


ROWS = [
    row("a", "disc", 0.9), row("a", "cord", 0.5), row("a", "disc_1", 0.8), row("a", "disc_2", 0.6),
    row("b", "disc", 0.0, "failed", 99.0), row("b", "cord", None, "absent", None),
    row("b", "disc_1", 0.0, "failed", 99.0), row("b", "disc_2", None, "absent", None),
]  # fmt: skip


def told(subjects=None):
    return summarise(
        ROWS, METRICS, subjects=subjects or {}, instances={"disc": ["disc_1", "disc_2"]}
    )


def test_failures_count_and_absent_structures_do_not():
    found = told()
    assert found["structures"]["disc"]["metrics"]["dice"]["mean"] == pytest.approx(0.45)
    assert found["structures"]["cord"]["metrics"]["dice"]["mean"] == pytest.approx(0.5)
    assert found["structures"]["cord"]["counts"]["absent"] == 1
    assert found["counts"] == {"ok": 2, "missed": 0, "spurious": 0, "absent": 1, "failed": 1}


def test_means_go_over_cases_of_the_mean_over_a_cases_structures():
    assert told()["mean_dice"] == pytest.approx(((0.9 + 0.5) / 2 + 0.0) / 2)


def test_instances_have_their_own_mean_and_detection_rate():
    found = told()
    assert found["mean_instance_dice"] == pytest.approx((0.7 + 0.0) / 2)
    assert found["detection_rate"]["2"] == pytest.approx(2 / 3)
    assert found["localisation_mm"]["n"] == 3


def test_subjects_are_counted_where_all_are_known():
    assert told()["n_subjects"] is None
    assert told({"a": "p", "b": "p"})["n_subjects"] == 1
    assert told({"a": "p", "b": "p"})["mean_dice_interval"] is None
    assert told({"a": "p", "b": "q"})["mean_dice_interval"] is not None


def test_a_task_without_dice_has_its_own_metrics():
    rows = [{"case": "a", "structure": "heart", "error_mm": 1.5, "status": "ok"}]
    found = summarise(rows, ("error_mm",), subjects={}, instances={})
    assert "mean_dice" not in found
    assert found["structures"]["heart"]["metrics"]["error_mm"]["mean"] == 1.5
