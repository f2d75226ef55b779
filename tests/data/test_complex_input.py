"""Complex input: what each definition adds, what it must not lose, and what fits together."""

import numpy as np
import pytest

from medseg.data import complex_input
from medseg.data.intensity import normalise
from medseg.data.recipe import Recipe
from medseg.geometry.grid import Grid
from medseg.geometry.resample import Passage
from medseg.io import kspace


def grid(shape=(9, 8, 5)):
    return Grid(shape, np.diag([2.0, 2.0, 3.0, 1.0]))


def real(channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, 100.0, (channels, *grid().shape)).astype(np.float32)


def complex_(seed=0):
    rng = np.random.default_rng(seed)
    turn = np.exp(1j * rng.uniform(-np.pi, np.pi, grid().shape))
    return (real(seed=seed) * turn).astype(np.complex64)


def made(image, definition, spacing=None, method="scale", slice_axis=2):
    found, _ = complex_input.working(
        image,
        Passage.to(grid(), spacing),
        method=method,
        definition=definition,
        slice_axis=slice_axis,
    )
    half = len(found) // 2
    return found[:half] + 1j * found[half:]


def test_zero_imag_is_the_values_and_nothing_else():
    z = made(real(), "zero_imag", method="none")
    np.testing.assert_array_equal(z.real, real())
    assert not z.imag.any()


def test_a_spectrum_of_real_values_is_hermitian_in_each_slice():
    image = real()[:, :, :7]  # odd lengths in the plane, so that no Nyquist line stands alone
    space = Grid(image.shape[1:], grid().affine)
    found, _ = complex_input.working(
        image, Passage.to(space, None), method="none", definition="fft", slice_axis=2
    )
    z = found[0] + 1j * found[1]
    mirrored = z[::-1, ::-1].conj()
    np.testing.assert_allclose(z, mirrored, atol=1e-3 * np.abs(z).max())
    energy = (np.abs(image) ** 2).sum(), (np.abs(z) ** 2).sum()
    np.testing.assert_allclose(*energy, rtol=1e-4)  # Parseval: the transform is orthonormal


def test_synthetic_phase_keeps_the_magnitude_and_is_the_same_each_time():
    z = made(real(), "synthetic_phase", method="none")
    np.testing.assert_allclose(np.abs(z), real(), rtol=1e-5)
    np.testing.assert_array_equal(z, made(real(), "synthetic_phase", method="none"))
    assert np.std(np.angle(z)) > 0.1
    steps = np.angle(z[0, 1:] / z[0, :-1])
    assert np.abs(steps).max() < np.pi / 2  # smooth: no jump between neighbours


def test_magnitude_and_phase_in_radians_make_one_channel():
    z = complex_()
    pair = np.concatenate([np.abs(z), np.angle(z)]).astype(np.float32)
    np.testing.assert_allclose(made(pair, "mag_phase", method="none"), z, rtol=1e-4, atol=1e-3)
    assert complex_input.complex_channels(("m", "p"), "mag_phase") == ("m",)
    assert complex_input.stored(("m", "p"), "mag_phase") == 2


@pytest.mark.parametrize("method", ["scale", "rms"])
def test_a_real_scale_keeps_every_phase(method):
    z = complex_()
    scaled = made(z, "real_imag", method=method)
    np.testing.assert_allclose(np.angle(scaled / z), 0, atol=1e-5)
    ratio = np.abs(scaled) / np.abs(z)
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)


def test_scale_puts_the_foregrounds_99th_percentile_at_one():
    scaled, (found,) = normalise(complex_(), "scale")
    assert np.percentile(np.abs(scaled), 99) == pytest.approx(1, rel=1e-5)
    assert found["p99"] == pytest.approx(float(np.percentile(np.abs(complex_()), 99)), rel=1e-5)


def test_resampling_acts_on_the_complex_value_not_on_wrapped_phase():
    shape = grid().shape
    ramp = np.exp(1j * 0.5 * np.arange(shape[0]))[:, None, None] * np.ones(shape)
    z = made(ramp[None].astype(np.complex64), "real_imag", spacing=(1.0, 2.0, 3.0), method="none")
    assert z.shape[1] == 2 * shape[0]
    inside = z[0, 4:-4]
    np.testing.assert_allclose(np.abs(inside), 1, atol=0.02)
    np.testing.assert_allclose(np.angle(inside[1:] / inside[:-1]), 0.25, atol=0.03)


@pytest.mark.parametrize(
    ("image", "definition", "said"),
    [
        (complex_(), None, "data.complex_input=real_imag"),
        (complex_(), "zero_imag", "would drop their imaginary part"),
        (real(), "real_imag", "zero_imag, fft, synthetic_phase, mag_phase"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_cure(image, definition, said):
    with pytest.raises(ValueError, match=said):
        made(image, definition)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"complex_input": "real"}, "must be one of zero_imag"),
        ({"intensity": "zscore"}, "destroys the phase"),
        ({"complex_input": "mag_phase"}, "an even number"),
        ({"classes": ["a"]}, "at least two names"),
        ({"classes": ["a", "b"], "labels": {"c": [1]}}, "one of the three"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(change, said):
    recipe = {"channels": ["kspace"], "complex_input": "real_imag", "intensity": "scale"}
    with pytest.raises(ValueError, match=said):
        Recipe.of(recipe | change)


def test_normalising_complex_values_by_their_mean_is_refused():
    with pytest.raises(ValueError, match="destroys the phase"):
        normalise(complex_(), "zscore")


@pytest.mark.parametrize("domain", ["kspace", "image"])
def test_unknown_millimetres_are_said_of_every_domain(tmp_path, domain):
    values = np.random.default_rng(0).normal(size=(2, 12, 14))
    np.save(tmp_path / "a.npy", (values[0] + 1j * values[1]).astype(np.complex64))
    with pytest.warns(UserWarning, match="counts as 1 mm"):
        said = complex_input.origin(kspace.read(tmp_path / "a.npy", domain=domain))
    assert said["spacing_known"] is False
    assert ("coils" in said) == (domain == "kspace")
    known = kspace.read(tmp_path / "a.npy", domain=domain, spacing_mm=2.0)
    assert complex_input.origin(known)["spacing_known"] is True
