import gzip

import healpy
import numpy as np
import pytest
from astropy.io import fits

from medseg.geometry.sphere import Sphere
from medseg.io import formats, healpix, skytable

NSIDE = 8
NPIX = 12 * NSIDE**2
SKY = {"PIXTYPE": "HEALPIX", "ORDERING": "RING", "NSIDE": NSIDE}


def table(path, *columns, first=None, **cards):
    """A table of float columns under a header of one's own."""
    parts = [fits.Column(name, code, array=array) for name, code, array in columns]
    made = fits.BinTableHDU.from_columns(parts)
    made.header.update(cards)
    fits.HDUList([fits.PrimaryHDU(header=fits.Header(first or {})), made]).writeto(path)
    return path


def sky(path, count=NPIX, *, first=None, **cards):
    wanted = {key: card for key, card in {**SKY, **cards}.items() if card is not None}
    return table(path, ("X", "E", np.arange(count)), first=first, **wanted)


def part(path, numbers, **cards):
    columns = [("PIXEL", "K", numbers), ("X", "E", np.zeros(len(numbers)))]
    wanted = {key: card for key, card in {**SKY, **cards}.items() if card is not None}
    return table(path, *columns, INDXSCHM="EXPLICIT", **wanted)


def refusal(path, **options) -> str:
    """What is said by `read`, and by `read_header` too."""
    texts = []
    for function in (formats.read, formats.read_header):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the text is the caller's
            function(path, **options)
        texts.append(str(caught.value))
    assert str(path) in texts[0]
    assert texts[0] == texts[1]
    return texts[0]


def test_ordering_must_be_said_and_can_be(tmp_path):
    path = sky(tmp_path / "a.fits", ORDERING=None)
    assert "ORDERING is missing; say it with --ordering ring or" in refusal(path)
    for word in ("ring", "nested", "NESTED"):
        sample = formats.read(path, ordering=word)
        assert sample.space.nest is (word != "ring")
        assert formats.read_labels(path, ordering=word)[1].same(sample.space)
        assert (sample.image[0] == np.arange(NPIX)).all()
    with pytest.raises(ValueError, match="--ordering spiral"):
        formats.read(path, ordering="spiral")


def test_a_header_that_lies_or_contradicts_itself_is_overridden(tmp_path):
    assert formats.read(sky(tmp_path / "a.fits"), ordering="nested").space.nest
    both = sky(tmp_path / "b.fits", first={"ORDERING": "NESTED"})
    assert "ORDERING says NESTED and RING; say it with --ordering" in refusal(both)
    assert not formats.read(both, ordering="ring").space.nest
    assert "ORDERING says SPIRAL" in refusal(sky(tmp_path / "c.fits", ORDERING="SPIRAL"))
    assert "several resolutions" in refusal(sky(tmp_path / "d.fits", ORDERING="NUNIQ"))
    assert formats.read(sky(tmp_path / "e.fits", ORDERING="nest")).space.nest


@pytest.mark.parametrize("nside", [0, -4, 6, 48, 2.5, "many", 16384])
def test_nside_must_be_a_power_of_two(tmp_path, nside):
    text = refusal(sky(tmp_path / "a.fits", NSIDE=nside))
    assert f"NSIDE is {nside}; it must be a power of two" in text


def test_the_count_of_pixels_must_fit(tmp_path):
    text = refusal(sky(tmp_path / "a.fits", 12 * 16**2))
    assert "whose sky has 768 pixels, and 3072 values are there" in text
    assert "set NSIDE to 16" in text
    assert "12 nside² pixels" in refusal(sky(tmp_path / "b.fits", 700, NSIDE=None))
    assert formats.read(sky(tmp_path / "c.fits", NSIDE=None)).space.nside == NSIDE
    cut = sky(tmp_path / "d.fits", 700)
    assert "a part of the sky (700 of 768 pixels" in refusal(cut)
    assert "without pixel numbers" in refusal(sky(tmp_path / "e.fits", 192, OBJECT="PARTIAL"))


def test_pixel_numbers_must_be_good(tmp_path):
    assert "lie in 0..767" in refusal(part(tmp_path / "a.fits", np.array([1, 768])))
    assert "lie in 0..767" in refusal(part(tmp_path / "b.fits", np.array([-1, 7])))
    assert "the first is 7" in refusal(part(tmp_path / "c.fits", np.array([7, 1, 7])))
    assert "NSIDE is missing; set it" in refusal(
        part(tmp_path / "d.fits", np.arange(5), NSIDE=None)
    )
    columns = [("PIXEL", "E", np.array([0.5, 1])), ("X", "E", np.zeros(2))]
    assert "numbers are whole" in refusal(table(tmp_path / "e.fits", *columns, **SKY))


def test_the_first_of_whole_numbers_counts_pixels_where_explicit_is_said(tmp_path):
    columns = [("WHERE", "J", np.array([3, 9])), ("X", "E", np.array([1.0, 2]))]
    path = table(tmp_path / "a.fits", *columns, INDXSCHM="EXPLICIT", **SKY)
    assert formats.read(path).space.pixels.tolist() == [3, 9]
    assert formats.read(path, channel="X").image.tolist() == [[1, 2]]


def test_what_is_no_map_is_refused(tmp_path):
    fits.PrimaryHDU(np.zeros((4, 5))).writeto(tmp_path / "image.fits")
    text = refusal(tmp_path / "image.fits")
    assert "an image of shape (4, 5), and a HEALPix map is a binary table" in text
    fits.PrimaryHDU().writeto(tmp_path / "bare.fits")
    assert "no binary table" in refusal(tmp_path / "bare.fits")
    catalogue = table(tmp_path / "stars.fits", ("RA", "D", np.zeros(5)), ("DEC", "D", np.zeros(5)))
    assert "a table that is no HEALPix map" in refusal(catalogue)
    assert "columns RA, DEC" in refusal(catalogue)
    cube = table(tmp_path / "cube.fits", ("X", "E", np.zeros(NPIX)), PIXTYPE="CUBE")
    assert "PIXTYPE is CUBE" in refusal(cube)
    words = table(tmp_path / "words.fits", ("X", "3A", np.array(["abc"] * NPIX)), **SKY)
    with pytest.raises(ValueError, match="one real number a pixel"):
        formats.read(words)
    empty = sky(tmp_path / "empty.fits", 0)
    assert "table without values" in refusal(empty)


def test_what_is_cut_short_or_no_fits_is_refused(tmp_path):
    whole = sky(tmp_path / "a.fits").read_bytes()
    packed = gzip.compress(whole)
    for size in (1, 9, 2000, 2880, 5000, 5760, 8000):
        (tmp_path / f"cut{size}.fits").write_bytes(whole[:size])
        refusal(tmp_path / f"cut{size}.fits")
    for size in (15, len(packed) // 2, len(packed) - 1):
        (tmp_path / f"cut{size}.fits.gz").write_bytes(packed[:size])
        assert "cut short or damaged" in refusal(tmp_path / f"cut{size}.fits.gz")
    (tmp_path / "none.fits").touch()
    assert "empty (0 bytes)" in refusal(tmp_path / "none.fits")
    (tmp_path / "text.fits").write_text("no stars at all, and so on")
    assert "is no FITS file" in refusal(tmp_path / "text.fits")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        healpix.read(tmp_path / "missing.fits")
    (tmp_path / "folder.fits").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        healpix.read(tmp_path / "folder.fits")


def test_packed_and_plain_are_told_by_content(tmp_path):
    whole = sky(tmp_path / "a.fits").read_bytes()
    (tmp_path / "b.fits").write_bytes(gzip.compress(whole))
    (tmp_path / "c.fits.gz").write_bytes(whole)
    for name in ("b.fits", "c.fits.gz"):
        assert (formats.read(tmp_path / name).image[0] == np.arange(NPIX)).all()
        assert formats.stem(tmp_path / name) == name[0]


def test_spectra_and_hidden_files_are_no_images(tmp_path):
    power = np.linspace(2, 1, 65)
    for number, columns in enumerate((power, [power] * 4)):
        healpy.write_cl(str(tmp_path / f"{number}.fits"), np.array(columns))
        assert not formats.is_image(tmp_path / f"{number}.fits")
        packed = tmp_path / f"{number}.fits.gz"
        packed.write_bytes(gzip.compress((tmp_path / f"{number}.fits").read_bytes()))
        assert not formats.is_image(packed)
    assert formats.is_image(sky(tmp_path / "a.fits"))
    (tmp_path / "._a.fits").write_bytes(b"x")
    assert not formats.is_image(tmp_path / "._a.fits")
    assert not formats.is_image(tmp_path)


@pytest.mark.parametrize(
    ("word", "frame"),
    [("G", "G"), ("Galactic", "G"), ("ECLIPTIC", "E"), ("C", "C"), ("ICRS", "C"), ("unknown", "")],
)
def test_coordinate_systems_are_known_by_their_names(tmp_path, word, frame):
    assert formats.read(sky(tmp_path / "a.fits", COORDSYS=word)).space.frame == frame


def test_a_map_in_a_later_table_is_found(tmp_path):
    stars = fits.BinTableHDU.from_columns([fits.Column("RA", "D", array=np.zeros(3))])
    own = fits.BinTableHDU.from_columns([fits.Column("X", "E", array=np.arange(NPIX))])
    own.header.update(SKY)
    fits.HDUList([fits.PrimaryHDU(), stars, own]).writeto(tmp_path / "a.fits")
    assert (formats.read(tmp_path / "a.fits").image[0] == np.arange(NPIX)).all()


def test_values_are_scaled_as_their_header_says(tmp_path):
    columns = ("X", "I", np.arange(NPIX))
    path = table(tmp_path / "a.fits", columns, TSCAL1=0.5, TZERO1=3.0, **SKY)
    assert (formats.read(path).image[0] == np.arange(NPIX) * 0.5 + 3).all()


def test_a_large_packed_map_is_known_by_its_beginning(tmp_path):
    noise = np.random.default_rng(0).normal(size=12 * 128**2).astype(np.float32)
    formats.write(tmp_path / "a.fits.gz", noise, grid=Sphere(128), meta={})
    assert formats.is_image(tmp_path / "a.fits.gz")
    assert (formats.read(tmp_path / "a.fits.gz").image[0] == noise).all()


def test_units_that_are_no_temperatures_have_no_factor():
    for unit in ("", "counts", "K^2", "MK", "km", "mm", "K_RJ", "Jy/sr", "kelvins per second"):
        assert skytable.micro_kelvin(unit) is None
    assert skytable.micro_kelvin("μK_CMB") == skytable.micro_kelvin("µK") == 1
