import healpy
import numpy as np
import pytest

from medseg.geometry.sphere import Sphere, native_order, nested
from medseg.io import formats, healpix
from medseg.io.skyfit import aligned, fitted
from medseg.sample import Sample

NSIDE = 8
NPIX = 12 * NSIDE**2
RING, NEST = Sphere(NSIDE, nest=False), Sphere(NSIDE)


def some(nest: bool, share: float = 0.5, seed: int = 0) -> Sphere:
    there = np.flatnonzero(np.random.default_rng(seed).random(NPIX) < share)
    return Sphere(NSIDE, nest, there)


def truth(sphere: Sphere) -> np.ndarray:
    """A value that belongs to the place in the sky, however it is numbered."""
    return (sphere.vectors() @ np.array([1.0, 10.0, 100.0])).astype(np.float32)


def sample(sphere: Sphere, name: str = "map") -> Sample:
    return Sample("a", truth(sphere)[None], sphere, (name,), sources={name: f"{name}.fits"})


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


def test_samples_are_brought_onto_the_first(tmp_path):
    for name, sphere in (("map", NEST), ("mask", RING)):
        image = truth(sphere) if name == "map" else (truth(sphere) > 0).astype(np.uint8)
        formats.write(tmp_path / f"{name}.fits", image, grid=sphere, meta={})
    one, two = aligned([formats.read(tmp_path / f"{name}.fits") for name in ("map", "mask")])
    assert two.space is one.space
    assert ((one.image > 0) == two.image).all()


def test_missing_pixels_are_refused():
    part = some(nest=True)
    with pytest.raises(ValueError, match=r"mask\.fits lacks \d+ of the 768 pixels of map\.fits"):
        aligned([sample(NEST), sample(part, "mask")])
    assert len(aligned([sample(part), sample(NEST, "mask")])[1].image[0]) == len(part.pixels)


def test_what_is_no_sky_is_refused():
    from medseg.geometry.grid import Grid

    scan = Sample("a", np.zeros((1, 2, 2, 2)), Grid((2, 2, 2), np.eye(4)), ("t1",))
    with pytest.raises(ValueError, match="is no map of the sky"):
        aligned([sample(NEST), scan])


@pytest.mark.parametrize("what", ["nside", "frame"])
@pytest.mark.parametrize("channel", ["mask", "map"])
def test_another_nside_or_frame_is_refused_with_a_line_that_mends_it(
    tmp_path, monkeypatch, what, channel
):
    own = Sphere(16, frame="G") if what == "nside" else Sphere(NSIDE, frame="C")
    like = Sphere(NSIDE, nest=False, frame="G")
    path = tmp_path / "other.fits"
    image = (truth(own) > 0).astype(np.uint8) if channel == "mask" else truth(own)
    formats.write(path, image, grid=own, meta={})
    first = sample(like)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- read below
        aligned([first, healpix.read(path, channel=channel, unit="uK")])
    text = str(caught.value)
    wanted = "has nside 16 and map.fits nside 8" if what == "nside" else "is in celestial coord"
    assert wanted in text
    code = text.split('python -c "')[1].removesuffix('"')
    monkeypatch.chdir(tmp_path)
    exec(code, {})  # noqa: S102 -- our own line
    mended = formats.read(tmp_path / "mended.fits")
    assert aligned([first, mended])[1].image.shape == (1, NPIX)
    assert mended.space.frame == "G"
    if channel == "mask":
        assert set(np.unique(mended.image)) == {0, 1}
