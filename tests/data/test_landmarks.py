from pathlib import Path

import numpy as np
import pytest

from medseg.data.landmarks import inside, points_text, read_points, write_points_csv
from medseg.geometry.contour import Contour

ORGANS = (Contour("lung", 4), Contour("heart", 3), Contour("diaphragm", 2, closed=False))
POINTS = np.random.default_rng(0).uniform(0, 900, (9, 2)).round(4)


def part(*organs: str) -> np.ndarray:
    """The points, with all organs but these not annotated."""
    names = np.repeat([c.name for c in ORGANS], [c.nodes for c in ORGANS])
    return np.where(np.isin(names, organs)[:, None], POINTS, np.nan)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["organ,index,x,y", *lines]) + "\n")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the text is the caller's
        read_points(path, ORGANS)
    assert str(path) in str(caught.value)
    return str(caught.value)


HEART = ("heart,0,1,2", "heart,1,3,4", "heart,2,5,6.5")


@pytest.mark.parametrize("points", [POINTS, part("heart"), part("lung", "diaphragm")])
def test_points_come_back_as_written(tmp_path, points):
    write_points_csv(tmp_path / "a.csv", points, contours=ORGANS)
    found = read_points(tmp_path / "a.csv", ORGANS)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, points)
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_an_organ_that_is_not_annotated_has_no_line_and_a_lone_node_has_empty_cells(tmp_path):
    points = part("heart")
    points[5] = np.nan
    text = points_text(points, ORGANS, extra={"sd_x": np.arange(9) / 8})
    lines = text.splitlines()
    assert lines[0] == "organ,index,x,y,sd_x"
    assert [line.split(",")[:2] for line in lines[1:]] == [["heart", str(i)] for i in range(3)]
    assert lines[2] == "heart,1,,,0.6250"
    (tmp_path / "a.csv").write_text(text)
    np.testing.assert_array_equal(read_points(tmp_path / "a.csv", ORGANS), points)


def test_lines_and_columns_stand_in_any_order(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\ufeffy; X ;note;Organ;index\n\n6.5;5;n;heart;2\n2;1;;heart;0\n4;3;;heart;1\n")
    found = read_points(path, ORGANS)
    assert found[4:7].tolist() == [[1, 2], [3, 4], [5, 6.5]]
    assert np.isnan(found[[0, 1, 2, 3, 7, 8]]).all()


def test_indices_may_begin_with_one_if_all_do(tmp_path):
    path = write(tmp_path / "a.csv", "heart,3,5,6.5", "heart,1,1,2", "heart,2,3,4")
    assert read_points(path, ORGANS)[4:7].tolist() == [[1, 2], [3, 4], [5, 6.5]]
    path = write(tmp_path / "b.csv", *HEART, "diaphragm,1,1,1", "diaphragm,2,2,2")
    assert "diaphragm has 2 nodes, so its indices are 0 to 1, not 2" in refusal(path)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int16])
@pytest.mark.parametrize("shape", [(9, 2), (18,)])
def test_arrays_hold_all_nodes_in_order(tmp_path, kind, shape):
    values = POINTS.astype(kind)
    np.save(tmp_path / "a.npy", values.reshape(shape))
    assert (read_points(tmp_path / "a.npy", ORGANS) == values).all()


def test_arrays_leave_out_by_nan(tmp_path):
    np.save(tmp_path / "a.npy", part("lung"))
    np.testing.assert_array_equal(read_points(tmp_path / "a.npy", ORGANS), part("lung"))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (POINTS[:8], "shape (8, 2), and the organs (lung 4, heart 3, diaphragm 2) have 9 nodes"),
        (POINTS.T, "wanted: (9, 2) or (18,)"),
        (POINTS + 1j, "no array of real numbers"),
        (np.full((9, 2), np.nan), "annotates no node"),
        (np.where(np.arange(18).reshape(9, 2) == 9, np.nan, POINTS), "heart 0 is ("),
        (np.where(np.arange(18).reshape(9, 2) == 9, np.inf, POINTS), "heart 0 is ("),
    ],
)
def test_arrays_of_something_else_are_refused(tmp_path, array, words):
    np.save(tmp_path / "a.npy", array)
    assert words in refusal(tmp_path / "a.npy")


def test_an_array_that_would_run_code_or_is_damaged_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "no array file, or damaged" in refusal(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", POINTS)
    content = (tmp_path / "b.npy").read_bytes()
    for kept in (0, 5, 60, len(content) - 8):
        (tmp_path / "b.npy").write_bytes(content[:kept])
        refusal(tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("hart,0,1,2",), "line 2: no organ of the recipe is called 'hart'; did you mean 'heart'?"),
        (("spine,0,1,2",), "known are lung, heart, diaphragm"),
        (HEART[:2], "heart lacks 1 of its 3 nodes (index 2 first)"),
        ((*HEART, "heart,1,7,8"), "lines 3 and 5 are both heart 1"),
        ((*HEART, "heart,3,7,8"), "heart has 3 nodes, so its indices are 0 to 2, not 3"),
        ((*HEART[:2], "heart,two,5,6"), "line 4: index is 'two'"),
        ((*HEART[:2], "heart,-1,5,6"), "line 4: index is '-1'"),
        ((*HEART[:2], "heart,2,five,6"), "line 4: x is 'five'"),
        ((*HEART[:2], "heart,2,5"), "heart 2 is (5, nan); give both"),
        ((*HEART[:2], "heart,2,inf,6"), "heart 2 is (inf, 6)"),
        (("heart,0,,", "heart,1,,", "heart,2,,"), "annotates no node"),
        ((), "holds a header and no landmark"),
    ],
)
def test_a_sheet_that_does_not_fit_the_recipe_is_refused(tmp_path, lines, words):
    assert words in refusal(write(tmp_path / "a.csv", *lines))


def test_files_of_another_kind_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("organ,x,y\nheart,1,2\n")
    assert "has no column index" in refusal(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    assert "no UTF-8 text" in refusal(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text("")
    assert "has no column organ" in refusal(tmp_path / "c.csv")
    (tmp_path / "a.txt").write_text("1 2\n")
    assert "no file of landmarks" in refusal(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match=r"missing\.csv"):
        read_points(tmp_path / "missing.csv", ORGANS)


def test_landmarks_outside_the_image_are_named():
    points = part("lung", "heart")
    inside(points, ORGANS, size=(900, 900))
    points[5] = (901.0, -1.0)
    inside(points, ORGANS, size=(900, 900))
    points[5] = (950, 20)
    with pytest.raises(ValueError, match=r"1 of 9 landmarks lie outside .* heart 1 at \(950, 20\)"):
        inside(points, ORGANS, size=(900, 900))


def test_published_landmarks_are_read(reference):
    organs = (Contour("right_lung", 44), Contour("left_lung", 50), Contour("heart", 26),
              Contour("right_clavicle", 23), Contour("left_clavicle", 23))  # fmt: skip
    path = sorted((reference / "data/jsrt/landmarks").iterdir())[0]
    points = read_points(path, organs)
    assert points.shape == (166, 2)
    inside(points, organs, size=(1024, 1024))
    assert points[:44, 0].mean() < 512 < points[44:94, 0].mean()
