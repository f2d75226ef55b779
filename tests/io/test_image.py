import argparse
import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.geometry.grid import Grid
from medseg.io import formats, image

GREY = (np.arange(35, dtype=np.uint8) * 7).reshape(5, 7)  # 5 rows of 7
COLOUR = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
NOISE = np.random.default_rng(1).integers(0, 256, (80, 60), dtype=np.uint8)


def save(path: Path, array, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def white_is_zero(path: Path) -> Path:
    """Change a TIFF file's photometric interpretation from BlackIsZero."""
    entry = struct.pack("<HHIH", 262, 3, 1, 1)
    content = path.read_bytes()
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, struct.pack("<HHIH", 262, 3, 1, 0)))
    return path


def rows(path: Path, **options) -> np.ndarray:
    """Grey values as read, rows first."""
    return formats.read(path, **options).image[0, :, :, 0].T


def refusal(path: Path, read=formats.read) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the text is the caller's
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def luminance(colours) -> np.ndarray:
    return colours[..., :3] @ np.array([0.299, 0.587, 0.114])


def png(array: np.ndarray, *, depth: int, colour: int, size=None) -> bytes:
    """A PNG file of big endian samples, as Pillow writes none of 16-bit colours."""

    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    width, height = size or (array.shape[1], array.shape[0])
    kind = ">u2" if depth == 16 else "u1"
    raw = b"".join(b"\0" + row.astype(kind).tobytes() for row in array)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF", ".webp"])
def test_grey_values_lie_columns_first(tmp_path, suffix):
    path = save(tmp_path / f"a.b{suffix}", GREY, **({"lossless": True} if "w" in suffix else {}))
    sample = formats.read(path)
    assert sample.id == "a.b"
    assert sample.image.shape == (1, 7, 5, 1)
    assert sample.image.dtype == np.float32
    assert (sample.image[0, :, :, 0] == GREY.T).all() or suffix == ".webp"
    np.testing.assert_allclose(sample.image[0, :, :, 0], GREY.T, atol=1)
    assert sample.space.shape == formats.read_header(path).shape == (7, 5, 1)
    assert sample.channels == ("image",)


def test_jpeg_is_near(tmp_path):
    smooth = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8) * 3
    np.testing.assert_allclose(rows(save(tmp_path / "a.jpeg", smooth, quality=98)), smooth, atol=3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, suffix):
    deep = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1872 + 1
    assert (rows(save(tmp_path / f"a{suffix}", deep)) == deep).all()
    if suffix == ".tif":
        Image.fromarray(deep.astype(">u2")).save(tmp_path / "b.tif")
        assert (rows(tmp_path / "b.tif") == deep).all()
        real = deep.astype(np.float32) / 3
        assert (rows(save(tmp_path / "c.tif", real)) == real).all()
        assert (rows(save(tmp_path / "d.tif", deep.astype(np.int32) * 9)) == deep * 9.0).all()


def test_colour_becomes_luminance_without_rounding(tmp_path):
    found = rows(save(tmp_path / "a.png", COLOUR))
    np.testing.assert_allclose(found, luminance(COLOUR), atol=2e-2)
    assert (np.abs(found - np.asarray(Image.fromarray(COLOUR).convert("L"))) <= 0.501).all()
    grey = np.repeat(GREY[..., None], 3, axis=2)
    assert (rows(save(tmp_path / "b.png", grey)) == GREY).all()


def test_colours_of_sixteen_bits_keep_them(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, 4)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(png(deep[..., :3], depth=16, colour=2))
    np.testing.assert_allclose(rows(tmp_path / "a.png"), luminance(deep), atol=3)
    (tmp_path / "b.png").write_bytes(png(deep, depth=16, colour=6))
    wanted = luminance(deep) * deep[..., 3] / 65535
    np.testing.assert_allclose(rows(tmp_path / "b.png"), wanted, atol=3)
    (tmp_path / "c.png").write_bytes(png(deep[..., :2], depth=16, colour=4))
    wanted = deep[..., 0] / 257.0 * deep[..., 1] / 65535
    np.testing.assert_allclose(rows(tmp_path / "c.png"), wanted, atol=2)


def test_transparency_fades_to_black(tmp_path):
    alpha = np.full((5, 7, 1), 51, np.uint8)
    rgba = np.concatenate([COLOUR, alpha], axis=2)
    np.testing.assert_allclose(rows(save(tmp_path / "a.png", rgba)), luminance(COLOUR) / 5, atol=1)
    la = np.concatenate([GREY[..., None], alpha], axis=2)
    np.testing.assert_allclose(rows(save(tmp_path / "b.png", la)), GREY / 5, atol=1e-4)


def test_a_palette_is_looked_up(tmp_path):
    picture = Image.fromarray(GREY % 4, "P")
    picture.putpalette([10, 10, 10, 200, 200, 200, 0, 0, 255, 90, 90, 90])
    picture.save(tmp_path / "a.png")
    values = np.array([10, 200, luminance(np.array([0, 0, 255])), 90])
    np.testing.assert_allclose(rows(tmp_path / "a.png"), values[GREY % 4], atol=2e-2)
    picture.save(tmp_path / "b.png", transparency=1)
    assert (rows(tmp_path / "b.png")[GREY % 4 == 1] == 0).all()


def test_one_bit_and_cmyk(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "a.png")
    assert (rows(tmp_path / "a.png") == (GREY > 100) * 255).all()
    grey = Image.fromarray(np.full((16, 16), 77, np.uint8)).convert("RGB").convert("CMYK")
    grey.save(tmp_path / "b.jpg", quality=95)
    np.testing.assert_allclose(rows(tmp_path / "b.jpg"), 77, atol=2)


def test_a_tiff_that_shows_zero_as_white_is_turned_round(tmp_path):
    for kind, top in ((np.uint8, 255), (np.uint16, 65535)):
        path = white_is_zero(save(tmp_path / "a.tif", GREY.astype(kind)))
        assert (rows(path) == top - GREY.astype(int)).all()
        assert "shows 0 as white" in refusal(path, formats.read_labels)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_the_turn_that_exif_asks_for_is_done(tmp_path, suffix, turn):
    blocks = np.kron(np.array([[0, 90, 250], [40, 160, 200]], np.uint8), np.ones((16, 16), "u1"))
    exif = Image.Exif()
    exif[0x0112] = turn
    path = save(tmp_path / f"a{suffix}", blocks, exif=exif, quality=95)
    # What EXIF 2.32 says of the stored first row and column, spelt out.
    wanted = {
        1: blocks, 2: blocks[:, ::-1], 3: blocks[::-1, ::-1], 4: blocks[::-1],
        5: blocks.T, 6: np.rot90(blocks, -1), 7: np.rot90(blocks, 2).T, 8: np.rot90(blocks),
    }[turn]  # fmt: skip
    np.testing.assert_allclose(rows(path), wanted, atol=12)
    assert formats.read_header(path).shape == (*wanted.shape[::-1], 1)
    assert formats.read(path).meta["exif_orientation"] == turn


def test_invert_turns_the_values_round(tmp_path):
    assert (rows(save(tmp_path / "a.png", GREY), invert=True) == 255 - GREY).all()
    deep = GREY.astype(np.uint16) * 16 + 3
    found = rows(save(tmp_path / "b.png", deep), invert=True)
    assert (found == int(deep.max()) + int(deep.min()) - deep.astype(int)).all()
    assert formats.read(tmp_path / "b.png", invert=True).meta["inverted"]


def test_spacing_is_what_is_given_and_never_the_resolution_to_print_at(tmp_path):
    path = save(tmp_path / "a.png", GREY, dpi=(72, 72))
    sample = formats.read(path)
    assert sample.space.spacing_mm == (1, 1, 1)
    assert not sample.meta["spacing_known"]
    for given, wanted in ((0.35, (0.35, 0.35)), ("0.2,0.4", (0.2, 0.4)), ((0.2, 0.4), (0.2, 0.4))):
        sample = formats.read(path, spacing_mm=given)
        assert sample.space.spacing_mm == (*wanted, 1)
        assert sample.meta["spacing_known"]
        assert formats.read_header(path, spacing_mm=given).misalignment_mm(sample.space) == 0
    for wrong in ("", "a", "0", "-1", "1,2,3", "nan", "inf", 0.0):
        with pytest.raises(ValueError, match="size of a pixel in millimetres"):
            formats.read(path, spacing_mm=wrong)


def test_options_are_declared_once_for_all_formats(tmp_path):
    parser = argparse.ArgumentParser(exit_on_error=False)
    formats.add_options(parser)
    given = parser.parse_args(["--spacing-mm", "0.2,0.4", "--invert"])
    assert (given.spacing_mm, given.invert) == ((0.2, 0.4), True)
    nothing = parser.parse_args([])
    assert nothing.invert is None
    assert nothing.spacing_mm is None
    with pytest.raises(argparse.ArgumentError, match="size of a pixel"):
        parser.parse_args(["--spacing-mm", "wide"])
    with pytest.raises(ValueError, match="--series does not apply to image"):
        formats.read(save(tmp_path / "a.png", GREY), series="1")


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
def test_several_pages_or_frames_are_refused(tmp_path, suffix):
    pages = [Image.fromarray(NOISE), Image.fromarray(NOISE.T.copy().reshape(80, 60))]
    pages[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=pages[1:])
    for read in (formats.read, formats.read_header, formats.read_labels):
        assert "2 pages or frames" in refusal(tmp_path / f"a{suffix}", read)


def test_a_jpeg_of_several_pictures_is_refused(tmp_path):
    pages = [Image.fromarray(NOISE), Image.fromarray(NOISE)]
    pages[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=pages[1:])
    assert "2 pages or frames" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".png", {}), (".jpg", {}), (".bmp", {}), (".tif", {}), (".tif", {"compression": "tiff_lzw"}),
     (".webp", {})],
)  # fmt: skip
def test_files_cut_short_are_refused(tmp_path, suffix, options):
    content = save(tmp_path / f"a{suffix}", NOISE, **options).read_bytes()
    for kept in (len(content) - 13, len(content) - 200, len(content) // 2, 60, 20, 5):
        path = tmp_path / f"cut{kept}{suffix}"
        path.write_bytes(content[:kept])
        text = refusal(path)
        assert "cut short" in text or "is no PNG" in text


def test_a_damaged_png_is_refused(tmp_path):
    content = bytearray(save(tmp_path / "a.png", NOISE).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    assert "damaged" in refusal(tmp_path / "a.png")


def test_what_is_no_image_is_refused(tmp_path):
    for name, content in (("empty.png", b""), ("text.png", b"hello, world"), ("gif.png", None)):
        path = tmp_path / name
        if content is None:
            Image.fromarray(NOISE).save(path, format="GIF")
        else:
            path.write_bytes(content)
        assert ("is empty" if content == b"" else "is no PNG, JPEG") in refusal(path)
        refusal(path, formats.read_header)
    path = tmp_path / "zero.png"
    path.write_bytes(png(np.zeros((0, 0)), depth=8, colour=0, size=(0, 3)))
    refusal(path)
    assert not image.handles(tmp_path / "._a.png")
    (tmp_path / "folder.png").mkdir()
    assert not image.handles(tmp_path / "folder.png")
    with pytest.raises(FileNotFoundError):
        image.read(tmp_path / "missing.png")


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(np.zeros((1, 1)), depth=8, colour=0, size=(side, side)))
    assert "claims more than" in refusal(path)
    assert "claims more than" in refusal(path, formats.read_header)


def test_a_header_is_read_without_decoding(tmp_path, monkeypatch):
    from PIL import ImageFile

    path = save(tmp_path / "a.png", GREY)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    assert formats.read_header(path).shape == (7, 5, 1)


def test_labels_are_the_stored_numbers(tmp_path):
    flags = GREY % 32
    labels, grid, meta = formats.read_labels(save(tmp_path / "a.png", flags))
    assert labels.dtype == np.uint8
    assert (labels[:, :, 0] == flags.T).all()
    assert grid.shape == (7, 5, 1)
    assert meta["format"] == "image"
    many = flags.astype(np.uint16) * 300
    assert (formats.read_labels(save(tmp_path / "b.png", many))[0][:, :, 0] == many.T).all()
    picture = Image.fromarray(GREY % 4, "P")
    picture.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 255, 90, 90, 90])
    for bits in (2, 8):
        picture.save(tmp_path / "c.png", bits=bits)
        assert (formats.read_labels(tmp_path / "c.png")[0][:, :, 0] == (GREY % 4).T).all()
    Image.fromarray(GREY > 100).save(tmp_path / "d.png")
    assert (formats.read_labels(tmp_path / "d.png")[0][:, :, 0] == (GREY > 100).T).all()
    packed = png(np.array([[0b00011011]]), depth=2, colour=0, size=(4, 1))
    (tmp_path / "e.png").write_bytes(packed)
    assert formats.read_labels(tmp_path / "e.png")[0][:, 0, 0].tolist() == [0, 1, 2, 3]


def test_what_cannot_hold_labels_is_refused(tmp_path):
    text = refusal(save(tmp_path / "a.png", COLOUR), formats.read_labels)
    assert "RGB values" in text
    assert "grey PNG" in text
    assert "may change label values" in refusal(save(tmp_path / "a.jpg", GREY), formats.read_labels)
    real = save(tmp_path / "a.tif", GREY.astype(np.float32))
    assert "F values" in refusal(real, formats.read_labels)
    low = save(tmp_path / "c.tif", GREY.astype(np.int32) - 5)
    assert "labels from -5" in refusal(low, formats.read_labels)


@pytest.mark.parametrize(("top", "kind"), [(31, np.uint8), (255, np.uint8), (65535, np.uint16)])
def test_labels_come_back_as_written(tmp_path, top, kind):
    labels = np.arange(35).reshape(7, 5, 1) * top // 34
    grid = Grid((7, 5, 1), np.diag([0.2, 0.4, 1, 1]))
    formats.write(tmp_path / "a.png", labels, grid=grid, meta={})
    found = formats.read_labels(tmp_path / "a.png")[0]
    assert found.dtype == kind
    assert (found == labels).all()
    formats.write(tmp_path / "b.png", labels.astype(np.int64), grid=grid, meta={})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("a.jpg", np.zeros((7, 5, 1), np.uint8), "written as PNG"),
        ("a.png", np.zeros((7, 5, 2), np.uint8), "no plane of labels"),
        ("a.png", np.zeros((5, 7, 1), np.uint8), "no plane of labels"),
        ("a.png", np.zeros((7, 5, 1), np.float32), "whole numbers, not float32"),
        ("a.png", np.full((7, 5, 1), -1), "labels from -1"),
        ("a.png", np.full((7, 5, 1), 65536), "labels from 65536"),
    ],
)
def test_what_a_png_cannot_hold_is_not_written(tmp_path, name, array, words):
    with pytest.raises(ValueError, match=words):
        formats.write(tmp_path / name, array, grid=Grid((7, 5, 1), np.eye(4)), meta={})
    assert not list(tmp_path.iterdir())


def test_a_real_radiograph_is_read_as_pillow_shows_it(reference):
    path = reference / "data/cxr_cc0/utils_example1.jpg"
    sample = formats.read(path)
    assert sample.image.shape == (1, 786, 899, 1)
    shown = np.asarray(Image.open(path).convert("L"), dtype=np.float32)
    assert np.abs(sample.image[0, :, :, 0].T - shown).max() <= 0.501
    assert formats.output_suffix(path) == ".png"


def test_real_label_flags_keep_their_bits(reference):
    path = sorted((reference / "data/jsrt/masks").iterdir())[0]
    labels, grid, _ = formats.read_labels(path)
    assert labels.shape == grid.shape == (1024, 1024, 1)
    assert int(labels.max()) < 32
    right, left = (np.argwhere(labels[:, :, 0] & bit).mean(0) for bit in (1, 2))
    assert right[0] < 512 < left[0]


def test_any_bytes_are_read_or_refused(tmp_path):
    """A hundred damaged files: a value or a clear refusal, never another error."""
    random = np.random.default_rng(3)
    small = NOISE[:12, :9].copy()
    for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP"):
        stream = io.BytesIO()
        Image.fromarray(small).save(stream, format=kind)
        whole = np.frombuffer(stream.getvalue(), np.uint8)
        for _ in range(20):
            spoilt = whole.copy()
            where = random.integers(0, len(spoilt), 3)
            spoilt[where] = random.integers(0, 256, 3)
            path = tmp_path / "a.png"
            path.write_bytes(spoilt.tobytes())
            for read in (formats.read, formats.read_header, formats.read_labels):
                with contextlib.suppress(ValueError):
                    read(path)
