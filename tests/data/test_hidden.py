"""Skies with holes as they are read: what is hidden is not handed on, odd masks are refused."""

from pathlib import Path

import healpy
import nibabel as nib
import numpy as np
import pytest

from medseg.data import hidden
from medseg.data.sheet import Record
from medseg.data.table import Table
from medseg.geometry.sphere import native_order

NSIDE = 4
PIXELS = 12 * NSIDE**2
RNG = np.random.default_rng(3)
SKY = RNG.normal(0, 50, PIXELS)
SEEN = RNG.random(PIXELS) > 0.3
UNSEEN = healpy.UNSEEN


def save(path: Path, *maps, nest: bool = True, unit: str | None = "uK", **more) -> Path:
    """Maps in NESTED order as a file; RING where `nest` is false."""
    rows = [np.asarray(m) if nest else healpy.reorder(np.asarray(m), n2r=True) for m in maps]
    more = {"dtype": np.float64, "column_units": unit, **more}
    healpy.write_map(path, rows, nest=nest, overwrite=True, **more)
    return path


def read(paths: dict[str, Path], channels=("map", "mask", "spectrum"), notes=None, **options):
    record = Record("a", "", "test", paths, notes=notes or {})
    table = Table.of([record], Path(), channels=channels)
    table.options = options
    return hidden.load(table, record)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    return save(tmp_path / "mask.fits", SEEN.astype(float), unit=None)


@pytest.fixture
def sky(tmp_path: Path) -> Path:
    return save(tmp_path / "sky.fits", SKY)


def test_what_the_mask_hides_is_never_handed_on(sky: Path, mask: Path, tmp_path: Path) -> None:
    found = read({"map": sky, "mask": mask})
    assert found.channels == ("map", "mask")
    np.testing.assert_array_equal(found.image[0], np.where(SEEN, SKY, 0))
    np.testing.assert_array_equal(found.image[1], SEEN)
    for odd in (UNSEEN, np.nan, 1e9, -np.inf):
        other = save(tmp_path / "other.fits", np.where(SEEN, SKY, odd))
        assert np.array_equal(read({"map": other, "mask": mask}).image, found.image)


@pytest.mark.parametrize("odd", [UNSEEN, np.nan])
def test_without_a_mask_pixels_without_a_value_are_the_holes(odd, mask, tmp_path) -> None:
    bare = save(tmp_path / "bare.fits", np.where(SEEN, SKY, odd))
    assert np.array_equal(read({"map": bare}).image, read({"map": bare, "mask": mask}).image)


def test_a_mask_of_another_order_or_with_unseen_holes_is_the_same(sky, mask, tmp_path) -> None:
    found = read({"map": sky, "mask": mask}).image
    turned = save(tmp_path / "ring.fits", SEEN.astype(float), unit=None, nest=False)
    holes = save(tmp_path / "holes.fits", np.where(SEEN, 1, UNSEEN), unit=None)
    assert np.array_equal(read({"map": sky, "mask": turned}).image, found)
    assert np.array_equal(read({"map": sky, "mask": holes}).image, found)
    ring = read({"map": save(tmp_path / "r.fits", SKY, nest=False), "mask": mask})
    assert not ring.space.nest
    assert np.array_equal(ring.image, native_order(found, ring.space))


def test_a_part_of_the_sky_takes_its_part_of_the_mask(mask: Path, tmp_path: Path) -> None:
    there = np.arange(PIXELS) % 16 < 9
    path = save(tmp_path / "part.fits", np.where(there, SKY, UNSEEN), partial=True)
    found = read({"map": path, "mask": mask})
    assert np.array_equal(found.space.pixels, np.flatnonzero(there))
    assert np.array_equal(found.image[1], SEEN[there])


def test_a_pixel_is_seen_where_all_fields_are(tmp_path: Path) -> None:
    one, other = np.where(SEEN, SKY, UNSEEN), np.where(np.arange(PIXELS) == 7, UNSEEN, 2 * SKY)
    path = save(tmp_path / "qu.fits", one, other, column_names=["Q", "U"])
    found = read({"Q": path, "U": path}, channels=("Q", "U", "mask"))
    assert found.channels == ("Q", "U", "mask")
    both = SEEN & (np.arange(PIXELS) != 7)
    np.testing.assert_array_equal(found.image, [SKY * both, 2 * SKY * both, both])


def test_a_unit_may_be_told_and_values_come_in_microkelvin(mask: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "bare.fits", SKY / 1e3, unit=None)
    found = read({"map": path, "mask": mask}, unit="mK")
    np.testing.assert_allclose(found.image[0], SKY * SEEN, rtol=1e-12)
    assert found.meta["unit"] == "mK"


def test_a_mask_with_soft_edges_is_cut_at_a_half_and_told(sky: Path, tmp_path: Path) -> None:
    soft = np.linspace(0, 1, PIXELS)
    path = save(tmp_path / "soft.fits", soft, unit=None)
    with pytest.warns(UserWarning, match="apodised: its 190 pixels between 0 and 1"):
        found = read({"map": sky, "mask": path})
    np.testing.assert_array_equal(found.image[1], soft > 0.5)


def scan(path: Path) -> Path:
    nib.save(nib.Nifti1Image(RNG.random((4, 5, 6)).astype(np.float32), np.eye(4)), path)
    return path


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (np.ones(PIXELS), "leaves no hole, so there is nothing to fill; give the right mask"),
        (np.zeros(PIXELS), "hides every pixel; a mask is 1 where the sky is seen and 0 in the"),
        (np.ones(12 * 64), r"has nside 8 and the case's first file nside 4; bring it to the same"),
        (100.0 * SEEN, "holds values from 0 to 100; a mask is 1 where"),
        (SKY, r"holds values from -\d.*; a mask is 1 where the sky is seen"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused(made, told, sky: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "odd.fits", made, unit=None)
    with pytest.raises(ValueError, match=told):
        read({"map": sky, "mask": path})


def test_a_seen_pixel_without_a_value_is_refused(mask: Path, tmp_path: Path) -> None:
    place = np.flatnonzero(SEEN)[:3]
    path = save(tmp_path / "lost.fits", np.where(np.isin(np.arange(PIXELS), place), UNSEEN, SKY))
    with pytest.raises(ValueError, match="3 pixels are UNSEEN or NaN in the map where the mask"):
        read({"map": path, "mask": mask})


def test_maps_without_holes_without_unit_or_without_a_sphere_are_refused(
    sky: Path, mask: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"leaves no hole, .* give mask=PATH; 0 in the mask is"):
        read({"map": sky})
    part = save(tmp_path / "part.fits", np.where(SEEN, SKY, UNSEEN), partial=True)
    told = rf"lacks {PIXELS - SEEN.sum()} of the sky's {PIXELS} pixels, .* whole \(partial=False"
    with pytest.raises(ValueError, match=told):
        read({"map": part})
    with pytest.raises(ValueError, match="case a has no map; give map=PATH"):
        read({"mask": mask})
    bare = save(tmp_path / "bare.fits", SKY, unit=None)
    with pytest.raises(ValueError, match="has no unit; say it with --unit mK"):
        read({"map": bare, "mask": mask})
    image = scan(tmp_path / "scan.nii.gz")
    with pytest.raises(ValueError, match=r"scan.nii.gz is an image where a HEALPix map is wanted"):
        read({"map": image, "mask": mask})
    with pytest.raises(ValueError, match="is an image, and the case's first file a map of the"):
        read({"map": sky, "mask": image})


def test_a_sheets_numbers_make_a_prior_and_words_do_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "cl.npz", total=np.ones((9, 4)) * [1, 1, 1, 0])
    found, read = hidden.prior_of({"beam_arcmin": "80", "noise_uk": ""}, tmp_path / "cl.npz")
    assert read.kind == "cl"
    assert (found.beam_arcmin, found.noise_uk, found.lmax) == (80, 0, 8)
    assert hidden.prior_of({"beam_arcmin": "80"}, None) is None
    with pytest.raises(ValueError, match="noise_uk is 'low'; write a number"):
        hidden.prior_of({"noise_uk": "low"}, tmp_path / "cl.npz")
