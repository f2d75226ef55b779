"""Bad skies and recipes: what came, what is wanted, how to mend it; and nothing half-written."""

import json
import subprocess
import sys
from pathlib import Path

import healpy
import numpy as np
import pytest
import skyfolder
import tiny
import torch
from astropy.io import fits
from skyfolder import belt, save

from medseg import package
from medseg.cli import main

NSIDE = 8
PIXELS = 12 * NSIDE**2
MAP, MASK, CL = "map={home}/a.fits", "mask={home}/mask.fits", "spectrum={home}/cl.npz"


def bent(source: Path, name: str, **cards: object) -> None:
    """A copy with other words in its header."""
    with fits.open(source) as found:
        found[1].header.update(cards)
        found.writeto(source.with_name(name))


def network(folder: Path, stem: str, kind: str, task: str, **fields) -> None:
    """An untrained network of the sphere."""
    sizes = {"in_channels": len(fields["channels"]), "widths": [8]}
    sizes |= {"dilations": [[1]], "decoder": []} if stem == "skyreconnet" else {"n_classes": 2}
    about = {"name": stem, "class": kind, "arguments": sizes}
    rest = {"intensity": "zscore", "spacing_mm": None, "slice_axis": None, "patch_size": [PIXELS]}
    torch.manual_seed(0)
    spec = {"task": {"name": task, "arguments": {}}, "network": about, "ndim": 1, **rest, **fields}
    package.save(folder, package.build(about), spec={"optional_channels": True, **spec})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    sky, seen = skyfolder.sky("a", nside=NSIDE), ~belt(NSIDE)
    save(folder / "a.fits", sky)
    save(folder / "mask.fits", seen.astype(float), unit=None)
    save(folder / "coarse.fits", (~belt(4)).astype(float), unit=None)
    save(folder / "ones.fits", np.ones(PIXELS), unit=None)
    save(folder / "zeros.fits", np.zeros(PIXELS), unit=None)
    save(folder / "bare.fits", sky / 1e3, unit=None)
    lost = np.where(np.arange(PIXELS) == np.flatnonzero(seen)[4], healpy.UNSEEN, sky)
    save(folder / "lost.fits", lost)
    bent(folder / "a.fits", "odd.fits", NSIDE=12)
    bent(folder / "a.fits", "order.fits", ORDERING="SPIRAL")
    with fits.open(folder / "a.fits") as found:
        short = fits.BinTableHDU.from_columns(
            [fits.Column("T", "E", unit="uK", array=sky[0, :200])]
        )
        cards = {"ORDERING": "NESTED", "NSIDE": NSIDE, "INDXSCHM": "EXPLICIT", "PIXTYPE": "HEALPIX"}
        short.header.update(cards)
        fits.HDUList([found[0], short]).writeto(folder / "part.fits")
    for name, length in (("cl", 2 * NSIDE + 1), ("short", 10)):
        np.savez(folder / f"{name}.npz", total=skyfolder.prior(NSIDE).spectrum.T[:length])
    tiny.scan(folder / "scan.nii.gz")
    tiny.model(folder / "unet", channels=("map",))
    labels = {"labels": {"spot": [1]}, "instances": [], "nside": NSIDE}
    network(folder / "net", "spherenet", "SphereNet", "segment", channels=["map"], **labels)
    known = {"spectrum": skyfolder.prior(16).spectrum.tolist(), "beam_arcmin": 0, "noise_uk": 1}
    filler = {"channels": ["map", "mask"], "nside": 16, "prior": known}
    network(folder / "filler", "skyreconnet", "SkyReconNet", "inpaint", **filler)
    return folder


def refused(home: Path, out: Path, words: list[str], capfd) -> str:
    """What a call says that fails and leaves nothing behind."""
    filled = [word.replace("{home}", str(home)) for word in words]
    assert main([*filled, "--out", str(out)]) == 1
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert not out.exists()
    return error


DIFFUSION, WIENER = ["predict", "method:diffusion"], ["predict", "method:wiener"]
TOLD = ["--beam-arcmin", "0", "--noise-uk", "1"]
PREDICT = {
    "nside": ([*DIFFUSION, MAP, "mask={home}/coarse.fits"],
              "nside 4 and the case's first file nside 8; bring it to the same: python -c"),
    "ones": ([*DIFFUSION, MAP, "mask={home}/ones.fits"], "leaves no hole"),
    "zeros": ([*DIFFUSION, MAP, "mask={home}/zeros.fits"], "is it inverted or the wrong file?"),
    "temperatures": ([*DIFFUSION, MAP, "mask={home}/bare.fits"], "a mask is 1 where the sky is"),
    "no mask": ([*DIFFUSION, MAP], "leaves no hole, so there is nothing to fill; give mask=PATH"),
    "unseen": ([*DIFFUSION, "map={home}/lost.fits", MASK], "set the mask to 0 there, or give no"),
    "unit": ([*DIFFUSION, "map={home}/bare.fits", MASK], "has no unit; say it with --unit mK"),
    "wrong unit": ([*DIFFUSION, MAP, MASK, "--unit", "MJy"], "give K, mK or uK"),
    "power": ([*DIFFUSION, "map={home}/odd.fits", MASK], "NSIDE is 12; it must be a power of two"),
    "ordering": ([*DIFFUSION, "map={home}/order.fits", MASK], "say it with --ordering ring or"),
    "part": ([*DIFFUSION, "map={home}/part.fits", MASK], "without pixel numbers; write it again"),
    "short": ([*WIENER, MAP, MASK, "spectrum={home}/short.npz", *TOLD], "give a longer one"),
    "lmax": ([*WIENER, MAP, MASK, CL, *TOLD, "--lmax", "40"], "ends at l = 16, and l = 40"),
    "beam": ([*WIENER, MAP, MASK, CL], "say --beam-arcmin (0 for none)"),
    "spectrum": ([*WIENER, MAP, MASK], "needs the sky's spectrum; give spectrum=FILE"),
    "a map": ([*WIENER, MAP, MASK, "spectrum={home}/bare.fits"], "no angular power spectrum"),
    "negative": ([*WIENER, MAP, MASK, CL, *TOLD[:2], "--noise-uk", "-1"], "are 0 or more"),
    "samples": ([*DIFFUSION, MAP, MASK, "--samples", "2"], "leave --samples out, or take wiener"),
    "none": ([*WIENER, MAP, MASK, CL, "--samples", "0"], "give 1 or more, or leave it out"),
    "model's lmax": (["predict", "{home}/filler", MAP, MASK, "--lmax", "99"], "ends at l = 32"),
    "coarse": (["predict", "{home}/filler", MAP, MASK], "take method:wiener, which is exact there"),
    "image": ([*DIFFUSION, "map={home}/scan.nii.gz", MASK], "is an image where a HEALPix map is"),
    "image mask": ([*DIFFUSION, MAP, "mask={home}/scan.nii.gz"], "give files of one kind"),
    "image, net": (["predict", "{home}/net", "{home}/scan.nii.gz"],
                   "is an image, and the model works on a map of the sphere"),
    "sky, unet": (["predict", "{home}/unet", "{home}/a.fits"],
                  "is a map of the sphere, and the model works on an image"),
    "learned": (["predict", "method:skyreconnet", MAP, MASK], "has to be trained"),
}  # fmt: skip


@pytest.mark.parametrize("name", PREDICT)
def test_a_sky_that_cannot_be_predicted_is_refused(home, tmp_path, capfd, name) -> None:
    words, told = PREDICT[name]
    assert told in refused(home, tmp_path / "new/out", words, capfd)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("word", "value"), [("--unit", "mK"), ("--ordering", "nested")])
def test_the_cures_cure(home: Path, tmp_path: Path, word: str, value: str) -> None:
    name = "bare" if word == "--unit" else "order"
    files = [f"map={home / name}.fits", f"mask={home / 'mask.fits'}"]
    known = ["--no-picture", "--out", str(tmp_path)]
    assert main([*DIFFUSION, *files, word, value, *known]) == 0
    given, found = (
        healpy.read_map(f, nest=True) for f in (home / "a.fits", tmp_path / f"{name}.fits")
    )
    factor = 1e3 if word == "--unit" else 1
    np.testing.assert_allclose((factor * found)[~belt(NSIDE)], given[~belt(NSIDE)])


def test_an_earlier_prediction_stays_and_is_marked(home: Path, tmp_path: Path, capfd) -> None:
    words = [*DIFFUSION, "--no-picture", "--case", "x", "--out", str(tmp_path)]
    good, bad = f"mask={home / 'mask.fits'}", f"mask={home / 'zeros.fits'}"
    assert main([*words, f"map={home / 'a.fits'}", good]) == 0
    before = (tmp_path / "x.fits").read_bytes()
    assert main([*words, f"map={home / 'a.fits'}", bad]) == 1
    assert "its earlier prediction stays and is marked as stale" in capfd.readouterr().err
    assert (tmp_path / "x.fits").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"x.fits", "x.json"}
    assert json.loads((tmp_path / "x.json").read_text())["status"] == "stale"


CMB = ["data=cmb", "data.source.nside=8"]
RECIPES = {
    "unet fills": (["train", "task=inpaint", "model=unet", *CMB], "do not fit; maps are filled by"),
    "filler labels": (["train", "task=segment", "model=skyreconnet", *CMB], "do not fit; maps are"),
    "labels": (["train", "task=inpaint", "model=skyreconnet", *CMB, "data.labels={a:[1]}"],
               "learns the maps themselves"),
    "labelled data": (["train", "task=inpaint", "model=skyreconnet", "data=sky"], "e.g. data=cmb"),
    "no labels": (["train", "model=spherenet", *CMB], "data.labels is empty; name what to find"),
    "nside": (["prepare", *CMB, "data.nside=12"], "nside is 12; it must be a power of two"),
    "source": (["prepare", "data=cmb", "data.source.nside=12"], "it must be a power of two"),
    "part": (["prepare", *CMB, "data.footprint=[1,[12]]"], "pixel numbers of nside 1 lie in 0..11"),
    "no part": (["prepare", *CMB, "data.footprint=[0]"], "give [nside, [pixels]]"),
    "weight": (["train", "task=inpaint", "model=skyreconnet", *CMB, "task.ssim=-1"],
               "a weight is 0 or more"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_that_does_not_fit_skies_is_refused(home, tmp_path, capfd, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    words, told = RECIPES[name]
    assert told in refused(home, tmp_path / "out", words, capfd)
    assert not list(tmp_path.iterdir())


def sheet(path: Path, home: Path, *rows: str) -> Path:
    lines = [",".join(str(home / c) if "." in c else c for c in r.split(",")) for r in rows]
    path.write_text("\n".join(["case,map,mask,split", *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("b,a.fits,coarse.fits,train", "has nside 4 and the case's first file nside 8"),
        ("b,bare.fits,mask.fits,train", "has no unit; say it with --unit mK"),
        ("b,part.fits,mask.fits,train", "without pixel numbers"),
        ("b,odd.fits,mask.fits,train", "must be a power of two"),
    ],
)
def test_a_sheet_with_a_bad_sky_prepares_nothing(home, tmp_path, capfd, row, told) -> None:
    data = ["data=table", "data.channels=[map,mask]", "data.intensity=none"]
    path = sheet(tmp_path / "samples.csv", home, row)
    found = refused(home, tmp_path / "out", ["prepare", *data, "--in", str(path)], capfd)
    assert told in found
    assert "case b" in found


def test_networks_and_data_of_another_kind_are_told_apart(home, tmp_path, capfd) -> None:
    data = ["data=table", "data.channels=[map]", "data.classes=[a,b]"]
    path = tmp_path / "samples.csv"
    rows = [f"{n},{home / 'a.fits'},{'ab'[n % 2]},train" for n in range(2)]
    path.write_text("\n".join(["case,map,class,split", *rows]) + "\n")
    prepared = tmp_path / "prepared"
    assert main(["prepare", *data, "--in", str(path), "--out", str(prepared)]) == 0
    words = [
        "train",
        *data,
        "model=complexresnet",
        "model.arm=real",
        "task=classify",
        "--in",
        str(prepared),
    ]
    told = refused(home, tmp_path / "run", words, capfd)
    assert "the prepared data are maps of the sphere, and model=complexresnet sees images" in told


def test_the_command_itself_ends_with_one_line_and_a_code(home: Path, tmp_path: Path) -> None:
    bad = sheet(tmp_path / "samples.csv", home, "b,a.fits,zeros.fits,test")
    lines = {
        "predict": [*PREDICT["ones"][0], "--out", "p"],
        "prepare": [*RECIPES["nside"][0], "--out", "q"],
        "check": ["check", str(bad), "--out", "c"],
    }
    started = {}
    for stage, words in lines.items():
        command = [
            sys.executable,
            "-m",
            "medseg.cli",
            *(w.replace("{home}", str(home)) for w in words),
        ]
        started[stage] = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    told = {stage: process.communicate(timeout=120)[0] for stage, process in started.items()}
    assert [process.returncode for process in started.values()] == [1, 1, 1]
    assert "leaves no hole" in told["predict"]
    assert "power of two" in told["prepare"]
    assert "1 where seen, 0 in holes" in told["check"]
    assert not any("Traceback" in text for text in told.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "samples.csv"]
