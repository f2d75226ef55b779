import argparse

import healpy
import numpy as np
import pytest
from astropy.io import fits

from medseg.geometry.sphere import Sphere, nested
from medseg.io import formats, healpix
from medseg.sample import Sample

NSIDE = 16
NPIX = 12 * NSIDE**2
SAMPLES = "data/samples/sky"


def values(seed: int = 0, kind=np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 100, NPIX).astype(kind)


def saved(path, maps, **options):
    """A file that healpy wrote."""
    healpy.write_map(str(path), maps, overwrite=True, **options)
    return path


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16, np.int32, np.uint8])
def test_what_healpy_wrote_is_read_as_healpy_reads_it(tmp_path, nest, kind):
    path = saved(tmp_path / "a.b.fits", values(kind=kind), nest=nest, coord="E")
    sample = formats.read(path, volume=None)
    expected = healpy.read_map(str(path), nest=None)
    assert (sample.image[0] == expected).all()
    assert sample.image.shape == (1, NPIX)
    assert sample.id == "a.b"
    assert sample.channels == ("map",)
    assert sample.space.same(Sphere(NSIDE, nest, frame="E"))
    assert sample.space.frame == "E"
    assert formats.read_header(path).same(sample.space)
    turned = nested(sample.image[0], sample.space)
    assert (turned == healpy.read_map(str(path), nest=True)).all()
    assert formats.output_suffix(path) == ".fits"


@pytest.mark.parametrize("nest", [False, True])
def test_a_part_of_the_sky_is_read_as_healpy_reads_it(tmp_path, nest):
    whole = values()
    whole[np.random.default_rng(1).random(NPIX) < 0.7] = healpy.UNSEEN
    path = saved(tmp_path / "part.fits", [whole, 2 * whole], nest=nest, partial=True)
    sample = formats.read(path)
    assert sample.space.nest is nest
    assert (sample.space.pixels == np.flatnonzero(whole != healpy.UNSEEN)).all()
    assert same_bits(sample.image[0], whole[sample.space.pixels])
    again = tmp_path / "again.fits.gz"
    formats.write(again, sample.image[0], grid=sample.space, meta=sample.meta)
    assert same_bits(
        healpy.read_map(str(again), nest=None).astype("f4"),
        healpy.read_map(str(path), nest=None).astype("f4"),
    )


def test_pixels_in_any_order_are_sorted(tmp_path):
    numbers = np.random.default_rng(2).permutation(NPIX)[:50]
    columns = [fits.Column("PIXEL", "J", array=numbers), fits.Column("X", "E", array=numbers / 2)]
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update({"ORDERING": "NESTED", "NSIDE": NSIDE, "INDXSCHM": "EXPLICIT"})
    table.writeto(tmp_path / "a.fits")
    sample = formats.read(tmp_path / "a.fits")
    assert (sample.space.pixels == np.sort(numbers)).all()
    assert (sample.image[0] == sample.space.pixels / 2).all()


def test_a_sky_that_numbers_every_pixel_is_whole(tmp_path):
    numbers = np.arange(NPIX)[::-1]
    columns = [fits.Column("IPIX", "J", array=numbers), fits.Column("X", "D", array=numbers)]
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update({"ORDERING": "RING", "NSIDE": NSIDE, "INDXSCHM": "EXPLICIT"})
    table.writeto(tmp_path / "a.fits")
    sample = formats.read(tmp_path / "a.fits")
    assert sample.space.whole
    assert (sample.image[0] == np.arange(NPIX)).all()


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".fit"])
@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_map_comes_back_as_it_was(tmp_path, suffix, nest, kind):
    own = values(kind=kind)
    own[7] = healpy.UNSEEN
    path = saved(
        tmp_path / "a.fits", own, nest=nest, coord="C", column_names=["I_STOKES"], column_units="mK"
    )
    sample = formats.read(path, channel="T")
    assert np.isnan(sample.image[0, 7])
    out = tmp_path / f"b{suffix}"
    formats.write(out, sample.image[0], grid=sample.space, meta=sample.meta)
    back, was = (healpy.read_map(str(p), nest=None) for p in (out, path))
    assert back.dtype.itemsize == np.dtype(kind).itemsize
    # Times 1000 and over 1000 in double precision: exact for single precision, else two roundings.
    assert back == pytest.approx(was, rel=0 if kind is np.float32 else 4e-16, abs=0)
    one, two = (fits.getheader(p, 1) for p in (path, out))
    for key in ("PIXTYPE", "ORDERING", "NSIDE", "COORDSYS", "TTYPE1", "TUNIT1", "TFORM1"):
        assert one[key] == two[key]
    assert healpix.handles(out)


def test_equal_maps_give_equal_bytes_and_an_old_file_stays_if_writing_fails(tmp_path):
    sample = formats.read(saved(tmp_path / "a.fits", values()))
    for name in ("b.fits.gz", "c.fits.gz"):
        formats.write(tmp_path / name, sample.image[0], grid=sample.space, meta={})
    before = (tmp_path / "b.fits.gz").read_bytes()
    assert before == (tmp_path / "c.fits.gz").read_bytes()
    with pytest.raises(ValueError, match="not on a sphere of"):
        formats.write(tmp_path / "b.fits.gz", np.zeros(5), grid=sample.space, meta={})
    with pytest.raises(ValueError, match="none that a map can hold"):
        formats.write(tmp_path / "b.fits.gz", np.zeros(NPIX, "c8"), grid=sample.space, meta={})
    assert (tmp_path / "b.fits.gz").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        *[("K", 1e6), ("mK", 1e3), ("uK", 1), ("muK", 1), ("microK", 1), ("nK", 1e-3)],
        *[("K_CMB", 1e6), ("Kcmb", 1e6), ("uK_CMB", 1), ("mKelvin", 1e3)],
        ("mK,thermodynamic", 1e3),
    ],
)
def test_temperatures_are_microkelvin_inside_and_the_files_own_outside(tmp_path, unit, factor):
    own = values()
    path = saved(tmp_path / "a.fits", own, column_units=unit)
    for channel in ("map", "T", None, "other"):
        sample = healpix.read(path, channel=channel)
        assert sample.image[0] == pytest.approx(own.astype(float) * factor, rel=1e-7)
        assert sample.meta["unit"] == unit
    out = tmp_path / "b.fits"
    healpix.write(out, sample.image, grid=sample.space, meta=sample.meta)
    assert same_bits(healpy.read_map(str(out), nest=None), healpy.read_map(str(path), nest=None))
    assert fits.getheader(out, 1)["TUNIT1"] == unit


def test_a_unit_is_wanted_of_temperatures_alone(tmp_path):
    own = values()
    path = saved(tmp_path / "a.fits", own)
    for channel in ("map", "T", "I_STOKES"):
        with pytest.raises(ValueError, match=r"column T has no unit; say it with --unit mK"):
            healpix.read(path, channel=channel)
        with pytest.raises(ValueError, match="has no unit"):
            healpix.read_header(path, channel=channel)
        told = healpix.read(path, channel=channel, unit="µK")
        assert (told.image[0] == own).all()
        assert told.meta["unit"] == "uK"
    for channel in ("mask", "depth", None):
        assert same_bits(healpix.read(path, channel=channel).image[0], own)
    assert healpix.read(path, channel="mask", unit="mK").meta["unit"] is None
    assert (healpix.read(path, channel="mask", unit="mK").image[0] == own).all()
    for unit in ("MJy/sr", "K_RJ", "unknown"):
        odd = saved(tmp_path / "odd.fits", own, column_units=unit)
        with pytest.raises(ValueError, match=f"the unit '{unit}', which is no temperature"):
            healpix.read(odd, channel="map")
        assert same_bits(healpix.read(odd, channel="dust").image[0], own)
        assert healpix.read(odd, channel="dust").meta["unit"] == unit
        assert healpix.read(odd, channel="map", unit="K").image[0] == pytest.approx(own * 1e6)
    with pytest.raises(ValueError, match="--unit metres is no temperature"):
        healpix.read(path, unit="metres")


def test_a_channel_chooses_its_column(tmp_path):
    tqu = np.stack([values(seed) for seed in range(3)])
    path = saved(tmp_path / "a.fits", tqu, column_units="uK")
    for channel, number in {"map": 0, "T": 0, "Q": 1, "U": 2, "Q_POLARISATION": 1}.items():
        assert same_bits(healpix.read(path, channel=channel).image[0], tqu[number])
        assert healpix.read(path, channel=channel).channels == (channel,)
    wmap = saved(
        tmp_path / "w.fits", tqu, column_units="uK", column_names=["I_STOKES", "Q-STOKES", "u"]
    )
    assert same_bits(healpix.read(wmap, channel="U").image[0], tqu[2])
    names = ["HITS", "X", "I_STOKES"]
    other = saved(tmp_path / "o.fits", tqu, column_units="uK", column_names=names)
    assert same_bits(healpix.read(other, channel="map").image[0], tqu[2])
    assert same_bits(healpix.read(other, channel="hits").image[0], tqu[0])
    assert same_bits(healpix.read(other, channel="mask").image[0], tqu[0])
    with pytest.raises(ValueError, match=r"none is named Q; choose with --field .*0 HITS, 1 X"):
        healpix.read(other, channel="Q")
    nameless = saved(tmp_path / "n.fits", tqu, column_units="uK", column_names=["a", "b", "c"])
    assert same_bits(healpix.read(nameless, channel="Q").image[0], tqu[1])
    assert same_bits(healpix.read(nameless, channel="map").image[0], tqu[0])
    one = saved(tmp_path / "one.fits", tqu[1], column_units="uK")
    assert same_bits(healpix.read(one, channel="Q").image[0], tqu[1])


def test_polarisation_is_never_taken_for_a_temperature(tmp_path):
    path, alone = tmp_path / "qu.fits", tmp_path / "q.fits"
    qu = np.stack([values(), values() + 1])
    healpy.write_map(path, qu, column_units="uK")  # healpy's own names for two columns
    healpy.write_map(alone, qu[0], column_names=["Q_STOKES"], column_units="uK")
    for wrong, channels in ((path, ("map",)), (alone, ("map", "T", "U"))):
        for channel in channels:
            with pytest.raises(ValueError, match=r"holds Stokes Q .* name the channels Q=PATH and"):
                healpix.read(wrong, channel=channel)
    assert same_bits(healpix.read(path, channel="Q").image[0], qu[0])
    assert same_bits(healpix.read(path, channel="map", field=1).image[0], qu[1])
    assert same_bits(healpix.read(alone, channel="Q").image[0], qu[0])


def test_a_field_chooses_by_number_or_name_and_may_be_several(tmp_path):
    tqu = np.stack([values(seed) for seed in range(3)])
    path = saved(tmp_path / "a.fits", tqu, column_units="uK")
    assert same_bits(healpix.read(path, field=2).image, tqu[2:])
    assert same_bits(healpix.read(path, field="U").image, tqu[2:])
    assert same_bits(healpix.read(path, field="q_polarisation", channel="map").image, tqu[1:2])
    several = healpix.read(path, field="1,2", channel="map")
    assert same_bits(several.image, tqu[1:])
    assert several.channels == ("Q_POLARISATION", "U_POLARISATION")
    assert same_bits(healpix.read(path, field=[0, "U"]).image, tqu[[0, 2]])
    out = tmp_path / "b.fits"
    formats.write(out, several.image.T, grid=several.space, meta=several.meta)
    assert same_bits(np.asarray(healpy.read_map(str(out), field=None, nest=None)), tqu[1:])
    assert fits.getheader(out, 1)["TTYPE2"] == "U_POLARISATION"
    assert fits.getheader(out, 1)["TUNIT2"] == "uK"
    with pytest.raises(ValueError, match=r"no column 3; choose --field from 0 TEMPERATURE, 1 Q_"):
        healpix.read(path, field=3)
    mixed = saved(tmp_path / "m.fits", tqu, column_units=["uK", "uK", "mK"])
    with pytest.raises(ValueError, match="columns in mK and uK"):
        healpix.read(mixed, field="0,1,2")


def test_the_sign_of_u_is_that_of_cosmologists(tmp_path):
    tqu = np.stack([values(seed) for seed in range(3)])
    card = [("POLCCONV", "IAU")]
    path = saved(tmp_path / "a.fits", tqu, column_units="uK", extra_header=card)
    found = healpix.read(path, field="0,1,2")
    assert same_bits(found.image, tqu * np.float32([[1], [1], [-1]]))
    healpix.write(tmp_path / "b.fits", found.image, grid=found.space, meta=found.meta)
    assert fits.getheader(tmp_path / "b.fits", 1)["POLCCONV"] == "COSMO"
    assert same_bits(healpix.read(tmp_path / "b.fits", field="0,1,2").image, found.image)


def test_unseen_and_nan_are_nan_and_come_back_as_they_were(tmp_path):
    own = values()
    for missing in (np.float32(healpy.UNSEEN), np.float32(-1.63750e30 * (1 + 5e-6)), np.nan):
        own[[0, 5]] = missing
        path = saved(tmp_path / "a.fits", own, column_units="mK")
        sample = healpix.read(path, channel="map")
        assert (np.flatnonzero(np.isnan(sample.image[0])) == [0, 5]).all()
        healpix.write(tmp_path / "b.fits", sample.image, grid=sample.space, meta=sample.meta)
        back = fits.getdata(tmp_path / "b.fits", 1).field(0).ravel()
        assert np.isnan(back[5]) if np.isnan(missing) else back[5] == np.float32(healpy.UNSEEN)
        assert (back[6:] == own[6:]).all()


def test_a_whole_number_may_stand_for_nothing(tmp_path):
    column = fits.Column("HITS", "J", array=np.arange(NPIX), null=3)
    table = fits.BinTableHDU.from_columns([column])
    table.header.update({"ORDERING": "RING", "NSIDE": NSIDE})
    table.writeto(tmp_path / "a.fits")
    assert np.flatnonzero(np.isnan(healpix.read(tmp_path / "a.fits").image[0])).tolist() == [3]


@pytest.mark.parametrize(
    ("high", "kind"), [(3, np.uint8), (256, np.uint16), (70000, np.int32), (-1, np.int32)]
)
@pytest.mark.parametrize("stored", [np.int32, np.float32, np.float64])
def test_labels_take_the_smallest_whole_numbers(tmp_path, high, kind, stored):
    labels = np.zeros(NPIX, stored)
    labels[17] = high
    path = saved(tmp_path / "a.fits", labels, nest=True)
    found, sphere, meta = formats.read_labels(path)
    assert found.dtype == kind
    assert (found == labels).all()
    assert sphere.same(Sphere(NSIDE))
    formats.write(tmp_path / "b.fits", found, grid=sphere, meta=meta)
    again, _, _ = formats.read_labels(tmp_path / "b.fits")
    assert same_bits(again, found)
    assert fits.getdata(tmp_path / "b.fits", 1).dtype[0].base.kind in "iu"


def test_labels_of_a_map_in_millikelvin_are_written_as_they_are(tmp_path):
    path = saved(tmp_path / "a.fits", values(), column_units="mK")
    sample = healpix.read(path, channel="map")
    labels = (sample.image[0] > 0).astype(np.uint8)
    formats.write(tmp_path / "b.fits", labels, grid=sample.space, meta=sample.meta)
    assert (formats.read_labels(tmp_path / "b.fits")[0] == labels).all()
    assert "TUNIT1" not in fits.getheader(tmp_path / "b.fits", 1)
    shares = np.stack([labels, 1 - labels], 1).astype(np.float32)
    meta = healpix.plain(sample.meta, "no", "yes")
    formats.write(tmp_path / "c.fits", shares, grid=sample.space, meta=meta)
    assert same_bits(healpix.read(tmp_path / "c.fits", field="yes").image[0], shares[:, 1])


@pytest.mark.parametrize(
    ("wrong", "text"),
    [(0.5, "value 0.5"), (np.nan, "value nan"), (healpy.UNSEEN, "UNSEEN"), (3e9, r"3e\+09")],
)
def test_what_is_no_label_is_refused(tmp_path, wrong, text):
    labels = np.zeros(NPIX, np.float32)
    labels[[9, 11]] = wrong
    path = saved(tmp_path / "a.fits", labels)
    with pytest.raises(ValueError, match=rf"{text} at pixel 9 is no label \(2 such pixels\)"):
        formats.read_labels(path)


def test_options_are_declared_once_and_known_to_the_command_line():
    parser = argparse.ArgumentParser()
    formats.add_options(parser)
    words = ["--unit", "mK", "--field", "Q,U", "--ordering", "ring"]
    options = vars(parser.parse_args(words))
    assert (options["unit"], options["field"], options["ordering"]) == ("mK", "Q,U", "ring")


def test_the_wmap_sample_is_a_temperature_in_millikelvin(pytestconfig):
    folder = pytestconfig.rootpath / SAMPLES
    with pytest.raises(ValueError, match="--unit mK"):
        formats.read(folder / "wmap_w.fits.gz", channel="map")
    sample = formats.read(folder / "wmap_w.fits.gz", channel="map", unit="mK")
    mask = formats.read(folder / "mask.fits.gz", channel="mask", unit="mK")
    assert isinstance(sample, Sample)
    assert mask.space.same(sample.space)
    seen = mask.image[0] == 1
    assert seen.mean() == pytest.approx(0.61865, abs=1e-5)
    assert sample.image[0].std() == pytest.approx(245.6, abs=0.1)
    assert sample.image[0][seen].std() == pytest.approx(60.0, abs=0.1)
    assert set(np.unique(mask.image)) == {0, 1}


def test_real_maps_are_read_as_healpy_reads_them(reference, pytestconfig):
    found = sorted((reference / "data/sphere").glob("*/*.fits"))
    maps = [path for path in found if healpix.handles(path)]
    spectra = [path for path in found if path.name.startswith("cl_")]
    assert len(maps) >= 12
    assert len(spectra) == 4
    assert not set(spectra) & set(maps)
    for path in (p for p in maps if not p.name.startswith("gaussbeam")):
        sample = formats.read(path)
        expected = healpy.read_map(str(path), nest=None)
        assert (np.nan_to_num(sample.image[0], nan=healpy.UNSEEN) == expected).all()
        formats.read_header(path)
    own = pytestconfig.rootpath / SAMPLES
    for name, mine in (("*W_v4_udgraded32.fits", "wmap_w.fits.gz"), ("*mask_r9*", "mask.fits.gz")):
        theirs = formats.read(next((reference / "data/sphere/healpy").glob(f"wmap_{name}")))
        assert (formats.read(own / mine).image == theirs.image).all()
