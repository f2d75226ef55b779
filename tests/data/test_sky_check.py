"""`medseg check` of skies: a good sheet has no problem, each fault of a bad one is named."""

import json
from pathlib import Path

import healpy
import numpy as np
import pytest

from medseg.cli import main

NSIDE = 4
PIXELS = 12 * NSIDE**2
RNG = np.random.default_rng(0)
SKY = RNG.normal(0, 50, PIXELS)
SEEN = np.arange(PIXELS) % 5 > 0
LOST = np.where(np.arange(PIXELS) == 1, healpy.UNSEEN, SKY)


def save(
    path: Path, values, unit: str | None = None, *, nest: bool = True, dtype=np.float64
) -> None:
    values = np.asarray(values) if nest else healpy.reorder(np.asarray(values), n2r=True)
    more = {"column_units": unit, "dtype": dtype}
    healpy.write_map(path, values, nest=nest, overwrite=True, **more)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skies")
    save(folder / "map.fits", SKY, "uK")
    save(folder / "ring.fits", SKY, "mK", nest=False)
    save(folder / "bare.fits", SKY)
    save(folder / "lost.fits", LOST, "uK")
    save(folder / "void.fits", np.full(PIXELS, healpy.UNSEEN), "uK")
    save(folder / "mask.fits", SEEN)
    save(folder / "fine.fits", np.repeat(SEEN, 4))
    for number in (0, 1):
        save(folder / f"{number}s.fits", np.full(PIXELS, number))
        save(folder / f"label{number}.fits", np.arange(PIXELS) % (3 + number), dtype=np.uint8)
    np.savez(folder / "cl.npz", total=np.ones((9, 4)) * [1, 1, 1, 0])
    np.savez(folder / "short.npz", total=np.ones((5, 4)) * [1, 1, 1, 0])
    (folder / "text.npz").write_text("none")
    return folder


def check(home: Path, out: Path, rows: list[str], *words: str, columns="map,mask,spectrum"):
    """The exit code, and each case's problems and what they found."""
    lines = [f"{n},{row}" for n, row in enumerate(rows)]
    sheet = home / "samples.csv"
    sheet.write_text("\n".join([f"case,{columns}", *lines]) + "\n")
    code = main(["check", str(sheet), "--out", str(out), *words])
    content = json.loads((out / "check.json").read_text())
    found = {(p["case"], p["check"]): f"{p['found']} | {p['expected']} | {p['cure']}"
             for p in content["problems"]}  # fmt: skip
    return code, found, content["notes"]


def test_a_good_sheet_has_no_problem(home: Path, tmp_path: Path) -> None:
    rows = ["map.fits,mask.fits,cl.npz", "ring.fits,mask.fits,cl.npz"]
    code, found, notes = check(home, tmp_path, rows)
    assert (code, found, notes) == (0, {}, [])


@pytest.mark.parametrize(
    ("row", "kind", "told"),
    [
        ("map.fits,0s.fits,cl.npz", "mask", "0 everywhere | 1 where seen, 0 in holes"),
        ("map.fits,1s.fits,cl.npz", "mask", "1 everywhere | 1 where seen, 0 in holes"),
        ("map.fits,fine.fits,cl.npz", "geometry", "nside 8 and the case's first file nside 4"),
        ("void.fits,mask.fits,cl.npz", "values", "no pixel has a value"),
        ("lost.fits,mask.fits,cl.npz", "holes", "map: 1 pixels are UNSEEN or NaN where mask is 1"),
        ("map.fits,mask.fits,short.npz", "spectrum", "ends at l = 4 | l = 8 (2 nside)"),
        ("map.fits,mask.fits,text.npz", "unreadable", "text.npz"),
        ("none.fits,mask.fits,cl.npz", "missing file", "none.fits"),
    ],
)
def test_each_fault_is_named(home: Path, tmp_path: Path, row: str, kind: str, told: str) -> None:
    code, found, _ = check(home, tmp_path, ["map.fits,mask.fits,cl.npz", row])
    assert code == 1
    assert list(found) == [("1", kind)]
    assert told in found["1", kind]


def test_a_map_without_unit_is_told(home: Path, tmp_path: Path) -> None:
    code, found, notes = check(home, tmp_path, ["bare.fits,mask.fits,cl.npz"])
    assert (code, found) == (0, {})
    assert "bare.fits says no unit of temperature; give --unit mK" in notes[0]


def test_the_sheets_unit_counts_as_it_does_elsewhere(home: Path, tmp_path: Path) -> None:
    rows = ["bare.fits,mask.fits,cl.npz,mK", "map.fits,mask.fits,cl.npz,"]
    code, found, notes = check(home, tmp_path, rows, columns="map,mask,spectrum,unit")
    assert (code, found, notes) == (0, {}, [])
    shipped = "data/samples/sky/samples.csv"
    words = ["--channels", "map,mask", "--out", str(tmp_path)]
    assert main(["check", shipped, *words]) == 0
    assert json.loads((tmp_path / "check.json").read_text())["notes"] == []


def test_the_right_columns_are_read(home: Path, tmp_path: Path) -> None:
    save(home / "qu.fits", np.stack([SKY, LOST]), "uK")
    code, found, _ = check(home, tmp_path, ["qu.fits,mask.fits"], columns="map,mask")
    assert code == 1
    assert (
        "holds Stokes Q (0 Q_POLARISATION, 1 U_POLARISATION), and map is Stokes T"
        in found["0", "unreadable"]
    )
    code, found, _ = check(home, tmp_path, ["qu.fits,qu.fits,mask.fits"], columns="Q,U,mask")
    assert [key for key in found if key[1] == "holes"] == [("0", "holes")]


@pytest.mark.parametrize("column", ["mask", "map"])
def test_the_cure_for_other_pixels_mends_the_file(
    home: Path, tmp_path: Path, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(home / "big.fits", np.repeat(SKY, 4), "mK")
    row = {"mask": "map.fits,fine.fits", "map": "mask.fits,big.fits"}[column]
    columns = {"mask": "map,mask", "map": "mask,map"}[column]
    _, found, _ = check(home, tmp_path, [row], columns=columns)
    cure = found["0", "geometry"].split(" | ")[2]
    monkeypatch.chdir(tmp_path)
    exec(cure.split('python -c "')[1].removesuffix('"'), {})  # noqa: S102 -- our own line
    names = {"mask": "map.fits,mended.fits", "map": "mask.fits,mended.fits"}[column]
    (tmp_path / "mended.fits").rename(home / "mended.fits")
    code, found, notes = check(home, tmp_path, [names], columns=columns)
    assert (code, found, notes) == (0, {}, [])
    (home / "mended.fits").unlink()


def test_labels_of_skies_are_compared_with_their_names(home: Path, tmp_path: Path) -> None:
    rows = ["map.fits,label0.fits,train", "map.fits,label1.fits,train", "map.fits,fine.fits,train",
            "map.fits,,train"]  # fmt: skip
    words = ["--labels", "band=1", "disc=2"]
    code, found, _ = check(home, tmp_path, rows, *words, columns="map,label,split")
    assert code == 1
    kinds = {("1", "label values"), ("2", "geometry"), ("3", "missing label")}
    assert set(found) - {key for key in found if "twice" in key[1]} >= kinds
    assert not [case for case, _ in found if case == "0"]
    assert "[3] in" in found["1", "label values"]
