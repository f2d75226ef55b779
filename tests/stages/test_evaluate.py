import json

import nibabel as nib
import numpy as np
import pytest
from scored import summary, table

from medseg.cli import main
from medseg.data import pairs

HEADER = "case,structure,dice,iou,hd95_mm,assd_mm,nsd,volume_ml,volume_error_ml,distance_mm,status"
AFFINE = np.array([[-1.0, 0, 0, 20], [0, 1.5, 0, -30], [0, 0, 2.0, 5], [0, 0, 0, 1]])
SHAPE = (20, 20, 24)


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(np.asarray(array, dtype=np.uint8), affine).to_filename(path)


def discs(values=(1, 2, 3), shift=0):
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for n, value in enumerate(values):
        labels[6 + shift : 14 + shift, 6:14, 2 + 8 * n : 6 + 8 * n] = value
    return labels


def sidecar(folder, case, **changes):
    content = {
        "case": case,
        "status": "ok",
        "labels": {"disc": 1},
        "sources": {"disc": [1, 2, 3]},
        "instances": ["disc"],
        "inputs": {"fat": {"path": f"{case}_fat.nii.gz", "sha256": "0"}},
        "model": {"path": "model", "sha256": ["abc"]},
        **changes,
    }
    (folder / f"{case}.json").write_text(json.dumps(content))


@pytest.fixture
def study(tmp_path):
    """A sheet of three cases (two of one person), and binary predictions of the two test cases."""
    rows = ["case,subject,fat,label,split"]
    predictions = tmp_path / "predictions"
    for n, (case, subject, split) in enumerate(
        [("a", "p1", "test"), ("b", "p2", "test"), ("c", "p3", "train")]
    ):
        save(tmp_path / f"{case}_label.nii.gz", discs())
        save(tmp_path / f"{case}_fat.nii.gz", 100 + 50 * (discs() > 0))
        rows.append(f"{case},{subject},{case}_fat.nii.gz,{case}_label.nii.gz,{split}")
        if split == "test":
            save(predictions / f"{case}.nii.gz", discs(shift=n) > 0)
            save(predictions / f"{case}_entropy.nii.gz", discs())
            sidecar(predictions, case)
    (tmp_path / "samples.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def evaluate(folder, *options, reference="samples.csv", out="out", pictures=0):
    options = [*options, "--pictures", str(pictures)]
    return main(
        ["evaluate", "--in", str(folder / "predictions"), "--reference", str(folder / reference),
         "--out", str(folder / out), *options]
    )  # fmt: skip


def test_scores_have_a_row_a_case_and_structure_and_the_promised_header(study):
    assert evaluate(study, "--split", "test") == 0
    assert (study / "out/scores.csv").read_text().splitlines()[0] == HEADER
    rows = table(study / "out/scores.csv")
    assert [key[1] for key in rows][:4] == ["disc", "disc_1", "disc_2", "disc_3"]
    assert {key[0] for key in rows} == {"a", "b"}
    assert float(rows["a", "disc"]["dice"]) == 1
    assert float(rows["b", "disc_2"]["dice"]) == pytest.approx(7 / 8)
    assert float(rows["b", "disc_2"]["distance_mm"]) == pytest.approx(1.0)
    assert float(rows["a", "disc"]["volume_ml"]) == pytest.approx(3 * 8 * 8 * 4 * 0.003)
    assert {row["status"] for row in rows.values()} == {"ok"}


def test_the_summary_says_what_was_measured_and_how(study):
    evaluate(study, "--split", "test", "--tolerance-mm", "1.5")
    told = summary(study)
    assert (told["n_cases"], told["n_subjects"], told["tolerance_mm"]) == (2, 2, 1.5)
    assert told["mean_dice"] == pytest.approx(15 / 16)
    assert told["mean_instance_dice"] == pytest.approx(15 / 16)
    low, high = told["mean_dice_interval"]
    assert low == pytest.approx(7 / 8)
    assert high == 1
    assert told["detection_rate"] == {"2": 1.0, "4": 1.0, "6": 1.0}
    assert told["counts"]["ok"] == 2
    assert told["structures"]["disc_1"]["instance_of"] == "disc"
    assert "larger of the two directed" in told["definitions"]["hd95_mm"]
    assert told["model"]["sha256"] == ["abc"]
    assert told["leaks"] == []
    assert "medseg" in told["versions"]


def test_best_median_and_worst_are_drawn(study):
    evaluate(study, "--split", "test", pictures=12)
    drawn = {entry["case"]: entry["role"] for entry in summary(study)["pictures"]}
    assert drawn == {"a": "best", "b": "worst"}
    for case in drawn:
        assert (study / f"out/pictures/{case}.png").read_bytes()[:4] == b"\x89PNG"
    assert evaluate(study, "--split", "test", out="bare") == 0
    assert not (study / "bare/pictures").exists()


def test_a_missing_prediction_fails_and_still_counts(study, capsys):
    (study / "predictions/b.nii.gz").unlink()
    assert evaluate(study, "--split", "test") == 1
    rows = table(study / "out/scores.csv")
    assert [rows["b", name]["status"] for name in ("disc", "disc_1")] == ["failed", "failed"]
    assert float(rows["b", "disc"]["dice"]) == 0
    diagonal = np.sqrt((20**2) + (30**2) + (48**2))
    assert float(rows["b", "disc"]["hd95_mm"]) == pytest.approx(diagonal, abs=1e-3)
    told = summary(study)
    assert told["mean_dice"] == pytest.approx(0.5)
    assert told["counts"] == {"ok": 1, "missed": 0, "spurious": 0, "absent": 0, "failed": 1}
    assert told["failures"] == [{"case": "b", "reason": "there is no prediction of this name"}]
    assert "case b failed" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["truncated", "shape", "moved"])
def test_a_prediction_that_cannot_be_used_fails_with_its_reason(study, kind):
    path = study / "predictions/b.nii.gz"
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "shape":
        save(path, np.ones((20, 20, 23)))
    else:
        affine = AFFINE.copy()
        affine[0, 3] += 0.4
        save(path, discs() > 0, affine)
    assert evaluate(study, "--split", "test") == 1
    assert table(study / "out/scores.csv")["b", "disc"]["status"] == "failed"
    reason = summary(study)["failures"][0]["reason"]
    wanted = {"truncated": "b.nii.gz", "shape": "(20, 20, 23)", "moved": "0.4 mm"}[kind]
    assert wanted in reason


def test_a_prediction_that_was_broken_off_is_not_scored(study):
    sidecar(study / "predictions", "a", status="incomplete")
    assert evaluate(study, "--split", "test") == 1
    assert table(study / "out/scores.csv")["a", "disc"]["status"] == "failed"
    assert "killed" in summary(study)["failures"][0]["reason"]


def test_a_reference_that_cannot_be_read_stops_everything(study, capsys):
    (study / "b_label.nii.gz").write_bytes(b"nothing")
    assert evaluate(study, "--split", "test") == 1
    assert "b" in capsys.readouterr().err
    assert not (study / "out").exists()


def test_all_cases_are_scored_without_a_split_and_a_run_may_bring_its_own(study):
    assert evaluate(study) == 1
    assert table(study / "out/scores.csv")["c", "disc"]["status"] == "failed"
    (study / "splits.json").write_text(json.dumps({"a": "test", "b": "val", "c": "train"}))
    assert evaluate(study, "--splits", str(study / "splits.json"), "--split", "val", out="v") == 0
    assert {key[0] for key in table(study / "v/scores.csv")} == {"b"}


def test_predictions_without_a_reference_are_told(study):
    save(study / "predictions/zz.nii.gz", discs())
    assert evaluate(study, "--split", "test") == 0
    assert "predictions without a reference: zz" in summary(study)["warnings"]


def test_the_reference_may_be_a_folder_with_labels_from_the_command_line(study):
    for case in "ab":
        save(study / f"truth/{case}.nii.gz", discs((7, 9, 9)))
        (study / f"predictions/{case}.json").unlink()
    save(study / "predictions/a.nii.gz", discs((7, 9, 9)))
    save(study / "predictions/b.nii.gz", discs((7, 9, 0)))
    assert evaluate(study, "--labels", "top=7", "rest=9", reference="truth") == 0
    rows = table(study / "out/scores.csv")
    assert float(rows["a", "top"]["dice"]) == float(rows["a", "rest"]["dice"]) == 1
    assert float(rows["b", "rest"]["dice"]) == pytest.approx(2 / 3)
    assert summary(study)["n_subjects"] is None


def test_without_names_every_value_is_a_structure_in_every_case(study):
    for case, values in (("a", (5, 5, 5)), ("b", (5, 6, 5))):
        save(study / f"truth/{case}.nii.gz", discs(values))
        save(study / f"predictions/{case}.nii.gz", discs(values))
        (study / f"predictions/{case}.json").unlink()
    assert evaluate(study, reference="truth") == 0
    rows = table(study / "out/scores.csv")
    assert [*rows] == [(c, s) for c in "ab" for s in ("label_5", "label_6")]
    assert rows["a", "label_6"]["status"] == "absent"
    assert rows["a", "label_6"]["dice"] == ""


def test_given_labels_replace_the_references_values_of_a_model(study):
    for case in "ab":
        save(study / f"{case}_label.nii.gz", discs((11, 12, 13)))
    assert evaluate(study, "--split", "test", "--labels", "disc=11,12,13") == 0
    assert float(table(study / "out/scores.csv")["a", "disc_12"]["dice"]) == 1


def test_a_name_that_no_structure_has_is_an_error(study, capsys):
    assert evaluate(study, "--split", "test", "--labels", "dics=1") == 1
    assert "'dics'; the structures are: disc" in capsys.readouterr().err
    assert not (study / "out").exists()


def test_values_without_a_name_are_told(study):
    save(study / "a_label.nii.gz", discs((1, 2, 44)))
    evaluate(study, "--split", "test")
    assert "case a: reference values without a name: 44" in summary(study)["warnings"]


def test_predictions_of_different_models_are_refused(study, capsys):
    sidecar(study / "predictions", "b", labels={"cord": 1}, sources={}, instances=[])
    assert evaluate(study, "--split", "test") == 1
    assert "models of different labels" in capsys.readouterr().err


@pytest.mark.parametrize("whole", [True, False])
def test_only_the_slices_of_a_case_are_scored(study, whole):
    labels = np.ones(SHAPE, dtype=np.uint8)
    save(study / "v_label.nii.gz", labels)
    rows = ["case,subject,fat,label,split,slices"]
    for case, split, slices in (("v1", "train", "0:10"), ("v2", "test", "10:14")):
        rows.append(f"{case},p,a_fat.nii.gz,v_label.nii.gz,{split},{slices}")
    (study / "samples.csv").write_text("\n".join(rows) + "\n")
    (study / "prepared.json").write_text(json.dumps({"slice_axis": 2}))
    prediction = np.zeros(SHAPE, dtype=np.uint8)
    prediction[..., 10:14] = 1
    affine = AFFINE.copy()
    if not whole:
        prediction = prediction[..., 10:14]
        affine[2, 3] += 10 * 2.0
    save(study / "predictions/v2.nii.gz", prediction, affine)
    sidecar(study / "predictions", "v2", sources={"disc": [1]}, instances=[])
    assert evaluate(study, "--split", "test", pictures=1) == 0
    assert float(table(study / "out/scores.csv")["v2", "disc"]["dice"]) == 1
    assert (study / "out/pictures/v2.png").is_file()
    leak = summary(study)["leaks"][0]
    assert leak["declared"] is True
    assert leak["splits"] == ["test", "train"]
    assert summary(study)["n_subjects"] == 1


def test_a_person_on_both_sides_is_an_undeclared_leak(study):
    text = (study / "samples.csv").read_text().replace("p3", "p1")
    (study / "samples.csv").write_text(text)
    evaluate(study, "--split", "test")
    leak = summary(study)["leaks"][0]
    assert (leak["kind"], leak["declared"], leak["cases"]) == ("subject", False, ["a", "c"])


def test_a_case_that_the_model_was_trained_on_is_a_leak(study):
    card = study / "out/model/model.json"
    card.parent.mkdir(parents=True)
    card.write_text(json.dumps({"training": {"cases": {"train": ["b", "x"]}}}))
    evaluate(study, "--split", "test")
    assert summary(study)["leaks"][0]["text"] == "scored cases that the model was trained on: b"


def test_shards_write_their_own_files_and_cover_every_case(study):
    assert evaluate(study, "--split", "test", "--shard", "1/2", pictures=1) == 0
    assert evaluate(study, "--split", "test", "--shard", "2/2") == 0
    assert not (study / "out/scores.csv").exists()
    cases = {key[0] for i in (1, 2) for key in table(study / f"out/scores.{i}-of-2.csv")}
    assert cases == {"a", "b"}
    assert (study / "out/pictures/1-of-2/a.png").is_file()
    assert (study / "out/summary.2-of-2.json").is_file()


def test_several_processes_give_the_same_scores(study):
    evaluate(study, "--split", "test", "--workers", "1", out="one")
    evaluate(study, "--split", "test", "--workers", "2", out="two")
    assert (study / "one/scores.csv").read_text() == (study / "two/scores.csv").read_text()


def test_a_prepared_recipe_names_structures_where_no_prediction_does(study):
    recipe = {"labels": {"disc": [1, 2, 3]}, "instances": ["disc"], "slice_axis": 2}
    (study / "prepared.json").write_text(json.dumps(recipe))
    for path in (study / "predictions").iterdir():
        path.unlink()
    assert evaluate(study, "--split", "test") == 1
    assert table(study / "out/scores.csv")["a", "disc_3"]["status"] == "failed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "tset"], "no case is of the split 'tset'"),
        (["--shard", "3/2"], "--shard is '3/2'"),
        (["--tolerance-mm", "-1"], "cannot be negative"),
        (["--labels", "disc"], "'disc' is no label"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(study, capsys, options, message):
    assert evaluate(study, *options) == 1
    found = capsys.readouterr().err
    assert message in found
    assert "Traceback" not in found
    assert not (study / "out").exists()


def test_folders_that_are_not_there_are_told(study, capsys):
    assert evaluate(study, reference="nowhere.csv") == 1
    assert "nowhere.csv does not exist" in capsys.readouterr().err
    arguments = ["--in", str(study / "none"), "--reference", str(study / "samples.csv")]
    assert main(["evaluate", *arguments, "--out", str(study / "out")]) == 1
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["/proc/self/out", "samples.csv/out"])
def test_a_folder_that_cannot_be_written_is_told_before_any_case_is_scored(
    study, capsys, monkeypatch, out
):
    """Nobody, root included, can make a folder in these places."""
    monkeypatch.setattr(pairs, "score", lambda _: pytest.fail("was scored"))
    before = (study / "samples.csv").read_text()
    assert evaluate(study, "--split", "test", out=out) == 1
    told = capsys.readouterr().err
    assert told.startswith("medseg evaluate: the output folder")
    assert told.endswith("choose another\n")
    assert (study / "samples.csv").read_text() == before


def test_a_sheet_with_a_problem_is_refused(study, capsys):
    text = (
        (study / "samples.csv").read_text().replace("c_label.nii.gz,train", "c_label.nii.gz,trian")
    )
    (study / "samples.csv").write_text(text)
    assert evaluate(study, "--split", "test") == 1
    assert "c: split: found 'trian'" in capsys.readouterr().err
    assert not (study / "out").exists()


def test_the_faces_of_a_cut_through_a_volume_are_no_surface(study):
    """One slice of a column: distances are those of its outline, not of its filled inside."""
    labels, found = np.zeros((2, *SHAPE), dtype=np.uint8)
    labels[4:16, 4:16] = 1
    found[6:16, 4:16] = 1
    save(study / "v_label.nii.gz", labels)
    save(study / "predictions/v.nii.gz", found)
    sidecar(study / "predictions", "v", sources={"disc": [1]}, instances=[])
    scores = {}
    for slices in ("", "0:1", "23:24", "5:9"):
        rows = ["case,fat,label,slices", f"v,a_fat.nii.gz,v_label.nii.gz,{slices}"]
        (study / "samples.csv").write_text("\n".join(rows) + "\n")
        assert evaluate(study) == 0
        row = table(study / "out/scores.csv")["v", "disc"]
        scores[slices] = [float(row[name]) for name in ("hd95_mm", "assd_mm", "nsd")]
    assert scores["5:9"] == pytest.approx(scores["0:1"], abs=1e-4)
    assert scores["23:24"] == pytest.approx(scores["0:1"], abs=1e-4)
    # Reference: 12 outline voxels at 2 mm, 2 at 1 mm; prediction: 8 at 2 mm, 2 at 1.5 mm
    apart, outlines = 12 * 2 + 2 * 1 + 8 * 2 + 2 * 1.5, 44 + 40
    assert scores["0:1"][1] == pytest.approx(apart / outlines, abs=1e-4)
    assert scores[""][1] < scores["0:1"][1]
    assert "faces of the cut" in summary(study)["definitions"]["slices"]


def test_evaluate_needs_no_torch(study):
    import subprocess
    import sys

    code = (
        "import sys; from medseg.cli import main; "
        f"main(['evaluate', '--in', {str(study / 'predictions')!r}, '--reference', "
        f"{str(study / 'samples.csv')!r}, '--split', 'test', '--out', {str(study / 'out')!r}]); "
        "bad = {'torch', 'lightning', 'hydra', 'monai'} & set(sys.modules); sys.exit(len(bad))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_values_that_nothing_names_are_warned_of(study, capsys):
    for path in (study / "predictions").glob("*.json"):
        path.unlink()
    words = ["--in", str(study / "predictions"), "--reference", str(study), "--split", "test"]
    assert main(["evaluate", *words, "--out", str(study / "scores")]) == 0
    assert (text := "the values 1, 2, 3 and the predictions 1") in capsys.readouterr().err
    summary = json.loads((study / "scores/summary.json").read_text())
    assert any(text in warning for warning in summary["warnings"])
    assert main(["evaluate", *words, "--out", str(study / "b"), "--labels", "disc=1,2,3"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_case_trained_on_is_said_on_the_terminal(study, capsys):
    (study / "scores/model").mkdir(parents=True)
    (study / "scores/model/model.json").write_text('{"training": {"cases": {"train": ["a"]}}}')
    words = ["--in", str(study / "predictions"), "--reference", str(study), "--split", "test"]
    assert main(["evaluate", *words, "--out", str(study / "scores")]) == 0
    assert "scored cases that the model was trained on: a\n" in capsys.readouterr().err
