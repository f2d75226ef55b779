"""`medseg check` on radiographs: pixels, their size, landmarks, label flags, and how they fit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg.data.annotations import of_flags, overlaps, parse
from medseg.data.landmarks import write_points_csv
from medseg.data.phantoms.chest import Chest
from medseg.geometry import contour
from medseg.stages.check import main

NODES = {"right_lung": 44, "left_lung": 50, "heart": 26}
WORDS = [f"{name}={nodes}" for name, nodes in NODES.items()]
ORGANS = contour.contours(NODES)
SIZE = (80, 64)  # columns, rows


@pytest.fixture(scope="module")
def phantom() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grey values and flags, rows first, and landmarks: no square image."""
    chest = Chest(n_train=1, n_val=0, n_test=0, size=64, organs=NODES, occluded=0.0)
    drawn, _ = chest.draw(chest.records()[0])
    pad = ((0, 0), (8, 8))
    assert drawn.flags is not None
    assert drawn.landmarks is not None
    return (
        np.pad(drawn.pixels.T, pad),
        np.pad(drawn.flags.T, pad),
        drawn.landmarks + np.array([8, 0]),
    )


@pytest.fixture
def raw(tmp_path: Path, phantom: tuple[np.ndarray, ...]) -> Path:
    """Three sound radiographs with label and landmarks."""
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = ["case,subject,image,label,split,landmarks,spacing_mm"]
    pixels, flags, points = phantom
    for number, (name, split) in enumerate((("a", "train"), ("b", "val"), ("c", "test"))):
        Image.fromarray(np.clip(pixels.astype(int) + number, 0, 255).astype(np.uint8)).save(
            folder / f"{name}.png"
        )
        Image.fromarray(flags).save(folder / f"{name}_label.png")
        write_points_csv(folder / f"{name}.csv", points, contours=ORGANS)
        rows.append(f"{name},p{name},{name}.png,{name}_label.png,{split},{name}.csv,0.35")
    (folder / "samples.csv").write_text("\n".join(rows) + "\n")
    return folder


def check(raw: Path, *options: str, organs: list[str] = WORDS) -> tuple[int, dict[str, Any]]:
    out = raw.parent / "out"
    code = main([str(raw), "--channels", "image", "--organs", *organs, "--out", str(out), *options])
    return code, json.loads((out / "check.json").read_text())


def found(content: dict[str, Any]) -> list[tuple[str, str]]:
    return [(problem["case"], problem["check"]) for problem in content["problems"]]


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def points_of(path: Path, points: np.ndarray) -> None:
    write_points_csv(path, points, contours=ORGANS)


def test_sound_radiographs_pass_without_a_note(raw: Path) -> None:
    code, content = check(raw)
    assert code == 0, content["problems"]
    assert (content["problems"], content["notes"]) == ([], [])
    assert content["organs"] == WORDS
    assert content["cases"][0]["shape"] == [*SIZE, 1]
    assert content["cases"][0]["spacing_mm"] == [0.35, 0.35, 1.0]
    assert Path(content["cases"][0]["files"]["landmarks"]).name == "a.csv"


def test_what_is_no_radiograph_is_told(raw: Path, phantom: tuple[np.ndarray, ...]) -> None:
    pages = [Image.fromarray(phantom[0])] * 2
    pages[0].save(raw / "pages.tif", save_all=True, append_images=pages[1:])
    volume = np.random.default_rng(0).normal(size=(8, 7, 6)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), raw / "volume.nii.gz")
    Image.fromarray(np.full(SIZE[::-1], 7, np.uint8)).save(raw / "constant.png")
    Image.fromarray(phantom[1]).save(raw / "mask.png")
    (raw / "empty.png").write_bytes(b"")
    (raw / "cut.png").write_bytes((raw / "a.png").read_bytes()[:300])
    (raw / "text.png").write_text("no image")
    names = ["pages.tif", "volume.nii.gz", "constant.png", "mask.png"]
    names += ["empty.png", "cut.png", "text.png", "none.png"]
    rows = [f"{name.partition('.')[0]},,{name},,," for name in names]
    (raw / "samples.csv").write_text("\n".join(["case,subject,image,label,split", *rows]) + "\n")
    code, content = check(raw)
    assert code == 1
    assert found(content) == [
        ("pages", "unreadable"),
        ("volume", "not a radiograph"),
        ("constant", "constant"),
        ("mask", "not a radiograph"),
        ("empty", "unreadable"),
        ("cut", "unreadable"),
        ("text", "unreadable"),
        ("none", "missing file"),
    ]
    rows = {problem["case"]: problem for problem in content["problems"]}
    assert "2 pages" in rows["pages"]["found"]
    assert "a volume of 8x7x6 voxels" in rows["volume"]["found"]
    assert "grey values" in rows["mask"]["found"]
    assert all(problem["cure"] for problem in content["problems"])


def test_a_file_of_landmarks_is_read_to_the_end(raw: Path) -> None:
    (raw / "a.csv").unlink()
    edit(raw / "b.csv", "heart,0,", "hart,0,")
    lines = (raw / "c.csv").read_text().splitlines()
    (raw / "c.csv").write_text("\n".join(lines[:-1]) + "\n")
    code, content = check(raw)
    assert code == 1
    assert found(content) == [("a", "missing file"), ("b", "landmarks"), ("c", "landmarks")]
    told = [problem["found"] + problem["cure"] for problem in content["problems"]]
    assert "landmarks: no " in told[0]
    assert "did you mean 'heart'?" in told[1]
    assert "heart lacks 1 of its 26 nodes" in told[2]
    np.save(raw / "b.npy", np.zeros((119, 2)))
    (raw / "c.csv").write_bytes(b"\x00\x01")
    edit(raw / "samples.csv", "b.csv", "b.npy")
    told = [problem["found"] for problem in check(raw)[1]["problems"]]
    assert "the shape (119, 2)" in told[1]
    assert "is no UTF-8 text" in told[2]


def test_points_of_another_size_or_case_are_told(
    raw: Path, phantom: tuple[np.ndarray, ...]
) -> None:
    _, _, points = phantom
    points_of(raw / "a.csv", 2 * points)
    points_of(raw / "b.csv", points / 2)
    points_of(raw / "c.csv", points + np.array([0.5, -0.5]))
    code, content = check(raw)
    assert code == 1
    assert found(content) == [("a", "landmarks"), ("a", "landmarks"), ("b", "landmarks")]
    told = [problem["found"] for problem in content["problems"]]
    assert "lie outside the image of 80 x 64 pixels" in told[0]
    assert "Dice of landmarks and label: right_lung 0." in told[2]
    edit(raw / "samples.csv", "a_label.png", "")
    assert found(check(raw)[1]) == [("a", "landmarks"), ("b", "landmarks")]


def test_the_overlap_is_that_of_the_drawn_contour(phantom: tuple[np.ndarray, ...]) -> None:
    _, flags, points = phantom
    drawn = contour.flags(points, ORGANS, shape=flags.shape)
    assert [dice for _, dice in overlaps(points, drawn.T, organs=ORGANS)] == [1.0] * 3
    without = drawn & 3
    assert [name for name, _ in overlaps(points, without.T, organs=ORGANS)] == list(NODES)[:2]
    points = points.copy()
    points[0] = np.nan
    assert [name for name, _ in overlaps(points, drawn.T, organs=ORGANS)] == list(NODES)[1:]


def test_labels_are_bit_flags_on_the_images_pixels(
    raw: Path, phantom: tuple[np.ndarray, ...]
) -> None:
    _, flags, _ = phantom
    Image.fromarray(flags | (flags & 4) << 1).save(raw / "a_label.png")
    Image.fromarray(np.repeat(flags, 2, axis=0)).save(raw / "b_label.png")
    Image.fromarray(np.zeros_like(flags)).save(raw / "c_label.png")
    code, content = check(raw)
    assert code == 1
    assert found(content) == [("a", "label values"), ("b", "size"), ("c", "empty label")]
    rows = {problem["case"]: problem for problem in content["problems"]}
    assert rows["a"]["expected"] == "sums of 1 right_lung, 2 left_lung, 4 heart"
    assert rows["b"]["found"] == "label: 80 x 128 pixels"
    assert rows["b"]["expected"] == "80 x 64 as image"
    Image.fromarray(flags).convert("RGB").save(raw / "c_label.jpg")
    edit(raw / "samples.csv", "c_label.png", "c_label.jpg")
    assert ("c", "unreadable") in found(check(raw)[1])


def test_a_palettes_indices_are_the_flags(raw: Path, phantom: tuple[np.ndarray, ...]) -> None:
    label = Image.fromarray(phantom[1])
    label.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0] + [9, 200, 70] * 200)
    assert label.mode == "P"
    label.save(raw / "a_label.png")
    assert check(raw)[1]["problems"] == []


def test_class_numbers_in_place_of_flags_are_noted(phantom: tuple[np.ndarray, ...]) -> None:
    _, flags, _ = phantom
    classes = np.select([flags & 4 > 0, flags & 2 > 0, flags & 1 > 0], [3, 2, 1])
    wrong, told = of_flags("a", classes[..., None], organs=ORGANS)
    assert wrong == []
    assert "looks like class numbers" in told[0]
    assert of_flags("a", flags[..., None], organs=ORGANS) == ([], [])


def test_the_cell_of_the_pixels_size_is_a_length(raw: Path) -> None:
    edit(raw / "samples.csv", "a.csv,0.35", "a.csv,0.35 mm")
    edit(raw / "samples.csv", "b.csv,0.35", 'b.csv,"0,35"')
    edit(raw / "samples.csv", "c.csv,0.35", 'c.csv,"1,35"')
    code, content = check(raw)
    assert code == 1
    assert found(content) == [("a", "spacing_mm"), ("b", "spacing_mm")]
    assert content["problems"][0]["found"] == "'0.35 mm'"
    assert "1 mm wide and 35 mm high" in content["notes"][0]
    edit(raw / "samples.csv", ",0.35 mm", ",nan")
    assert found(check(raw)[1])[0] == ("a", "spacing_mm")


def test_crossing_contours_and_exchanged_sides_are_notes(
    raw: Path, phantom: tuple[np.ndarray, ...]
) -> None:
    _, _, points = phantom
    crossed = points.copy()
    crossed[[100, 110]] = points[[110, 100]]
    points_of(raw / "a.csv", crossed)
    points_of(raw / "b.csv", np.array([SIZE[0], 0]) + points * [-1, 1])
    (raw / "b_label.png").unlink()
    edit(raw / "samples.csv", "b_label.png", "")
    code, content = check(raw)
    assert code == 0, content["problems"]
    assert "a: the contour of heart crosses itself" in content["notes"][0]
    assert "b: right_lung lies to the right of left_lung" in content["notes"][1]


def test_one_annotation_is_enough_and_none_is_a_note_where_nothing_is_learnt(raw: Path) -> None:
    edit(raw / "samples.csv", "a_label.png", "")
    edit(raw / "samples.csv", "b.csv", "")
    edit(raw / "samples.csv", "c_label.png,test,c.csv", ",test,")
    code, content = check(raw)
    assert code == 0, content["problems"]
    assert "neither landmarks nor a label: c (1 of 3 cases)" in content["notes"][0]
    edit(raw / "samples.csv", ",train,a.csv", ",train,")
    code, content = check(raw)
    assert found(content) == [("a", "missing label")]


def test_organs_that_some_cases_lack_are_no_problem(
    raw: Path, phantom: tuple[np.ndarray, ...]
) -> None:
    _, flags, points = phantom
    partial = points.copy()
    partial[94:] = np.nan
    points_of(raw / "a.csv", partial)
    Image.fromarray(flags & 3).save(raw / "b_label.png")
    assert check(raw)[1]["problems"] == []


def test_a_folder_without_a_sheet_is_checked_as_images(raw: Path) -> None:
    for path in raw.iterdir():
        if path.name not in {"a.png", "b.png"}:
            path.unlink()
    code, content = check(raw)
    assert code == 0, content["problems"]
    assert [case["case"] for case in content["cases"]] == ["a", "b"]
    assert content["notes"] == [
        "neither landmarks nor a label: a, b (2 of 2 cases); they can be predicted, but neither "
        "learnt from nor scored"
    ]
    (raw / "b.png").write_bytes((raw / "a.png").read_bytes()[:200])
    assert found(check(raw)[1]) == [("b", "unreadable")]


def test_without_organs_a_label_beside_an_image_of_known_size_fits(raw: Path) -> None:
    """Classes on the image's own pixels, though the label file knows no millimetres."""
    out = raw.parent / "out"
    words = ["--channels", "image", "--labels", "lung=1,2,3", "heart=4,5,6,7", "--out", str(out)]
    assert main([str(raw), *words]) == 0
    (raw / "a.csv").unlink()
    assert main([str(raw), *words]) == 1


def test_organs_are_words() -> None:
    found = parse(["heart=26", "left diaphragm=20:open", "a=b=7:closed"])
    assert [(o.name, o.nodes, o.closed) for o in found] == [
        ("heart", 26, True),
        ("left diaphragm", 20, False),
        ("a=b", 7, True),
    ]
    assert parse([]) == ()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["heart"], "'heart' is no organ; write name=nodes"),
        (["heart=-3"], "is no organ"),
        (["heart=2"], "needs at least 3"),
        (["heart=26", "heart=26"], "named twice"),
        (["heart=26", "--labels", "heart=1"], "--labels and --organs"),
    ],
)
def test_wrong_words_are_one_clear_line(words: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        main(["nowhere", "--organs", *words])


def test_an_open_contour_is_no_area(raw: Path) -> None:
    lines = (raw / "a.csv").read_text()
    rim = [f"rim,{k},{10 + k},{60 - k}" for k in range(5)]
    (raw / "a.csv").write_text(lines + "\n".join(rim) + "\n")
    assert check(raw, organs=[*WORDS, "rim=5:open"])[1]["problems"] == []
    assert found(check(raw)[1]) == [("a", "landmarks")]


def test_the_workflows_words_are_understood(raw: Path) -> None:
    """As the rule spells an organ of a recipe, be it a number or a mapping."""
    text = (Path(__file__).parents[2] / "pipelines/rules/study.smk").read_text()
    begin = text.index("def spelled(")
    namespace: dict[str, Any] = {}
    exec(text[begin : text.index("class Recipes")], namespace)  # noqa: S102
    organs = {"heart": 26, "rim": {"nodes": 5, "closed": False}, "lung": {"nodes": 9}}
    spelled = [namespace["spelled"](name, organ) for name, organ in organs.items()]
    assert parse(spelled) == contour.contours(organs)
    words = ["check", "samples.csv", "--out", "out", "--channels", "image", "--organs"]
    done = subprocess.run(
        [sys.executable, "-m", "medseg.cli", *words, *WORDS],
        cwd=raw,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "3 cases, 0 problems" in done.stdout
