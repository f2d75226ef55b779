"""Made-up microwave skies: spectrum, beam and noise as told, masks in turn, seeds of their own."""

import csv

import healpy
import numpy as np
import pytest

from medseg.data.cmb import Cmb, Simulator
from medseg.geometry.sphere import nest_numbers
from medseg.io import healpix, spectrum

SMALL = {"n_train": 1, "n_val": 1, "n_test": 3, "nside": 8}


def stream(*words):
    return np.random.default_rng(list(words))


def power(maps, nside, lmax):
    """Angular power of NESTED maps."""
    order = nest_numbers(nside)
    found = [healpy.anafast(m[order], lmax=lmax, iter=3, use_pixel_weights=False) for m in maps]
    return np.array(found)


def test_power_of_200_skies_is_the_spectrum_through_the_beam_and_the_noise():
    nside, lmax = 16, 32
    simulator = Simulator(nside, noise_uk=20.0)
    skies = [simulator.draw(stream(0, n), stream(1, n))[0].astype(float) for n in range(200)]
    prior = simulator.prior
    assert prior.beam_arcmin == 640
    assert prior.lmax == lmax
    white = 20.0**2 * 4 * np.pi / (12 * nside**2)
    expected = (prior.seen[0] + white)[2:]
    degree = np.arange(2, lmax + 1)
    off = (power(skies, nside, lmax)[:, 2:].mean(0) / expected - 1) / np.sqrt(
        2 / ((2 * degree + 1) * 200)
    )
    # in units of the cosmic variance of their mean: 31 numbers of unit normal spread
    assert np.abs(off).max() < 4
    assert 0.5 < (off**2).mean() < 1.8


def test_the_beam_is_a_gaussian_of_its_width():
    sharp, seen = (Simulator(16, lmax=20, beam_arcmin=b, noise_uk=0.0) for b in (0.0, 600.0))
    alms = [
        healpy.map2alm(
            s.draw(stream(5), stream(6))[0].astype(float)[nest_numbers(16)],
            lmax=20,
            iter=10,
            use_pixel_weights=False,
        )
        for s in (sharp, seen)
    ]
    degree, _ = healpy.Alm.getlm(20)
    sigma = np.radians(10) / np.sqrt(8 * np.log(2))
    window = np.exp(-degree * (degree + 1) * sigma**2 / 2)
    scale = np.abs(alms[0]).max()
    # float32 maps and the quadrature
    assert np.abs(alms[1] - alms[0] * window).max() < 1e-4 * scale


def test_noise_is_white_and_of_its_strength():
    silent, noisy = (
        Simulator(16, noise_uk=uk).draw(stream(5), stream(6))[0].astype(float) for uk in (0.0, 5.0)
    )
    grain = noisy - silent
    assert grain.std() == pytest.approx(5.0, rel=0.04)  # 3072 pixels: 1.3 % at one deviation
    assert abs(np.corrcoef(grain[::2], grain[1::2])[0, 1]) < 0.08


def test_a_spectrum_of_ones_own_is_used(tmp_path):
    table = np.zeros((41, 4))
    table[7, 0] = 3.0
    np.savez(tmp_path / "own.npz", total=table)
    simulator = Simulator(16, spectrum=tmp_path / "own.npz", beam_arcmin=0.0, noise_uk=0.0)
    found = power(simulator.draw(stream(1), stream(2)).astype(float), 16, 12)[0]
    assert found.argmax() == 7
    assert np.delete(found, 7).max() < 1e-4 * found[7]


@pytest.mark.parametrize("fields", ["QU", "TQU"])
def test_polarised_skies_have_a_channel_a_field(fields, tmp_path):
    cmb = Cmb(**SMALL, fields=fields)
    record = cmb.records()[0]
    sample = cmb.load(record)
    assert sample.channels == (*fields, "mask")
    assert sample.image.shape == (len(fields) + 1, 768)
    rows = list(csv.DictReader(cmb.write(tmp_path / "out").open()))
    assert {rows[0][name] for name in fields} == {"train-000.fits"}
    for name, values in zip(fields, sample.image, strict=False):
        found = healpix.read(tmp_path / "out" / "train-000.fits", channel=name)
        assert np.array_equal(found.image[0], values)


def test_a_written_case_reads_as_it_was_drawn(tmp_path):
    cmb = Cmb(**SMALL, noise_uk=2.0, mask="mixed")
    sheet = cmb.write(tmp_path / "out")
    rows = list(csv.DictReader(sheet.open()))
    assert [row["case"] for row in rows] == [r.case for r in cmb.records()]
    for record, row in zip(cmb.records(), rows, strict=True):
        sample = cmb.load(record)
        assert sample.target is None
        assert (row["beam_arcmin"], row["noise_uk"]) == ("1280", "2")
        for name, values in zip(("map", "mask"), sample.image, strict=True):
            found = healpix.read(sheet.parent / row[name], channel=name)
            assert np.array_equal(found.image[0], values)
            assert found.space.same(sample.space)
        assert set(np.unique(sample.image[1])) == {0, 1}
    prior = cmb.simulator.prior
    assert np.array_equal(spectrum.read(sheet.parent / rows[0]["spectrum"]).values, prior.spectrum)


def test_equal_seeds_write_equal_files(tmp_path):
    for name, seed in (("one", 4), ("two", 4), ("three", 5)):
        Cmb(**SMALL, mask="rotated", seed=seed).write(tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    maps = [(tmp_path / n / "test-000.fits").read_bytes() for n in ("one", "three")]
    assert maps[0] != maps[1]


def test_splits_share_no_sky_and_do_not_change_when_one_grows():
    few = Cmb(n_train=3, n_val=3, n_test=3, nside=8, added_noise_uk=0)
    more = Cmb(n_train=5, n_val=3, n_test=9, nside=8, mask="rotated", added_noise_uk=0)
    skies = [few.draw(record)[0] for record in few.records()]
    assert len({sky.tobytes() for sky in skies}) == 9
    for record, sky in zip(few.records(), skies, strict=True):
        assert np.array_equal(more.draw(record)[0], sky)


def test_one_mask_is_one_file_and_few_masks_go_round(tmp_path):
    same = Cmb(**SMALL).write(tmp_path / "same")
    assert {row["mask"] for row in csv.DictReader(same.open())} == {"mask.fits"}
    cmb = Cmb(**SMALL, mask="rotated", n_masks=2)
    turned = cmb.write(tmp_path / "turned")
    names = [row["mask"] for row in csv.DictReader(turned.open()) if row["split"] == "test"]
    assert names[0] == names[2] != names[1]
    seen = [cmb.draw(record)[1] for record in cmb.records() if record.split == "test"]
    assert np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0], seen[1])


def test_a_mask_file_is_laid_over_every_sky(tmp_path):
    north = np.zeros(768, np.uint8)
    north[: 768 // 2] = 1
    healpy.write_map(tmp_path / "own.fits", north, dtype=np.uint8, nest=True)
    cmb = Cmb(**SMALL, mask=str(tmp_path / "own.fits"))
    assert all(np.array_equal(cmb.draw(record)[1], north > 0) for record in cmb.records())


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"fields": "EB"}, "one of T, QU, TQU"),
        ({"mask": "round"}, "wmap, rotated"),
        ({"nside": 20}, "power of two"),
        ({"lmax": 5000}, "ends at l"),
        ({"noise_uk": -1.0}, "0 or more"),
        ({"n_masks": 0}, "1 or more"),
    ],
)
def test_what_makes_no_sky_is_refused(options, cure):
    with pytest.raises(ValueError, match=cure):
        Cmb(**options)


def test_a_spectrum_without_polarisation_makes_no_polarised_sky(tmp_path):
    np.savez(tmp_path / "own.npz", total=np.ones((41, 1)))
    Simulator(16, spectrum=tmp_path / "own.npz")
    with pytest.raises(ValueError, match="EE or BB"):
        Simulator(16, spectrum=tmp_path / "own.npz", fields="QU")


def test_noise_lies_where_the_sky_is_seen_and_the_truth_has_none():
    clean, noisy = (Cmb(**SMALL, added_noise_uk=uk) for uk in (0.0, 3.0))
    record = clean.records()[0]
    (sky, seen), (rough, _) = clean.draw(record), noisy.draw(record)
    assert np.array_equal(rough[:, ~seen], sky[:, ~seen])
    assert 2.5 < (rough - sky)[:, seen].std() < 3.5


def test_polarised_fields_have_a_noise_of_their_own_size():
    strong, weak = (Cmb(**SMALL, fields=fields).simulator.prior.noise_uk for fields in ("T", "QU"))
    assert (strong, weak) == (1.0, 0.01)
