import re
import subprocess
import sys
from pathlib import Path

import healpy
import numpy as np
import pytest

from medseg.geometry.sphere import Sphere, native_order, nested
from medseg.io import formats, healpix
from medseg.io.skyfit import fitted

NSIDE = 8
NPIX = 12 * NSIDE**2
RING, NEST = Sphere(NSIDE, nest=False), Sphere(NSIDE)


def some(nest: bool, share: float = 0.5, seed: int = 0) -> Sphere:
    there = np.flatnonzero(np.random.default_rng(seed).random(NPIX) < share)
    return Sphere(NSIDE, nest, there)


def truth(sphere: Sphere) -> np.ndarray:
    """A value that belongs to the place in the sky, however it is numbered."""
    return (sphere.vectors() @ np.array([1.0, 10.0, 100.0])).astype(np.float32)


@pytest.mark.parametrize("own", [RING, NEST], ids=str)
@pytest.mark.parametrize(
    "like", [RING, NEST, some(nest=False), some(nest=True)], ids=lambda s: str(s)
)
def test_a_whole_sky_fits_every_order_and_part(own, like):
    found = fitted(np.stack([truth(own), -truth(own)]), own, like=like)
    assert found[0] == pytest.approx(truth(like), abs=1e-4)
    assert (found[1] == -found[0]).all()


@pytest.mark.parametrize("nest", [False, True])
def test_a_part_fits_the_same_part_in_the_other_order(nest):
    own = some(nest)
    other = own.nested()
    if nest:
        numbers = np.sort(healpy.nest2ring(NSIDE, own.pixels))
        other = Sphere(NSIDE, nest=False, pixels=numbers)
    assert fitted(truth(own), own, like=other) == pytest.approx(truth(other), abs=1e-4)
    assert fitted(truth(other), other, like=own) == pytest.approx(truth(own), abs=1e-4)


def test_the_order_is_that_of_the_sphere_itself():
    values = np.arange(NPIX)
    assert (fitted(values, RING, like=NEST) == nested(values, RING)).all()
    assert (fitted(values, NEST, like=RING) == native_order(values, RING)).all()
    assert fitted(values, RING, like=RING) is values


def refused(path, own, like, kind="map", values=None) -> str:
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        fitted(truth(own) if values is None else values, own, like=like, path=path, kind=kind)
    return str(caught.value)


def mended(text: str, folder) -> Path:
    """What the line of an error makes, run by a shell as it is printed."""
    line = text[text.index('python -c "') :].replace("python", sys.executable, 1)
    subprocess.run(line, shell=True, check=True, cwd=folder, capture_output=True)  # noqa: S602
    return folder / "mended.fits"


def test_missing_pixels_are_refused():
    part = some(nest=True)
    for kind, cure in (("mask", r"\(0 in holes\)"), ("map", "write the other for the same part")):
        with pytest.raises(ValueError, match=rf"lacks \d+ of the 768 pixels of map\.fits.*{cure}"):
            fitted(truth(part), part, like=NEST, against="map.fits", kind=kind)


COARSE, TURNED = Sphere(16, frame="G"), Sphere(NSIDE, frame="C")
LIKE = Sphere(NSIDE, nest=False, frame="G")


@pytest.mark.parametrize("own", [COARSE, TURNED], ids=["nside", "frame"])
@pytest.mark.parametrize("kind", ["map", "mask", "labels"])
def test_another_nside_or_frame_is_refused_with_a_line_that_mends_it(tmp_path, own, kind):
    path = tmp_path / "other.fits"
    bands = np.digitize(own.vectors()[:, 2], [-0.4, 0.4]).astype(np.uint8)
    image = {"map": truth(own), "mask": (truth(own) > 0).astype(np.uint8), "labels": bands * 3}
    formats.write(path, image[kind], grid=own, meta={"unit": "mK"})
    text = refused(path, own, LIKE, kind, image[kind])
    wanted = "has nside 16 and the other nside 8" if own is COARSE else "is in celestial coord"
    assert f"the map ({path}) {wanted}" in text
    there = mended(text, tmp_path)
    found = healpix.read(there, channel=None if kind == "labels" else kind)
    assert fitted(found.image, found.space, like=LIKE).shape == (1, NPIX)
    assert found.space.frame == "G"
    if kind == "map":
        assert (found.meta["unit"], found.meta["columns"]) == ("mK", ["TEMPERATURE"])
    elif kind == "mask":
        assert set(np.unique(found.image)) == {0, 1}
    else:
        assert set(np.unique(healpix.read_labels(there)[0])) == {0, 3, 6}
    if own is COARSE and kind == "map":
        place = healpy.ud_grade(image["map"], NSIDE, order_in="NEST", order_out="RING")
        assert found.image[0] == pytest.approx(place, abs=1e-3)


def test_labels_are_mended_by_their_nearest_pixel(tmp_path):
    path = tmp_path / "labels.fits"
    own = np.arange(NPIX, dtype=np.int32)  # every pixel has a label of its own
    formats.write(path, own, grid=TURNED, meta={})
    found, sphere, _ = healpix.read_labels(mended(refused(path, TURNED, LIKE, "labels"), tmp_path))
    axes = np.array(healpy.Rotator(coord=["G", "C"])(sphere.vectors().T))
    assert (found == healpy.vec2pix(NSIDE, *axes, nest=True)).all()


@pytest.mark.parametrize("own", [COARSE, TURNED], ids=["nside", "frame"])
def test_a_mended_map_keeps_its_fields_units_and_holes(tmp_path, own):
    path, count = tmp_path / "tqu.fits", own.npix
    rows = np.stack([truth(own) + k for k in range(3)]).astype(np.float64)
    rows[:, :64] = healpy.UNSEEN
    names, units = ["I_STOKES", "Q_STOKES", "U_STOKES"], ["mK", "uK", "uK"]
    more = {"column_names": names, "column_units": units, "partial": True, "nest": True}
    header = [("POLCCONV", "IAU")]
    healpy.write_map(path, rows, coord=own.frame, extra_header=header, dtype=np.float64, **more)
    there = mended(refused(path, own, LIKE), tmp_path)
    for channel, unit in zip("TQU", units, strict=True):
        found = healpix.read(there, channel=channel)
        assert (found.meta["unit"], found.space.frame) == (unit, "G")
        assert np.nanmax(np.abs(found.image)) < 1e6
        share = np.isnan(found.image).mean() * count / 64
        assert 0.9 < share < 2
    assert healpy.read_map(there, h=True)[1].count(("POLCCONV", "IAU")) == 1
