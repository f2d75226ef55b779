"""Phase comes to radians from every usual unit, and what is no phase is refused."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

from medseg.geometry import phase

ANGLE = np.linspace(-np.pi, np.pi, 4096, endpoint=False).reshape(64, 64)


def apart(a, b):
    """Largest angle between two phases, whatever turns lie between them."""
    return np.abs(np.angle(np.exp(1j * (a.astype(np.float64) - b)))).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wrap_keeps_the_angle_within_half_a_turn(dtype):
    far = np.linspace(-40, 40, 10001, dtype=dtype)
    found = phase.wrap(far)
    assert found.dtype == dtype
    assert found.max() <= np.asarray(np.pi, dtype)
    assert found.min() > -np.asarray(np.pi, dtype)
    assert apart(found, far.astype(np.float64)) < (5e-6 if dtype == np.float32 else 1e-13)
    assert_allclose(phase.wrap(found), found, atol=1e-6)


def test_wrap_takes_both_ends_to_the_upper_one():
    ends = np.array([np.pi, -np.pi, 3 * np.pi, 0.0])
    assert_allclose(phase.wrap(ends), [np.pi, np.pi, np.pi, 0])
    assert (phase.wrap(ends.astype(np.float32))[:2] == np.float32(np.pi)).all()


def test_radians_that_fill_a_turn_are_kept_bit_for_bit():
    values = ANGLE.astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (phase.radians(values) == values).all()
        positive = np.mod(ANGLE, 2 * np.pi).astype(np.float32)
        assert apart(phase.radians(positive), ANGLE) < 1e-6


STEP = 2 * np.pi / 4096
UNITS = {
    "4096 levels": np.arange(4096).astype(np.int16),
    "8192 levels": (2 * np.arange(4096) - 4096).astype(np.int16),
    "256 levels": np.repeat(np.arange(256), 16).astype(np.uint8),
    "65536 levels": (16 * np.arange(4096)).astype(np.uint16),
    "degrees": np.rad2deg(ANGLE.ravel()).astype(np.float32),
    "thousandths": np.round(ANGLE.ravel() * 1000).astype(np.int16),
    "shrunk": (ANGLE.ravel() * 0.00116959).astype(np.float32),
    "brought to this range": np.linspace(0, 1, 4096, dtype=np.float32),
}


@pytest.mark.parametrize("unit", UNITS)
def test_other_units_become_radians_with_a_word_of_it(unit):
    values = UNITS[unit].reshape(64, 64)
    with pytest.warns(UserWarning, match=f"case.nii runs from .*{unit}"):
        found = phase.radians(values, where="case.nii")
    assert found.dtype == np.float32
    # One level of the coarsest unit, 8 bits, and of 0 to 1, whose two ends are one angle.
    assert apart(found, ANGLE) < (STEP * 16 if unit == "256 levels" else STEP * 1.01)
    assert 2 * np.pi - (found.max() - found.min()) < STEP * 17


def test_whole_degrees_from_0_to_359_keep_their_zero():
    with pytest.warns(UserWarning, match="degrees"):
        found = phase.radians(np.arange(360).reshape(18, 20))
    assert apart(found.ravel(), np.deg2rad(np.arange(360))) < 2 * np.pi / 360 * 0.6


def test_a_flat_phase_is_taken_as_radians_with_a_word_of_it():
    values = (ANGLE / 3).astype(np.float32)
    with pytest.warns(UserWarning, match="fills no turn; taken as radians"):
        assert (phase.radians(values) == values).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((3, 3), 1.5), "a constant is no phase image"),
        (np.array([0.0, np.nan, 1]), "NaN or infinite"),
        (ANGLE * 3, "Wrap an unwrapped phase first"),
        (np.arange(3000), "2\\^n levels, degrees"),
        (np.arange(4) % 2, "neither radians"),
        (np.linspace(0.2, 0.21, 9), "neither radians"),
        (np.linspace(-50.5, 4000.3, 99), "neither radians"),
    ],
)
def test_what_is_no_phase_is_refused_with_its_range(values, words):
    with pytest.raises(ValueError, match=f"(?s)^case.nii.*{words}"):
        phase.radians(values, where="case.nii")


def test_a_real_phase_image_survives_its_headers_slope(reference):
    """Stored radians are symmetric about zero, so the slope is undone by one factor alone."""
    import nibabel

    image = nibabel.load(reference / "data/complex/mriresearchtools_Phase.nii")
    raw = np.asarray(image.dataobj.get_unscaled())
    shrunk = np.asarray(image.dataobj).astype(np.float32)
    assert np.abs(shrunk).max() < 0.004
    with pytest.warns(UserWarning, match="shrunk by a header's slope"):
        found = phase.radians(shrunk)
    assert_allclose(found.max() - found.min(), 2 * np.pi, atol=1e-3)
    assert apart(found, raw) < 1e-3
    assert (phase.radians(raw) == raw).all()
