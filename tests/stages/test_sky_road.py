"""Skies on the whole road: prepared, trained on, filled, segmented, sorted and scored."""

import csv
import json
from pathlib import Path

import healpy
import numpy as np
import pytest
import skyfolder
from skyfolder import NSIDE, belt, save

from medseg.cli import main
from medseg.geometry.sphere import nested
from medseg.io import healpix
from medseg.models.wiener import Wiener

UNSEEN = healpy.UNSEEN
SEEN = ~belt()
MADE = ["data.source.n_train=2", "data.source.n_val=1", "data.source.n_test=1"]
CMB = ["data=cmb", *MADE, f"data.source.nside={NSIDE}"]
SKY = ["data=sky", *MADE, f"data.source.nside={NSIDE}"]
BRIEF = ["trainer.max_epochs=1", "trainer.steps_per_epoch=1", "trainer.batch_size=2"]
SMALL = ["model.widths=[8]", "model.dilations=[[1]]", "model.decoder=[]", "model.features=8"]
FILL = ["task=inpaint", "model=skyreconnet", *SMALL, "model.stem=8", *BRIEF]
NET = ["model=spherenet", "model.widths=[4,4]", *BRIEF]


def medseg(stage: str, *words: object) -> int:
    return main([stage, *map(str, words)])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Maps of case `a` in several guises, a mask and a spectrum."""
    folder = tmp_path_factory.mktemp("sky")
    sky = skyfolder.sky("a")
    single = {"dtype": np.float32, "names": ["SIGNAL"]}
    save(folder / "ring.fits", sky / 1e3, nest=False, unit="mK", **single)
    save(folder / "nest.fits", sky / 1e3, unit="mK", **single)
    save(folder / "junk.fits", np.where(SEEN, sky / 1e3, 7.5), nest=False, unit="mK", **single)
    save(folder / "bare.fits", np.where(SEEN, sky / 1e3, UNSEEN), nest=False, unit="mK", **single)
    save(folder / "more.fits", sky + 300)
    save(folder / "micro.fits", sky)
    part = np.where(np.arange(sky.size) % 64 < 48, sky, UNSEEN)
    healpy.write_map(folder / "part.fits", part[0], nest=True, partial=True, column_units="uK")
    save(folder / "mask.fits", SEEN.astype(float), unit=None)
    save(folder / "qu.fits", skyfolder.sky("a", "QU"), names=["Q", "U"])
    np.savez(folder / "cl.npz", total=skyfolder.prior().spectrum.T)
    return folder


@pytest.fixture(scope="module")
def cmb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cmb") / "prepared"
    assert medseg("prepare", *CMB, "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def filler(cmb: Path) -> Path:
    assert medseg("train", *FILL, *CMB, "--in", cmb, "--out", cmb.parent / "run") == 0
    return cmb.parent / "run/model"


def filled(home: Path, out: Path, name: str, *words, model="method:wiener", mask=True) -> Path:
    """The folder of a prediction of one of the home's maps, as case `x`."""
    files = [f"map={home / name}.fits", *([f"mask={home / 'mask.fits'}"] if mask else [])]
    known = [f"spectrum={home / 'cl.npz'}", "--beam-arcmin", 320, "--noise-uk", 1]
    known = known if model == "method:wiener" else []
    more = ["--case", "x", "--out", out, "--no-picture", *words]
    assert medseg("predict", model, *files, *known, *more) == 0
    return out


def stored(path: Path) -> np.ndarray:
    """All columns as they lie in the file, in its own order and unit."""
    header = dict(healpy.read_map(path, h=True)[1])
    nest = header["ORDERING"] == "NESTED"
    return np.atleast_2d(healpy.read_map(path, field=None, nest=nest, dtype=None))


def micro(path: Path) -> np.ndarray:
    """All columns in µK, NESTED."""
    with_unit = healpix.read(path, field=tuple(range(len(stored(path)))))
    return nested(with_unit.image, with_unit.space)


@pytest.fixture(scope="module")
def full(home: Path, filler: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Map, deviation and samples by the network and by the exact method."""
    words = ["--uncertainty", "--samples", 2, "--seed", 3]
    root = tmp_path_factory.mktemp("full")
    models = {"net": filler, "wiener": "method:wiener"}
    return {n: filled(home, root / n, "ring", *words, model=m) for n, m in models.items()}


KINDS = ("net", "wiener")


@pytest.mark.parametrize("kind", KINDS)
def test_seen_pixels_come_back_in_the_files_own_order_unit_and_column(full, home, kind) -> None:
    given, found = stored(home / "ring.fits"), stored(full[kind] / "x.fits")
    seen = healpy.reorder(SEEN, n2r=True)
    assert found.dtype == given.dtype
    assert np.array_equal(found[:, seen], given[:, seen])
    assert not np.isclose(found[:, ~seen], given[:, ~seen]).all()
    header = dict(healpy.read_map(full[kind] / "x.fits", h=True)[1])
    told = [header[key] for key in ("ORDERING", "TUNIT1", "TTYPE1", "NSIDE")]
    assert told == ["RING", "mK", "SIGNAL", NSIDE]
    samples, deviation = (
        stored(full[kind] / f"x_{what}.fits") for what in ("samples", "deviation")
    )
    assert samples.shape[0] == 2
    assert np.array_equal(samples[:, seen], np.repeat(given[:, seen], 2, 0))
    assert (np.abs(np.diff(samples[:, ~seen], axis=0)) > 0).mean() > 0.99
    assert (deviation[:, seen] == 0).all()
    assert (deviation[:, ~seen] > 0).all()
    about = json.loads((full[kind] / "x.json").read_text())
    assert (about["task"], about["fields"], about["unit"]) == ("inpaint", ["map"], "mK")
    assert (about["holes"], about["samples"], about["seed"]) == (int((~SEEN).sum()), 2, 3)
    assert about["grid"]["ordering"] == "RING"


@pytest.mark.parametrize("kind", KINDS)
def test_neither_what_is_hidden_nor_how_it_is_hidden_counts(full, home, filler, kind, tmp_path):
    words = ["--uncertainty", "--samples", 2, "--seed", 3]
    about = {"model": filler if kind == "net" else "method:wiener"}
    filled(home, tmp_path / "junk", "junk", *words, **about)
    filled(home, tmp_path / "bare", "bare", *words, **about, mask=False)
    for name in ("x.fits", "x_samples.fits", "x_deviation.fits"):
        wanted = (full[kind] / name).read_bytes()
        assert (tmp_path / "junk" / name).read_bytes() == wanted
        assert (tmp_path / "bare" / name).read_bytes() == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_ring_and_nested_copies_are_filled_alike(full, home, filler, kind, tmp_path) -> None:
    model = filler if kind == "net" else "method:wiener"
    found = stored(filled(home, tmp_path, "nest", model=model) / "x.fits")
    wanted = healpy.reorder(stored(full[kind] / "x.fits"), r2n=True)
    assert np.array_equal(found, wanted)


def test_a_part_of_the_sky_stays_that_part(home: Path, tmp_path: Path) -> None:
    out = filled(home, tmp_path, "part", "--uncertainty") / "x.fits"
    given, found = (healpix.read(path) for path in (home / "part.fits", out))
    assert found.space.same(given.space)
    seen = SEEN[given.space.pixels]
    assert np.array_equal(found.image[:, seen], given.image[:, seen])
    assert np.isfinite(found.image).all()


def test_seeds_alone_decide_the_samples(home: Path, tmp_path: Path, full) -> None:
    words = ["--uncertainty", "--samples", 2, "--seed"]
    again = filled(home, tmp_path / "again", "ring", *words, 3) / "x_samples.fits"
    other = filled(home, tmp_path / "other", "ring", *words, 4) / "x_samples.fits"
    wanted = stored(full["wiener"] / "x_samples.fits")
    assert np.array_equal(stored(again), wanted)
    hidden = healpy.reorder(~SEEN, n2r=True)
    assert np.std((stored(other)[1] - wanted[1])[hidden]) > 0.05 * np.std(wanted)
    more = [word if word != 2 else 3 for word in words]
    found = filled(home, tmp_path / "more", "ring", *more, 3) / "x_samples.fits"
    assert np.array_equal(
        stored(found)[:2], wanted
    )  # more samples leave the first ones as they are


def test_wiener_of_the_command_line_is_the_class(home: Path, tmp_path: Path) -> None:
    found = micro(filled(home, tmp_path, "micro", "--uncertainty") / "x.fits")
    prior = skyfolder.prior()
    known = {"seen": SEEN, "prior": type(prior)(prior.spectrum, 320.0, 1.0)}
    values = np.where(SEEN, skyfolder.sky("a"), 0)
    assert np.array_equal(found, Wiener().fill(values, **known))
    deviation = micro(tmp_path / "x_deviation.fits")
    assert np.array_equal(deviation, Wiener().deviation(values, **known))


def test_a_monopole_is_taken_out_and_put_back(home: Path, tmp_path: Path) -> None:
    words = ["--remove", "monopole"]
    plain = micro(filled(home, tmp_path / "plain", "micro", *words) / "x.fits")
    offset = micro(filled(home, tmp_path / "offset", "more", *words) / "x.fits")
    np.testing.assert_allclose(offset, plain + 300, atol=1e-8)
    bare = micro(filled(home, tmp_path / "bare", "more") / "x.fits")
    assert np.abs(bare - offset).max() > 10
    told = json.loads((tmp_path / "offset/x.json").read_text())["removed"]
    assert told[0][0] == pytest.approx(300 + skyfolder.sky("a")[0, SEEN].mean())


def test_the_model_knows_its_nside_and_the_skies_spectrum(filler: Path, full) -> None:
    spec = json.loads((filler / "model.json").read_text())
    assert spec["nside"] == NSIDE
    assert len(spec["prior"]["spectrum"]) == 4
    assert (spec["prior"]["beam_arcmin"], spec["prior"]["noise_uk"]) == (640, 1)
    said = json.loads((full["net"] / "x.json").read_text())["prior"]
    assert (said["source"], said["lmax"]) == ("the model's training", 2 * NSIDE)


def test_polarisation_comes_by_name_from_one_file(home: Path, tmp_path: Path) -> None:
    files = [f"Q={home / 'qu.fits'}", f"U={home / 'qu.fits'}", f"mask={home / 'mask.fits'}"]
    spec = {"channels": ["Q", "U", "mask"]}
    known = [f"spectrum={home / 'cl.npz'}", "--noise-uk", 1, "--beam-arcmin", 0]
    known += ["--case", "x", "--samples", 2]
    model = packaged(tmp_path / "net", spec)
    assert medseg("predict", model, *files, *known, "--out", tmp_path / "out") == 0
    found = micro(tmp_path / "out/x.fits")
    assert np.array_equal(found[:, SEEN], skyfolder.sky("a", "QU")[:, SEEN])
    assert len(stored(tmp_path / "out/x_samples.fits")) == 4
    assert (tmp_path / "out/x_sky.png").read_bytes().startswith(b"\x89PNG")
    about = json.loads((tmp_path / "out/x.json").read_text())
    assert about["fields"] == ["Q", "U"]


def packaged(folder: Path, changes: dict) -> Path:
    """An untrained network for other fields."""
    import torch

    from medseg import package

    torch.manual_seed(0)
    sizes = {"in_channels": len(changes["channels"]), "widths": [8], "dilations": [[1]],
             "decoder": [], "features": 8, "stem": 8}  # fmt: skip
    network = {"name": "skyreconnet", "class": "SkyReconNet", "arguments": sizes}
    task = {"name": "inpaint", "arguments": {}}
    spec = {"task": task, "network": network, "ndim": 1, "optional_channels": True, **changes}
    package.save(folder, package.build(network), spec=spec)
    return folder


def test_predictions_are_kept_until_something_changes(cmb, filler, tmp_path, capfd) -> None:
    rows = list(csv.DictReader((cmb / "samples.csv").open()))
    for row in rows:
        row.update({name: str(cmb / row[name]) for name in ("map", "mask", "spectrum")})

    def told(**changes: str) -> str:
        with (tmp_path / "skies.csv").open("w") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows([{**row, **changes} for row in rows])
        words = ["--split", "test", "--samples", 1, "--no-picture", "--out", tmp_path / "out"]
        medseg("predict", filler, tmp_path / "skies.csv", *words)
        return capfd.readouterr().out

    assert "1 predicted, 0 kept" in told()
    assert "0 predicted, 1 kept" in told()
    before = (tmp_path / "out/test-000_samples.fits").read_bytes()
    assert "1 predicted, 0 kept" in told(beam_arcmin="200")
    assert (tmp_path / "out/test-000_samples.fits").read_bytes() != before
    assert "1 failed" in told(beam_arcmin="200", mask=str(cmb / "raw/train-000.fits"))
    about = json.loads((tmp_path / "out/test-000.json").read_text())
    assert (about["status"], "earlier" in about) == ("stale", True)
    assert "0 predicted, 1 kept" in told(beam_arcmin="200")
    assert json.loads((tmp_path / "out/test-000.json").read_text())["status"] == "ok"


def test_the_score_is_the_nrmse_in_the_holes(cmb: Path, filler: Path, tmp_path: Path) -> None:
    sheet = cmb / "samples.csv"
    words = ["--split", "test", "--no-picture", "--out", tmp_path / "p"]
    assert medseg("predict", filler, sheet, *words) == 0
    words = ["--split", "test", "--pictures", 0, "--out", tmp_path / "e"]
    assert medseg("evaluate", "--in", tmp_path / "p", "--reference", sheet, *words) == 0
    truth, found = micro(cmb / "raw/test-000.fits"), micro(tmp_path / "p/test-000.fits")
    hidden = micro(cmb / "raw/mask.fits")[0] < 0.5
    wanted = np.sqrt(
        np.square((found - truth)[0, hidden]).sum() / np.square(truth[0, hidden]).sum()
    )
    (row,) = csv.DictReader((tmp_path / "e/scores.csv").open())
    assert float(row["nrmse"]) == pytest.approx(wanted, rel=1e-4)


def test_a_classical_method_is_trained_by_the_same_command(cmb: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["task=inpaint", "model=wiener", *CMB, "--in", cmb, "--out", run]
    assert medseg("train", *words) == 0
    (row,) = csv.DictReader((run / "metrics.csv").open())
    assert float(row["val_nrmse"]) < 0.6
    words = ["--split", "test", "--samples", 1, "--uncertainty", "--out", tmp_path / "p"]
    assert medseg("predict", run / "model", cmb / "samples.csv", "--no-picture", *words) == 0
    assert (tmp_path / "p/test-000_deviation.fits").is_file()


# -- labels and classes -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels") / "prepared"
    assert medseg("prepare", *SKY, "--out", folder) == 0
    return folder


def segmented(sky: Path, home: Path, *words: str) -> tuple[Path, np.ndarray, np.ndarray]:
    """A model of a recipe; labels and probabilities of a case in RING order and mK."""
    source = sky / "raw"
    where = home / "in"
    for name in ("low", "high"):
        maps = healpix.read(source / f"test-000_{name}.fits").image / 1e3
        save(where / f"{name}.fits", maps, nest=False, unit="mK")
    data = sky
    if words:
        data = home / "prepared"
        assert medseg("prepare", *SKY, *words, "--out", data) == 0
    assert medseg("train", *SKY, *NET, *words, "--in", data, "--out", home / "run") == 0
    files = [f"{name}={where / name}.fits" for name in ("low", "high")]
    more = ["--probabilities", "--uncertainty", "--case", "x", "--out", home / "out"]
    assert medseg("predict", home / "run/model", *files, *more) == 0
    labels = stored(home / "out/x.fits")[0]
    return home / "run/model", labels, stored(home / "out/x_probabilities.fits")


def test_labels_lie_on_the_maps_own_pixels_and_no_unit_scales_them(sky: Path, tmp_path: Path):
    model, labels, shares = segmented(sky, tmp_path)
    assert shares.shape == (4, 12 * NSIDE**2)
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)  # float32
    assert np.array_equal(labels, shares.argmax(0))
    doubt = stored(tmp_path / "out/x_entropy.fits")[0]
    wanted = -(shares * np.log(shares)).sum(0) / np.log(4)
    np.testing.assert_allclose(doubt, wanted, atol=1e-5)
    for name in ("x", "x_probabilities", "x_entropy"):
        header = dict(healpy.read_map(tmp_path / f"out/{name}.fits", h=True)[1])
        assert header["ORDERING"] == "RING"
        assert "TUNIT1" not in header
    files = [f"{n}={sky / f'raw/test-000_{n}.fits'}" for n in ("low", "high")]
    more = ["--probabilities", "--case", "x", "--out", tmp_path / "nest"]
    assert medseg("predict", model, *files, *more) == 0
    nest = stored(tmp_path / "nest/x_probabilities.fits")
    np.testing.assert_allclose(healpy.reorder(nest, n2r=True), shares, atol=1e-4)
    words = ["--split", "test", "--out", tmp_path / "e", "--in", tmp_path / "p", "--pictures", 0]
    assert (
        medseg("predict", model, sky / "samples.csv", "--split", "test", "--out", tmp_path / "p")
        == 0
    )
    assert medseg("evaluate", "--reference", sky / "samples.csv", *words) == 0
    names = {row["structure"] for row in csv.DictReader((tmp_path / "e/scores.csv").open())}
    assert {"galaxy", "source", "hot_spot"} <= names


def test_a_coarser_nside_and_a_footprint_still_label_the_maps_own_pixels(sky, tmp_path) -> None:
    words = ["data.nside=8", "data.footprint=[1,[0,4]]"]
    model, labels, shares = segmented(sky, tmp_path, *words)
    spec = json.loads((model / "model.json").read_text())
    assert (spec["nside"], spec["footprint"]) == (8, [1, [0, 4]])
    assert spec["network"]["arguments"]["footprint"] == [1, [0, 4]]
    nest, area = healpy.reorder(shares, r2n=True), NSIDE**2
    inside = np.isin(np.arange(12 * area) // area, [0, 4])
    np.testing.assert_allclose(nest[:, inside].sum(0), 1, atol=1e-5)  # float32
    assert not nest[:, ~inside].any()
    assert np.array_equal(labels, shares.argmax(0))


def test_whole_skies_are_told_apart(sky: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader((sky / "samples.csv").open()))
    lines = [f"{r['case']},{sky / r['low']},{'ab'[n % 2]},{r['split']}" for n, r in enumerate(rows)]
    sheet = tmp_path / "samples.csv"
    sheet.write_text("\n".join(["case,map,class,split", *lines]) + "\n")
    data = ["data=table", "data.channels=[map]", "data.classes=[a,b]"]
    assert medseg("prepare", *data, "--in", sheet, "--out", tmp_path / "prepared") == 0
    net = ["task=classify", "model=spherenet_shrec", "model.widths=[4,4]", *BRIEF]
    words = ["--in", tmp_path / "prepared", "--out", tmp_path / "run"]
    assert medseg("train", *data, *net, *words) == 0
    model = tmp_path / "run/model"
    assert medseg("predict", model, sheet, "--split", "test", "--out", tmp_path / "p") == 0
    about = json.loads((tmp_path / "p/test-000.json").read_text())
    assert sum(about["probabilities"].values()) == pytest.approx(1)
    assert about["class"] == max(about["probabilities"], key=about["probabilities"].get)
    words = ["--reference", sheet, "--split", "test", "--out", tmp_path / "e"]
    assert medseg("evaluate", "--in", tmp_path / "p", *words) == 0
