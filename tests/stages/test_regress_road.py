"""Maps predicted from maps on the whole road: prepared, trained, predicted, scored, reported."""

import csv
import json
from pathlib import Path

import healpy
import numpy as np
import pytest
from skyfolder import save

from medseg.cli import main
from medseg.geometry.neighbours import neighbours
from medseg.geometry.sphere import nested
from medseg.io import healpix

NSIDE = 8
PIXELS = 12 * NSIDE**2
LOST = np.arange(PIXELS) % 7 == 0  # pixels of which the targets are not known, NESTED
DATA = ["data=table", "data.channels=[one,two,y]", "data.targets=[y]", "data.intensity=none"]
NET = [
    "task=regress",
    "model=spherenet",
    "model.widths=[32]",
    "model.norm=none",
    "model.activation=silu",
]
LONG = ["trainer.max_epochs=3", "trainer.steps_per_epoch=40", "optimizer.lr=2e-2"]
SHORT = ["trainer.max_epochs=1", "trainer.steps_per_epoch=1", "trainer.batch_size=2"]


def smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of each pixel's neighbours, NESTED."""
    near = neighbours(NSIDE)
    return np.where(near >= 0, values[near], 0).sum(1) / (near >= 0).sum(1)


def truth(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """The known local relation, on numbers far from 0 and 1."""
    return 5000 + 300 * (smoothed(one) - 2 * two)


def medseg(stage: str, *words: object) -> int:
    return main([stage, *map(str, words)])


def column(path: Path) -> np.ndarray:
    """All columns, NESTED, NaN where nothing is."""
    found = healpix.read(path, field=tuple(range(len(columns(path)))))
    return nested(found.image, found.space)


def columns(path: Path) -> list[str]:
    from astropy.io import fits

    with fits.open(path) as found:
        return [name for name in found[1].columns.names if name != "PIXEL"]


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RING maps of two inputs and two targets; of training, a seventh of the targets is lost."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    rows = ["case,split,one,two,y,z"]
    for number, split in enumerate(["train"] * 8 + ["val", "test", "test"]):
        one, two = (3 * smoothed(noise) for noise in rng.standard_normal((2, PIXELS)))
        y = truth(one, two)
        lost = LOST if split == "train" else np.zeros(PIXELS, bool)
        case = f"c{number}"
        for name, values in {"one": one, "two": two, "y": np.where(lost, healpy.UNSEEN, y)}.items():
            save(folder / f"{case}_{name}.fits", values, nest=False, unit=None)
        save(folder / f"{case}_z.fits", -y / 1e3, nest=False, unit="mK")
        rows.append(
            ",".join([case, split, *(f"{case}_{n}.fits" for n in ("one", "two", "y", "z"))])
        )
    (folder / "samples.csv").write_text("\n".join(rows) + "\n")
    return folder / "samples.csv"


def trained(sheet: Path, out: Path, *words: str) -> Path:
    """The run of a recipe."""
    data = [word for word in words if word.startswith("data.")]
    assert medseg("prepare", *DATA, *data, "--in", sheet, "--out", out / "prepared") == 0
    chosen = [*DATA, *NET, *words]
    assert medseg("train", *chosen, "--in", out / "prepared", "--out", out / "run") == 0
    return out / "run"


@pytest.fixture(scope="module")
def run(sheet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(sheet, tmp_path_factory.mktemp("run"), *LONG)


def test_a_local_relation_is_learnt_and_comes_back_in_its_own_numbers(run, sheet, tmp_path, capfd):
    skill = float(list(csv.DictReader((run / "metrics.csv").open()))[-1]["val_skill"])
    assert skill > 0.9
    out, scores = tmp_path / "p", tmp_path / "e"
    assert medseg("predict", run / "model", sheet, "--split", "test", "--out", out) == 0
    found, wanted = column(out / "c9.fits")[0], column(sheet.parent / "c9_y.fits")[0]
    ratio = np.std(found - wanted) / np.std(wanted)
    assert ratio < 0.1
    assert abs(found.mean() - 5000) < 100
    header = dict(healpy.read_map(out / "c9.fits", h=True)[1])
    assert (header["ORDERING"], header["TTYPE1"], "TUNIT1" in header) == ("RING", "y", False)
    about = json.loads((out / "c9.json").read_text())
    assert (about["task"], about["targets"], list(about["inputs"])) == (
        "regress",
        {"y": None},
        ["one", "two"],
    )
    words = ["--in", out, "--reference", sheet, "--split", "test", "--out", scores]
    capfd.readouterr()
    assert medseg("evaluate", *words) == 0
    assert "y NRMSE 0.0" in capfd.readouterr().out
    rows = list(csv.DictReader((scores / "scores.csv").open()))
    assert [row["case"] for row in rows] == ["c9", "c10"]
    error = np.sqrt(np.square(found - wanted).mean()) / np.std(wanted)
    assert float(rows[0]["nrmse"]) == pytest.approx(error, rel=1e-3)
    assert float(rows[0]["covered"]) == 1
    assert list((scores / "pictures").glob("*.png"))
    page = tmp_path / "page.html"
    assert medseg("report", scores, "--out", page) == 0
    assert "covered" in page.read_text().lower()


def test_the_model_says_its_inputs_and_the_scale_of_its_targets(run, sheet) -> None:
    spec = json.loads((run / "model/model.json").read_text())
    assert spec["channels"] == ["one", "two"]
    assert spec["network"]["arguments"]["in_channels"] == 2
    assert spec["network"]["arguments"]["n_classes"] == 1
    known = np.stack([column(sheet.parent / f"c{n}_y.fits")[0] for n in range(8)])
    assert spec["targets"] == ["y"]
    told = spec["scales"]["y"]
    assert told["mean"] == pytest.approx(np.nanmean(known), rel=1e-5)
    assert told["deviation"] == pytest.approx(np.nanstd(known), rel=1e-5)


def test_nested_copies_and_parts_are_predicted_alike(run, sheet, tmp_path) -> None:
    maps = {name: column(sheet.parent / f"c9_{name}.fits") for name in ("one", "two")}
    for name, values in maps.items():
        save(tmp_path / f"{name}.fits", values, unit=None)
    files = [f"{name}={tmp_path / name}.fits" for name in maps]
    assert medseg("predict", run / "model", *files, "--case", "x", "--out", tmp_path / "n") == 0
    words = ["--split", "test", "--out", tmp_path / "r"]
    assert medseg("predict", run / "model", sheet, *words) == 0
    both = column(tmp_path / "n/x.fits"), column(tmp_path / "r/c9.fits")
    np.testing.assert_allclose(*both, rtol=1e-6)  # float32 columns


def test_a_footprint_and_targets_of_two_units(sheet, tmp_path) -> None:
    two = ["data.channels=[one,two,y,z]", "data.targets=[y,z]"]
    run = trained(sheet, tmp_path, *two, "data.footprint=[1,[2,7]]", *SHORT, "task.loss=l1")
    spec = json.loads((run / "model/model.json").read_text())
    assert [spec["scales"][name]["unit"] for name in spec["targets"]] == [None, "uK"]
    z = np.stack([column(sheet.parent / f"c{n}_z.fits")[0] for n in range(8)])  # read in µK
    inside = np.isin(np.arange(PIXELS) // NSIDE**2, [2, 7])
    assert spec["scales"]["z"]["mean"] == pytest.approx(z[:, inside].mean(), rel=1e-4)
    out = tmp_path / "p"
    assert medseg("predict", run / "model", sheet, "--split", "test", "--out", out) == 0
    found = column(out / "c9.fits")
    assert columns(out / "c9.fits") == ["y", "z"]
    assert np.isfinite(found[:, inside]).all()
    assert np.isnan(found[:, ~inside]).all()
    part = np.flatnonzero(inside)
    for name in ("one", "two"):
        values = np.where(inside, column(sheet.parent / f"c9_{name}.fits")[0], healpy.UNSEEN)
        healpy.write_map(tmp_path / f"{name}.fits", values, nest=True, partial=True)
    files = [f"{name}={tmp_path / name}.fits" for name in ("one", "two")]
    assert medseg("predict", run / "model", *files, "--case", "x", "--out", tmp_path / "x") == 0
    own = healpix.read(tmp_path / "x/x.fits", field=(0, 1))
    assert np.array_equal(own.space.pixels, part)
    np.testing.assert_allclose(own.image, found[:, part], rtol=1e-5)  # float32 inputs
    words = ["--reference", sheet, "--split", "test", "--pictures", 0, "--out", tmp_path / "e"]
    assert medseg("evaluate", "--in", out, *words) == 0
    rows = list(csv.DictReader((tmp_path / "e/scores.csv").open()))
    assert {row["structure"] for row in rows} == {"y", "z"}
    assert [float(row["covered"]) for row in rows] == pytest.approx([1 / 6] * 4, abs=1e-4)


def test_several_models_are_averaged_and_say_how_far_they_lie_apart(run, sheet, tmp_path) -> None:
    other = trained(sheet, tmp_path / "other", *SHORT, "data.folds=3", "data.fold=1")
    (tmp_path / "models").mkdir()
    for name, one in {"a": run, "b": other}.items():
        (tmp_path / f"models/{name}").symlink_to(one / "model")
    single = []
    for name in ("a", "b"):
        words = ["--split", "test", "--out", tmp_path / name]
        assert medseg("predict", tmp_path / f"models/{name}", sheet, *words) == 0
        single.append(column(tmp_path / name / "c9.fits"))
    words = ["--split", "test", "--uncertainty", "--out", tmp_path / "p"]
    assert medseg("predict", tmp_path / "models", sheet, *words) == 0
    found, apart = (column(tmp_path / f"p/{name}.fits") for name in ("c9", "c9_deviation"))
    np.testing.assert_allclose(found, np.mean(single, 0), rtol=1e-5)
    np.testing.assert_allclose(apart, np.std(single, 0), rtol=1e-3, atol=1e-2)
    words = ["--reference", sheet, "--split", "test", "--pictures", 0, "--out", tmp_path / "e"]
    assert medseg("evaluate", "--in", tmp_path / "p", *words) == 0
    assert len(list(csv.DictReader((tmp_path / "e/scores.csv").open()))) == 2


def test_a_missing_prediction_counts_as_the_truths_mean(run, sheet, tmp_path, capfd) -> None:
    out = tmp_path / "p"
    assert medseg("predict", run / "model", sheet, "--split", "test", "--out", out) == 0
    (out / "c10.fits").unlink()
    words = ["--in", out, "--reference", sheet, "--split", "test", "--out", tmp_path / "e"]
    assert medseg("evaluate", *words) == 1
    assert "counts as the truth's mean" in capfd.readouterr().err
    rows = {row["case"]: row for row in csv.DictReader((tmp_path / "e/scores.csv").open())}
    assert (float(rows["c10"]["nrmse"]), rows["c10"]["status"]) == (1, "failed")
    assert rows["c9"]["status"] == "ok"


REFUSALS = {
    "no targets": (["data.targets=[]"], "data.targets is empty"),
    "not a channel": (["data.targets=[w]"], "data.targets names 'w'"),
    "not the last": (["data.targets=[one]"], "must end data.channels"),
    "nothing left": (["data.channels=[y]"], "behind an input"),
    "labels too": (["data.labels={a:[1]}"], "data.labels is of other tasks"),
    "classes too": (["data.classes=[a,b]"], "data.classes"),
    "another task": (["task=segment"], "add task=regress"),
    "another network": (["model=skyreconnet"], "do not fit"),
    "of cases": (["model=spherenet_shrec"], "tells whole cases apart"),
    "of images": (["model=unet"], "model=unet sees images"),
    "values changed": (["augment=sky"], "'~augment.transforms.noise'"),
    "another loss": (["task.loss=ce"], "loss"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_meant_is_refused(name: str, run, tmp_path, capfd) -> None:
    words, text = REFUSALS[name]
    recipe = [*DATA, "task=regress", "model=spherenet"]
    recipe = [w for w in recipe if w.split("=")[0] not in {x.split("=")[0] for x in words}]
    given = ["--in", run.parent / "prepared", "--out", tmp_path / "out"]
    assert medseg("train", *recipe, *words, *given) == 1
    error = capfd.readouterr().err
    assert text in error
    assert "Traceback" not in error


def test_the_symmetries_of_the_grid_may_turn_inputs_and_targets_together(run, tmp_path) -> None:
    words = ["augment=sky", "~augment.transforms.brightness", "~augment.transforms.noise", *SHORT]
    given = ["--in", run.parent / "prepared", "--out", tmp_path / "out"]
    assert medseg("train", *DATA, *NET, *words, *given) == 0


def test_one_model_tells_no_uncertainty(run, sheet, tmp_path, capfd) -> None:
    words = ["--split", "test", "--uncertainty", "--out", tmp_path / "out"]
    assert medseg("predict", run / "model", sheet, *words) == 1
    assert "give a folder of several" in capfd.readouterr().err
    assert not list(tmp_path.glob("out/*.fits"))


def test_images_have_no_targets(tmp_path, capfd) -> None:
    import tiny

    tiny.scan(tmp_path / "a.nii.gz")
    tiny.scan(tmp_path / "b.nii.gz")
    (tmp_path / "samples.csv").write_text("case,one,two,y\nx,a.nii.gz,a.nii.gz,b.nii.gz\n")
    words = ["--in", tmp_path / "samples.csv", "--out", tmp_path / "out"]
    assert medseg("prepare", *DATA, *words) == 1
    assert "data.targets is for maps of the sphere" in capfd.readouterr().err


def test_without_any_prediction_the_prepared_sheet_says_what_is_scored(run, tmp_path) -> None:
    (tmp_path / "p").mkdir()
    words = ["--reference", run.parent / "prepared/samples.csv", "--split", "test"]
    given = ["--in", tmp_path / "p", "--pictures", 0, "--out", tmp_path / "e"]
    assert medseg("evaluate", *words, *given) == 1
    rows = list(csv.DictReader((tmp_path / "e/scores.csv").open()))
    assert [(row["structure"], row["status"]) for row in rows] == [("y", "failed")] * 2
