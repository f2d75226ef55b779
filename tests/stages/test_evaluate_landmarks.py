import csv
import json

import numpy as np
import pytest
from PIL import Image
from scored import summary, table

from medseg.cli import main
from medseg.data.landmarks import write_points_csv
from medseg.geometry.contour import contours, flags, slices

ORGANS = {"right_lung": 12, "left_lung": 12, "heart": 8}
SIZE = (96, 64)  # columns, rows
HEADER = (
    "case,structure,dice,hd_mm,assd_mm,mse_px2,error_mm,components,holes,self_intersections,status"
)
NAMES = ["lungs", "right_lung", "left_lung", "heart", "lungs_heart"]


def ring(count, centre, radii):
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([centre[0] + radii[0] * np.cos(angle), centre[1] + radii[1] * np.sin(angle)], 1)


def body(shift=(0.0, 0.0)):
    parts = [ring(12, (30, 30), (12, 22)), ring(12, (66, 30), (12, 22)), ring(8, (50, 44), (11, 9))]
    return np.concatenate(parts) + np.array(shift)


def image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)


def labels(points, organs=ORGANS):
    return flags(points, contours(organs), shape=SIZE[::-1])


def sidecar(folder, case, **changes):
    content = {
        "case": case,
        "status": "ok",
        "task": "landmarks",
        "organs": ORGANS,
        "encoding": "flags",
        "labels": {name: 1 << k for k, name in enumerate(ORGANS)},
        "quality": {"score": 0.5, "accepted": True, "reasons": []},
        "grid": {"shape": [*SIZE, 1], "affine": np.eye(4).tolist()},
        "model": {"path": "model", "sha256": ["abc"]},
        **changes,
    }
    (folder / f"{case}.json").write_text(json.dumps(content))


def predict(folder, case, shift, **changes):
    """What the landmarks task writes."""
    folder.mkdir(exist_ok=True)
    write_points_csv(folder / f"{case}_landmarks.csv", body(shift), contours=contours(ORGANS))
    image(folder / f"{case}.png", labels(body(shift)))
    image(folder / f"{case}_overlay.png", labels(body(shift)))
    sidecar(folder, case, **changes)


def segment(folder, case, shift, names=("right_lung", "left_lung", "heart")):
    """What a pixel network writes: classes, the heart over the lungs."""
    found = labels(body(shift))
    classes = np.zeros_like(found)
    for number in range(3):
        classes[found >> number & 1 == 1] = number + 1
    image(folder / f"{case}.png", classes)
    side = {"task": "segment", "organs": None, "encoding": None, "quality": None}
    sidecar(folder, case, **side, labels={name: n for n, name in enumerate(names, start=1)})


@pytest.fixture
def study(tmp_path):
    """A sheet of three cases with landmarks and spacing, and predictions one pixel off."""
    rows = ["case,subject,image,label,split,landmarks,spacing_mm"]
    for n, case in enumerate("abc"):
        image(tmp_path / f"{case}.png", np.full(SIZE[::-1], 90, np.uint8))
        image(tmp_path / f"{case}_label.png", labels(body()))
        write_points_csv(tmp_path / f"{case}_points.csv", body(), contours=contours(ORGANS))
        split = "train" if case == "c" else "test"
        rows.append(f"{case},p{n},{case}.png,{case}_label.png,{split},{case}_points.csv,2")
        predict(tmp_path / "predictions", case, (n, 0))
    (tmp_path / "samples.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def evaluate(folder, *options, predictions="predictions", reference="samples.csv", out="out"):
    pictures = [] if "--pictures" in options else ["--pictures", "0"]
    return main(
        ["evaluate", "--in", str(folder / predictions), "--reference", str(folder / reference),
         "--out", str(folder / out), *options, *pictures]
    )  # fmt: skip


def test_landmarks_are_scored_in_the_square_at_1024(study):
    assert evaluate(study, "--split", "test") == 0
    text = (study / "out/scores.csv").read_text().splitlines()
    assert text[0] == HEADER
    rows = table(study / "out/scores.csv")
    assert [key[1] for key in rows][:5] == NAMES
    assert float(rows["a", "lungs"]["dice"]) == 1
    # One pixel of 96 across, 2 mm: at 1024 it is 10.67 px in x and nothing in y.
    assert float(rows["b", "lungs_heart"]["mse_px2"]) == pytest.approx((1024 / 96) ** 2 / 2, 1e-3)
    assert float(rows["b", "heart"]["error_mm"]) == pytest.approx(2.0, 1e-3)
    assert float(rows["b", "lungs"]["hd_mm"]) == pytest.approx(2.0, abs=0.4)
    assert rows["b", "heart"]["self_intersections"] == "0"


def test_the_mean_counts_a_pair_once_and_the_summary_tells_plausibility(study):
    evaluate(study, "--split", "test")
    told, rows = summary(study), table(study / "out/scores.csv")
    b = [float(rows["b", name]["dice"]) for name in ("lungs", "heart")]
    assert told["mean_dice"] == pytest.approx((1 + sum(b) / 2) / 2, abs=1e-5)
    assert told["aside"] == ["right_lung", "left_lung", "lungs_heart"]
    assert told["plausibility"]["text"] == (
        "2/2 cases: every organ one piece, no hole, no crossing"
    )
    assert told["warnings"] == []
    assert "1024" in told["definitions"]["mse_px2"]
    assert told["organs"]["heart"] == {"nodes": 8, "closed": True}


def test_a_pixel_network_stands_in_the_same_columns(study):
    for n, case in enumerate("abc"):
        segment(study / "unet", case, (n, 0))
    assert evaluate(study, "--split", "test", predictions="unet") == 0
    assert (study / "out/scores.csv").read_text().splitlines()[0] == HEADER
    rows = table(study / "out/scores.csv")
    assert [key[1] for key in rows][:4] == NAMES[:4]
    assert float(rows["a", "heart"]["dice"]) > 0.93
    assert float(rows["a", "left_lung"]["dice"]) < float(rows["a", "right_lung"]["dice"])
    assert rows["a", "lungs"]["mse_px2"] == rows["a", "lungs"]["self_intersections"] == ""


def test_a_failed_case_of_a_pixel_network_has_no_landmark_error(study):
    segment(study / "unet", "a", (0, 0))
    assert evaluate(study, "--split", "test", predictions="unet") == 1
    rows = table(study / "out/scores.csv")
    assert rows["b", "heart"]["status"] == "failed"
    assert rows["b", "heart"]["mse_px2"] == ""
    assert summary(study)["plausibility"]["without_prediction"] == 1


def test_a_class_for_both_lungs_is_scored_as_the_pair(study):
    both = labels(body())
    classes = np.where(both & 3, 1, 0).astype(np.uint8)
    classes[both & 4 == 4] = 2
    for case in "ab":
        image(study / f"unet/{case}.png", classes)
        sidecar(study / "unet", case, organs=None, encoding=None, task="segment",
                labels={"lungs": 1, "heart": 2})  # fmt: skip
    assert evaluate(study, "--split", "test", predictions="unet") == 0
    assert [key[1] for key in table(study / "out/scores.csv")][:2] == ["lungs", "heart"]


def test_label_maps_without_a_sidecar_are_numbered_in_the_organs_order(study):
    segment(study / "unet", "a", (0, 0))
    segment(study / "unet", "b", (0, 0))
    for path in (study / "unet").glob("*.json"):
        path.unlink()
    assert evaluate(study, "--split", "test", predictions="unet") == 0
    assert float(table(study / "out/scores.csv")["b", "heart"]["dice"]) > 0.93
    image(study / "unet/b.png", np.full(SIZE[::-1], 9, np.uint8))
    assert evaluate(study, "--split", "test", predictions="unet") == 1
    assert "holds the value 9, which names no organ" in summary(study)["failures"][0]["reason"]


def test_flags_alone_are_a_reference_and_an_unset_organ_is_absent(study):
    bare = labels(body())
    image(study / "b_label.png", bare & 3)
    rows = ["case,image,label", *(f"{c},{c}.png,{c}_label.png" for c in "ab")]
    (study / "masks.csv").write_text("\n".join(rows) + "\n")
    assert evaluate(study, reference="masks.csv") == 0
    rows = table(study / "out/scores.csv")
    assert float(rows["a", "lungs"]["dice"]) > 0.93
    assert rows["a", "lungs"]["mse_px2"] == ""
    assert rows["b", "heart"]["status"] == "absent"
    assert rows["b", "lungs"]["status"] == "ok"
    assert "pixel is unknown (cases a, b)" in str(summary(study)["warnings"])
    in_pixels = float(rows["a", "lungs"]["hd_mm"])
    assert evaluate(study, "--spacing-mm", "2", reference="masks.csv") == 0
    assert "pixel is unknown" not in str(summary(study)["warnings"])
    scale = 96 * 2 / 1024
    found = float(table(study / "out/scores.csv")["a", "lungs"]["hd_mm"])
    assert found == pytest.approx(in_pixels * scale, 1e-4)


def test_organs_without_landmarks_are_absent_for_that_case(study):
    points = body()
    points[slices(contours(ORGANS))["heart"]] = np.nan
    write_points_csv(study / "b_points.csv", points, contours=contours(ORGANS))
    text = (study / "samples.csv").read_text().replace("b_label.png", "")
    (study / "samples.csv").write_text(text)
    assert evaluate(study, "--split", "test") == 0
    rows = table(study / "out/scores.csv")
    assert rows["b", "heart"]["status"] == rows["b", "lungs_heart"]["status"] == "absent"
    assert rows["b", "lungs"]["status"] == "ok"


def test_a_mask_takes_the_place_of_landmarks_that_are_not_there(study):
    points = body()
    points[slices(contours(ORGANS))["heart"]] = np.nan
    write_points_csv(study / "a_points.csv", points, contours=contours(ORGANS))
    assert evaluate(study, "--split", "test") == 0
    row = table(study / "out/scores.csv")["a", "heart"]
    assert float(row["dice"]) > 0.9
    assert row["mse_px2"] == ""


def test_a_model_of_other_nodes_is_scored_by_its_masks(study):
    organs = {"right_lung": 12, "left_lung": 12, "heart": 16}
    parts = [
        ring(12, (30, 30), (12, 22)),
        ring(12, (66, 30), (12, 22)),
        ring(16, (50, 44), (11, 9)),
    ]
    for case in "ab":
        path = study / f"predictions/{case}_landmarks.csv"
        write_points_csv(path, np.concatenate(parts), contours=contours(organs))
        sidecar(study / "predictions", case, organs=organs)
    assert evaluate(study, "--split", "test", "--pictures", "1") == 0
    row = table(study / "out/scores.csv")["a", "heart"]
    assert float(row["dice"]) > 0.9
    assert row["mse_px2"] == ""
    assert row["self_intersections"] == "0"
    assert len(list((study / "out/pictures").iterdir())) == 1


def test_landmarks_learnt_from_masks_have_no_numbers_to_compare(study):
    for case in "ab":
        sidecar(study / "predictions", case, learn="masks")
    assert evaluate(study, "--split", "test") == 0
    row = table(study / "out/scores.csv")["b", "lungs"]
    assert row["mse_px2"] == ""
    assert 0.9 < float(row["dice"]) < 1


def test_the_reference_may_hold_more_organs_than_the_model(study):
    more = {**ORGANS, "right_clavicle": 6}
    points = np.concatenate([body(), ring(6, (25, 12), (8, 2))])
    for case in "ab":
        np.save(study / f"{case}.npy", points)
    text = (study / "samples.csv").read_text().replace("_points.csv", ".npy")
    (study / "samples.csv").write_text(text)
    (study / "prepared.json").write_text(json.dumps({"organs": more}))
    assert evaluate(study, "--split", "test") == 0
    rows = table(study / "out/scores.csv")
    assert {key[1] for key in rows} == {*NAMES}
    assert float(rows["a", "lungs_heart"]["mse_px2"]) < 1e-5
    (study / "prepared.json").unlink()
    words = ",".join(f"{name}={count}" for name, count in more.items())
    assert evaluate(study, "--split", "test", "--organs", words) == 0
    assert float(table(study / "out/scores.csv")["a", "lungs"]["dice"]) == 1


@pytest.mark.parametrize("kind", ["gone", "damaged", "size", "incomplete"])
def test_a_prediction_that_cannot_be_used_counts_as_missed(study, kind, capsys):
    folder = study / "predictions"
    if kind == "gone":
        for path in folder.glob("b*"):
            path.unlink()
    elif kind == "damaged":
        (folder / "b_landmarks.csv").write_text("organ,index,x,y\nheart,0,a,b\n")
    elif kind == "size":
        grid = {"shape": [48, 32, 1], "affine": np.eye(4).tolist()}
        sidecar(folder, "b", grid=grid)
    else:
        sidecar(folder, "b", status="incomplete")
    assert evaluate(study, "--split", "test") == 1
    rows = table(study / "out/scores.csv")
    assert {rows["b", name]["status"] for name in NAMES} == {"failed"}
    assert float(rows["b", "lungs"]["dice"]) == 0
    assert float(rows["b", "lungs"]["hd_mm"]) == pytest.approx(96 * 2 * 2**0.5, 1e-4)
    assert float(rows["b", "lungs_heart"]["mse_px2"]) == pytest.approx(1024**2, 1e-4)
    said = {
        "gone": "no prediction of this name",
        "damaged": "",
        "size": "48 x 32",
        "incomplete": "k",
    }
    assert said[kind] in summary(study)["failures"][0]["reason"]
    assert "Traceback" not in capsys.readouterr().err


def test_rejected_images_are_counted_and_the_rest_is_told_apart(study):
    quality = {"score": 2.0, "accepted": False, "reasons": ["contours cross themselves"]}
    sidecar(study / "predictions", "b", quality=quality)
    assert evaluate(study, "--split", "test", "--pictures", "5") == 0
    told = summary(study)
    assert told["quality"]["b"]["reasons"] == ["contours cross themselves"]
    assert told["accepted"]["n_cases"] == 1
    assert told["accepted"]["mean_dice"] == 1 > told["mean_dice"]
    assert {entry["case"] for entry in told["pictures"]} == {"a", "b"}
    assert (study / "out/pictures/b.png").read_bytes()[:4] == b"\x89PNG"


def test_cardiothoracic_ratios_are_held_against_the_references(study):
    for case, value in (("a", 0.40), ("b", 0.50)):
        said = {"value": value, "low": value - 0.05, "high": value + 0.05}
        sidecar(study / "predictions", case, ctr=said)
    assert evaluate(study, "--split", "test") == 0
    found = summary(study)["ctr"]
    truth = 22 / 60  # heart from 39 to 61, chest from 18 to 78
    assert found["n"] == found["n_intervals"] == 2
    assert found["mean_error"] == pytest.approx(0.45 - truth, abs=1e-3)
    assert found["inside_interval"] == 0.5


def test_label_maps_and_failed_cases_are_drawn(study):
    segment(study / "unet", "a", (0, 0))
    assert evaluate(study, "--split", "test", "--pictures", "5", predictions="unet") == 1
    assert {path.name for path in (study / "out/pictures").iterdir()} == {"a.png", "b.png"}


def test_shards_cover_every_case_and_processes_change_nothing(study):
    for part in ("1/2", "2/2"):
        assert evaluate(study, "--split", "test", "--shard", part) == 0
    cases = {key[0] for i in (1, 2) for key in table(study / f"out/scores.{i}-of-2.csv")}
    assert cases == {"a", "b"}
    evaluate(study, "--workers", "1", out="one")
    evaluate(study, "--workers", "2", out="two")
    assert (study / "one/scores.csv").read_text() == (study / "two/scores.csv").read_text()


def test_a_folder_of_predictions_may_be_the_reference(study):
    assert evaluate(study, reference="predictions") == 0
    told = summary(study)
    assert told["n_cases"] == 3
    assert told["mean_dice"] == 1
    assert not [text for text in told["warnings"] if "without a reference" in text]


def test_models_of_other_organs_are_refused_and_missing_organs_told(study, capsys):
    sidecar(study / "predictions", "b", organs={"heart": 8})
    assert evaluate(study, "--split", "test") == 1
    assert "models of different labels" in capsys.readouterr().err
    for case in "ab":
        sidecar(study / "predictions", case, organs={"spleen": 8})
    (study / "prepared.json").write_text(json.dumps({"organs": ORGANS}))
    assert evaluate(study, "--split", "test") == 1
    assert "hold spleen, the reference's organs are" in capsys.readouterr().err
    assert evaluate(study, "--organs", "heart") == 1
    assert "'heart' is no organ; write name=nodes" in capsys.readouterr().err
    assert not (study / "out").exists()


def test_a_reference_that_cannot_be_read_stops_everything(study, capsys):
    (study / "b_points.csv").write_text("organ,index,x,y\nheart,0,1,2\n")
    assert evaluate(study, "--split", "test", "--organs", "right_lung=12,left_lung=12,heart=8") == 1
    assert "case b, landmarks:" in capsys.readouterr().err
    assert not (study / "out").exists()


def disturbed(folder, case, levels=(0, 64)):
    with (folder / f"{case}_robustness.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["kind", "level", "repeat", "organ", "index", "x", "y"])
        for level in levels:
            for repeat in range(2):
                points = body((level / 16, repeat))
                for name, own in slices(contours(ORGANS)).items():
                    for index, (x, y) in enumerate(points[own]):
                        writer.writerow(["occlusion", level, repeat, name, index, x, y])


def test_disturbed_images_make_curves(study):
    for case in "ab":
        disturbed(study / "predictions", case)
    assert evaluate(study, "--split", "test", "--workers", "1", out="runs/net/base/0") == 0
    rows = list(csv.DictReader((study / "runs/net/base/0/robustness.csv").open()))
    assert list(rows[0]) == ["kind", "level", "case", "repeat", "group", "dice", "hd_mm"]
    assert {row["group"] for row in rows} == {"lungs", "heart"}
    assert len(rows) == 2 * 2 * 2 * 2
    found = {(e["level"], e["group"]): e for e in summary(study, "runs/net/base/0")["robustness"]}
    assert found[0.0, "mean"]["dice"]["mean"] > found[64.0, "mean"]["dice"]["mean"]
    assert found[64.0, "lungs"]["n"] == 2
    page = study / "page.html"
    assert main(["report", str(study / "runs"), "--out", str(page)]) == 0
    text = page.read_text()
    assert "Occlusion" in text
    assert 'class="band c0"' in text


def test_a_damaged_robustness_file_is_told_and_fails_no_case(study):
    (study / "predictions/a_robustness.csv").write_text("kind,level\n")
    assert evaluate(study, "--split", "test", "--workers", "1") == 0
    assert "no column repeat" in summary(study)["warnings"][0]
    assert not (study / "out/robustness.csv").exists()


def test_the_page_sets_networks_of_landmarks_and_pixels_side_by_side(study):
    for n, case in enumerate("abc"):
        segment(study / "unet", case, (n, 0))
    quality = {"score": 2.0, "accepted": False, "reasons": ["contours cross themselves"]}
    sidecar(study / "predictions", "b", quality=quality)
    for name in ("predictions", "unet"):
        evaluate(study, predictions=name, out=f"runs/{name}/base/0")
    page = study / "page.html"
    assert main(["report", str(study / "runs"), "--out", str(page)]) == 0
    text = page.read_text()
    section = text[text.index('id="comparison"') : text.index('id="run-0"')]
    assert section.count("<table") == 1
    for wanted in ("Dice lungs", "Dice heart", "HD heart", "MSE lungs heart", "px²"):
        assert wanted in section
    assert section.index("predictions") < section.index("unet")
    assert "1 of 3 images rejected" in text
    assert "contours cross themselves" in text
    assert "3/3 cases: every organ one piece" in text
