import numpy as np
import pytest
from PIL import Image

from medseg.geometry.grid import Grid
from medseg.report.overlay import PLANES, _cut, choose, draw

GRID = Grid((12, 10, 8), np.diag([1.0, 1.0, 4.0, 1.0]))


def row(case, dice, status="ok"):
    return {"case": case, "structure": "disc", "status": status, "dice": dice}


def test_best_median_worst_and_every_failure_are_chosen():
    rows = [row(c, d) for c, d in zip("abcde", (0.9, 0.8, 0.7, 0.6, 0.5), strict=True)]
    rows += [row("f", 0.0, "failed"), row("g", 0.3, "missed")]
    found = {entry["case"]: entry["role"] for entry in choose(rows, 12)}
    assert found == {"a": "best", "d": "median", "f": "worst, failed", "g": "missed"}
    assert [entry["case"] for entry in choose(rows, 2)] == ["a", "d"]
    assert choose(rows, 0) == choose([], 5) == []
    assert choose(rows[:1], 5)[0]["role"] == "the only case"


def test_the_patients_right_front_and_head_are_left_and_up():
    volume = np.zeros((3, 4, 5))
    volume[-1, -1, -1] = 1  # right, anterior, superior
    for plane in PLANES:
        cut = _cut(volume, plane, (-1, -1, -1)[plane.fixed])
        assert cut[0, 0] == 1
        assert plane.letters[0] in "RA"
        assert plane.letters[2] in "AS"


@pytest.mark.parametrize("kind", ["both", "no prediction", "no reference", "nothing", "one slice"])
def test_a_picture_is_drawn_whatever_there_is(tmp_path, kind):
    grid = GRID if kind != "one slice" else Grid((12, 10, 1), GRID.affine)
    reference, prediction = np.zeros((2, *grid.shape), dtype=np.uint8)
    if kind not in {"no reference", "nothing"}:
        reference[3:7, 3:7] = 1
    if kind not in {"no prediction", "nothing"}:
        prediction[4:8, 3:7] = 1
    image = np.random.default_rng(0).random(grid.shape)
    draw(
        tmp_path / "x.png", None if kind == "nothing" else image, reference=reference,
        prediction=None if kind == "no prediction" else prediction, grid=grid, title="case",
    )  # fmt: skip
    assert (tmp_path / "x.png").stat().st_size > 2000


def test_complex_scans_show_their_phase_beside_the_magnitude(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.zeros((12, 14, 1), np.int32)
    labels[3:7, 4:9] = 1
    magnitude = rng.gamma(2, 1, labels.shape)
    pictures = []
    for number, turn in enumerate((0.0, 2.0)):
        path = tmp_path / f"{number}.png"
        scan = (magnitude * np.exp(1j * turn)).astype(np.complex64)
        space = Grid(labels.shape, np.eye(4))
        draw(path, scan, reference=labels, prediction=labels, grid=space, title="one")
        with Image.open(path) as picture:
            pictures.append(np.asarray(picture.convert("RGB")).astype(int))
    middle = pictures[0].shape[1] // 2
    differing = (pictures[0] != pictures[1]).any(2)
    assert not differing[:, :middle].any()
    assert differing[:, middle:].mean() > 0.5


def test_by_an_error_the_smallest_is_the_best():
    rows = [{"case": c, "structure": "map", "nrmse": v, "status": "ok"}
            for c, v in (("a", 0.5), ("b", 0.3), ("c", 0.4))]  # fmt: skip
    found = choose(rows, 3, metric="nrmse")
    assert {entry["case"]: entry["role"] for entry in found} == {
        "b": "best", "c": "median", "a": "worst",
    }  # fmt: skip
    assert (found[0]["dice"], found[0]["nrmse"]) == (None, 0.3)
