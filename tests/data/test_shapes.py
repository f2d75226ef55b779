from pathlib import Path

import numpy as np
import pytest

from medseg.data.meaning import shapes_of
from medseg.data.pairs import predictions, records_of
from medseg.data.perturbed import count_nodes, read_perturbed
from medseg.data.shapes import aside, mains, unit
from medseg.data.sheet import Record
from medseg.geometry.contour import Contour, rasterise
from medseg.geometry.frame import Frame
from medseg.geometry.grid import Grid

ASKED = {"recipe": {}, "organs": [], "labels": [], "spacing_mm": "", "pixels": False}
POINTS = Record("a", "", "", {}, landmarks=Path("a.npy"))
MASKS = Record("a", "", "", {}, label=Path("a.png"))


def asked(records=(POINTS,), sidecars=None, **changes):
    return shapes_of(records, sidecars or {}, **{**ASKED, **changes})


def test_label_maps_of_volumes_are_no_contours():
    assert asked([MASKS]) is None
    assert asked([MASKS], {"a": {"labels": {"disc": 1}}}) is None
    assert asked([MASKS], recipe={"labels": {"disc": [1]}}) is None


def test_the_reference_or_predict_says_that_it_is_contours():
    organs = {"heart": 8}
    assert asked(recipe={"organs": organs}).reference == (Contour("heart", 8),)
    assert asked([MASKS], organs=["heart=8"]).reference == (Contour("heart", 8),)
    found = asked([MASKS], {"a": {"organs": organs, "task": "landmarks"}})
    assert found.predicted == (Contour("heart", 8),)
    assert found.alike


def test_an_open_contour_is_named_on_the_command_line():
    found = asked(organs=["heart=8,diaphragm=5:open"])
    assert found.reference == (Contour("heart", 8), Contour("diaphragm", 5, closed=False))


def test_organs_that_nothing_names_are_an_error():
    with pytest.raises(ValueError, match="give --organs name=nodes"):
        asked()
    with pytest.raises(ValueError, match="'lungs'; the structures are: heart"):
        asked(organs=["heart=8"], labels=["lungs=1"])


def test_labels_of_a_pixel_network_are_its_sidecars():
    labels = {"lungs": 1, "heart": 2, "spine": 3}
    organs = ["right_lung=8", "left_lung=8", "heart=8"]
    found = asked([MASKS], {"a": {"labels": labels}}, organs=organs)
    assert found.values == {"lungs": 1, "heart": 2}
    assert found.stray == ("spine",)
    assert found.highest == 3
    assert [contour.name for contour in found.scored] == ["right_lung", "left_lung", "heart"]
    assert not found.alike


def test_organs_are_read_off_the_references_files(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Organ;Index;x;y\nheart;0;1;2\nheart;1;2;2\nheart;2;1;3\n")
    assert count_nodes(path) == {"heart": 3}
    found = asked([Record("a", "", "", {}, landmarks=path)])
    assert found.reference == (Contour("heart", 3),)


def test_decimals_of_a_file_do_not_move_a_landmark_to_the_next_pixel():
    frame = Frame.to(Grid((1000, 700, 1), np.eye(4)), 1024)
    whole = np.array([[511.0, 300.0], [17.0, 800.0]])
    stored = np.round(frame.to_pixels(whole / 1024), 4)
    assert np.array_equal((unit(stored, frame) * 1024).astype(int), whole)


def test_what_a_mean_over_a_case_is_taken_of():
    names = ["lungs", "right_lung", "left_lung", "heart", "lungs_heart"]
    assert aside(names) == ["right_lung", "left_lung", "lungs_heart"]
    assert aside(["right_lung", "heart"]) == []
    mask = rasterise(np.array([[1.0, 1], [5, 1], [5, 5]]), (8, 8))
    assert list(mains({"right_lung": mask, "left_lung": mask, "heart": mask})) == ["lungs", "heart"]
    assert list(mains({"right_lung": mask, "spleen": mask})) == ["spleen"]


def test_pictures_of_predict_are_no_predictions(tmp_path):
    for name in ("a.png", "a_overlay.png", "b_overlay.png"):
        (tmp_path / name).write_bytes(b"")
    assert list(predictions(tmp_path)) == ["a", "b_overlay"]


def test_a_folder_of_landmarks_is_a_reference(tmp_path):
    (tmp_path / "a_landmarks.csv").write_text("")
    (tmp_path / "b.png").write_bytes(b"")
    found = {record.case: record for record in records_of(tmp_path)}
    assert found["a"].landmarks == tmp_path / "a_landmarks.csv"
    assert found["a"].label is None
    assert found["b"].label == tmp_path / "b.png"


@pytest.mark.parametrize(
    ("line", "message"),
    [("occlusion,x,0,heart,0,1,2", "are numbers"), ("occlusion,0,0,lung,0,1,2", "no lung 0")],
)
def test_damaged_landmarks_of_disturbed_images_are_told(tmp_path, line, message):
    path = tmp_path / "a_robustness.csv"
    path.write_text(f"kind,level,repeat,organ,index,x,y\n{line}\n")
    with pytest.raises(ValueError, match=message):
        read_perturbed(path, (Contour("heart", 4),))


def test_labels_under_perturbations_are_scored_as_landmarks_are(tmp_path) -> None:
    """The same shapes as a label map in the working square and as points get the same Dice."""
    from medseg.data.perturbed import _from_labels

    labels = np.zeros((2, 64, 64), np.uint8)
    labels[:, 10:30, 20:50] = 1
    labels[1, 40:60, 5:25] = 3
    file = tmp_path / "a_robustness.npz"
    kinds, levels, repeats = np.array(["occlusion"] * 2), np.array([0.0, 32.0]), np.array([0, 4])
    np.savez_compressed(file, kind=kinds, level=levels, repeat=repeats, labels=labels)
    found = list(_from_labels(file, {"lung": 1, "heart": 3}))
    assert [key for key, _ in found] == [("occlusion", 0.0, 0), ("occlusion", 32.0, 4)]
    masks = found[1][1]
    assert masks["lung"].shape == (1024, 1024)
    assert masks["lung"].mean() == (labels[1] == 1).mean()
    assert masks["heart"][40 * 16, 5 * 16]
    assert not found[0][1]["heart"].any()
