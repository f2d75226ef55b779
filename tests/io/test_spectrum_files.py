from pathlib import Path

import healpy
import numpy as np
import pytest

import medseg
from medseg.geometry.spectrum import Prior
from medseg.io import formats, spectrum

LMAX = 40
DEGREE = np.arange(LMAX + 1)
TO_DL = DEGREE * (DEGREE + 1) / (2 * np.pi)


@pytest.fixture
def power() -> np.ndarray:
    """C_l of T, E, B and TE with nothing below l = 2."""
    tt = 1000.0 / np.maximum(DEGREE, 1) ** 2
    found = np.stack([tt, 0.01 * tt, 0.001 * tt, 0.05 * tt * np.cos(DEGREE)])
    found[:, :2] = 0
    return found


def text(path: Path, columns: np.ndarray, *, head: str = "", start: int = 2) -> Path:
    rows = np.column_stack([DEGREE, columns.T])[start:]
    lines = [" ".join(f"{number:.12g}" for number in row) for row in rows]
    path.write_text("\n".join([head, *lines] if head else lines) + "\n")
    return path


def refusal(path: Path, **options) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the text is the caller's
        spectrum.read(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_every_kind_of_file_gives_the_same_spectrum(tmp_path, power):
    np.savez(tmp_path / "a.npz", total=power.T, unlensed=power.T * 2)
    healpy.write_cl(str(tmp_path / "b.fits"), power, column_units="uK^2")
    six = np.concatenate([power, np.ones((2, LMAX + 1))])
    healpy.write_cl(str(tmp_path / "c.fits"), six / 1e6, column_units="mK2")
    odd = {"column_names": list("abcd"), "extra_header": [("EXTNAME", "POWER SPECTRUM")]}
    healpy.write_cl(str(tmp_path / "d.fits"), power / 1e12, column_units="K^2", **odd)
    text(tmp_path / "e.dat", power * TO_DL)
    text(tmp_path / "f.txt", power * TO_DL, head="#    L    TT    EE    BB    TE", start=0)
    text(tmp_path / "g.txt", power[[0, 3, 1, 2]] * TO_DL, head="# L TT TE EE BB")
    text(tmp_path / "h.txt", power, head="# C_l in muK^2", start=1)
    for path in sorted(tmp_path.iterdir()):
        found = spectrum.read(path)
        assert found.values == pytest.approx(power, rel=1e-6, abs=1e-12), path
        assert found.columns == ("TT", "EE", "BB", "TE")
        assert found.kind == ("dl" if path.name[0] in "efg" else "cl")
        assert f"read as {found.kind}" in found.said
        assert Prior(found.values).upto(LMAX).lmax == LMAX


def test_the_temperature_alone_is_enough(tmp_path, power):
    np.savez(tmp_path / "a.npz", total=power[0])
    healpy.write_cl(str(tmp_path / "b.fits"), power[0])
    text(tmp_path / "c.txt", power[:1] * TO_DL, head="# l D_l = l(l+1)C_l/2pi")
    text(tmp_path / "d.txt", power[:1], head="# ell C_ell")
    for path in sorted(tmp_path.iterdir()):
        found = spectrum.read(path)
        assert found.columns == ("TT",)
        assert found.values[0] == pytest.approx(power[0], rel=1e-6, abs=1e-12)
        assert not found.values[1:].any()
    assert "names no unit that is known" in spectrum.read(tmp_path / "b.fits").said


def test_the_kind_can_be_said(tmp_path, power):
    np.savez(tmp_path / "a.npz", total=(power * TO_DL).T)
    text(tmp_path / "b.txt", power)
    text(tmp_path / "c.txt", power[:1])
    told = spectrum.read(tmp_path / "a.npz", kind="dl")
    assert told.values == pytest.approx(power, rel=1e-9, abs=1e-12)
    assert told.kind == "dl"
    assert "read as dl (as was told)" in told.said
    assert spectrum.read(tmp_path / "b.txt", kind="cl").values == pytest.approx(power)
    assert spectrum.read(tmp_path / "c.txt", kind="cl").values[0] == pytest.approx(power[0])
    assert "may be C_l or D_l" in refusal(tmp_path / "c.txt")
    with pytest.raises(ValueError, match="--spectrum-kind Dl"):
        spectrum.read(tmp_path / "a.npz", kind="Dl")


@pytest.mark.parametrize(
    ("row", "value", "words"),
    [
        (0, np.nan, "TT is NaN or infinite at l = 7 (1 such values)"),
        (2, np.inf, "BB is NaN or infinite"),
        (0, -1.0, "TT is negative at l = 7"),
        (1, -1.0, "EE is negative at l = 7"),
        (3, 1e3, "|TE|² exceeds TT EE at l = 7"),
    ],
)
def test_what_no_sky_has_is_refused(tmp_path, power, row, value, words):
    power[row, 7] = value
    np.savez(tmp_path / "a.npz", total=power.T)
    assert words in refusal(tmp_path / "a.npz")
    assert words in refusal(text(tmp_path / "a.txt", power), kind="cl")
    healpy.write_cl(str(tmp_path / "a.fits"), power)
    assert words in refusal(tmp_path / "a.fits")


def test_columns_in_another_order_do_not_pass_in_silence(tmp_path, power):
    swapped = text(tmp_path / "a.txt", power[[0, 3, 1, 2]] * TO_DL)
    assert "are the columns in the order TT EE BB TE?" in refusal(swapped)
    three = text(tmp_path / "b.txt", power[[0, 1, 3]] * TO_DL)
    assert "name them in a first line: # L TT TE EE" in refusal(three)
    named = text(tmp_path / "c.txt", power[[0, 1, 3]] * TO_DL, head="# L TT EE TE")
    assert spectrum.read(named).columns == ("TT", "EE", "TE")


def test_what_is_empty_or_cannot_be_read_is_refused(tmp_path, power):
    (tmp_path / "none.npz").touch()
    assert "empty (0 bytes)" in refusal(tmp_path / "none.npz")
    (tmp_path / "folder.npz").mkdir()
    assert "a folder" in refusal(tmp_path / "folder.npz")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        spectrum.read(tmp_path / "missing.npz")
    np.savez(tmp_path / "a.npz", total=power.T)
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal(tmp_path / "cut.npz")
    np.savez(tmp_path / "b.npz", cls=power.T)
    assert "holds cls, and no `total`" in refusal(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", total=power)
    assert "turn it round: total.T" in refusal(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", total=np.zeros((9, 4)))
    assert "hold no power" in refusal(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", total=np.array(["a", "b"]))
    assert "has the shape (2, 1)" in refusal(tmp_path / "e.npz")
    for content in ("hello\n", "1 2 3\n4 5\n", "\n\n", "2\n3\n", "\x00\xff"):
        (tmp_path / "a.txt").write_bytes(content.encode("latin-1"))
        assert "no table of numbers" in refusal(tmp_path / "a.txt")
    healpy.write_map(str(tmp_path / "map.fits"), np.ones(192, np.float32))
    assert "no angular power spectrum" in refusal(tmp_path / "map.fits")
    healpy.write_cl(str(tmp_path / "a.fits"), power)
    whole = (tmp_path / "a.fits").read_bytes()
    for size in (100, 2880, 5760, 6000):
        (tmp_path / "cut.fits").write_bytes(whole[:size])
        refusal(tmp_path / "cut.fits")


def test_bands_and_late_starts_are_refused(tmp_path, power):
    path = text(tmp_path / "a.txt", power * TO_DL, start=5)
    assert "l runs from 5 to 40" in refusal(path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[::3]))
    assert "with gaps or bands" in refusal(path)


def test_the_shipped_spectrum_is_plancks():
    found = spectrum.planck18()
    assert found.shape == (4, 769)
    degree = np.arange(769)
    height = found[0] * degree * (degree + 1) / (2 * np.pi)
    assert height[2] == pytest.approx(1022, abs=1)
    assert height[220] == pytest.approx(5733, abs=1)
    assert height[2:].argmax() == pytest.approx(218, abs=5)


def test_the_shipped_spectrum_is_found_in_an_installed_package(tmp_path, monkeypatch):
    own = Path(medseg.__file__).parents[1] / "data/samples/sky/planck18_cl.npz"
    package = tmp_path / "site-packages/medseg"
    there = package / "_workflow/data/samples/sky/planck18_cl.npz"
    monkeypatch.setattr(medseg, "__file__", str(package / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="reinstall medseg"):
        spectrum.planck18()
    there.parent.mkdir(parents=True)
    there.write_bytes(own.read_bytes())
    assert spectrum.planck18().shape == (4, 769)


def test_a_spectrum_is_no_image(tmp_path, power):
    names = [module.__name__.rpartition(".")[2] for module in formats.modules()]
    assert "spectrum" not in names
    np.savez(tmp_path / "a.npz", total=power.T)
    assert not formats.is_image(tmp_path / "a.npz")


def test_real_spectra_are_read(reference):
    folder = reference / "data/sphere"
    own = spectrum.read(folder / "camb_planck18_cl.npz")
    assert own.values[:, :769] == pytest.approx(spectrum.planck18(), rel=1e-6)
    camb = spectrum.read(folder / "healpy/totcls.dat")
    assert camb.kind == "dl"
    degree, tt = np.loadtxt(folder / "healpy/totcls.dat").T[:2]
    scale = degree * (degree + 1) / (2 * np.pi)
    assert camb.values[0] * scale == pytest.approx(tt)
    for path in (folder / "healpy").glob("cl_*.fits"):
        rows = np.atleast_2d(healpy.read_cl(str(path)))
        assert spectrum.read(path).values[0] == pytest.approx(rows[0])
        if len(rows) > 3:
            assert spectrum.read(path).values == pytest.approx(rows[:4])
