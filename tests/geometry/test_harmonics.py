"""White numbers to skies and back: against healpy's transforms and against plain sums."""

import numpy as np
import pytest

from medseg.geometry.harmonics import Harmonics

NSIDE, LMAX = 8, 14
PIXELS = np.arange(12 * NSIDE**2)


def skies(fields):
    """A basis of a steep spectrum, with E, B and TE of different sizes."""
    tt = 1e3 / (np.arange(LMAX + 1) + 1.0) ** 2
    tt[:2] = 0
    return Harmonics(NSIDE, np.stack([tt, 0.1 * tt, 0.02 * tt, 0.2 * tt]), fields)


def flat(white):
    return np.concatenate([white.real.ravel(), white.imag.ravel()])


def white_noise(shape, seed):
    real, imaginary = np.random.default_rng(seed).normal(size=(2, *shape))
    return real + 1j * imaginary


@pytest.mark.parametrize("fields", ["T", "QU", "TQU"])
def test_rows_are_what_healpy_synthesises(fields):
    basis = skies(fields)
    white = white_noise(basis.shape, 0)
    found = basis.rows(PIXELS) @ flat(white)
    np.testing.assert_allclose(found, basis.maps(white), atol=1e-11 * np.abs(found).max())


@pytest.mark.parametrize("fields", ["T", "QU", "TQU"])
def test_transposed_is_the_transpose(fields):
    basis = skies(fields)
    maps = np.random.default_rng(1).normal(size=(len(fields), len(PIXELS)))
    wanted = np.einsum("cpw,cp->w", basis.rows(PIXELS), maps)
    np.testing.assert_allclose(
        flat(basis.transposed(maps)), wanted, atol=1e-11 * np.abs(wanted).max()
    )


@pytest.mark.parametrize("fields", ["T", "QU", "TQU"])
def test_coupling_is_the_product_of_the_seen_rows(fields):
    basis = skies(fields)
    seen = np.random.default_rng(2).random(len(PIXELS)) > 0.4
    rows = basis.rows(PIXELS[seen])
    wanted = np.einsum("cpw,cpv->wv", rows, rows)
    np.testing.assert_allclose(basis.coupling(seen), wanted, atol=1e-11 * np.abs(wanted).max())


@pytest.mark.parametrize("fields", ["T", "QU", "TQU"])
def test_variance_is_that_of_white_numbers_of_variance_one(fields):
    basis = skies(fields)
    found = (basis.rows(PIXELS) ** 2).sum(2).mean(1)  # exact in T; Q and U share their power
    wanted = basis.variance
    np.testing.assert_allclose(found.sum(), wanted.sum(), rtol=1e-10)
    np.testing.assert_allclose(found, wanted, rtol=0.02)


def test_temperature_and_polarisation_are_correlated_as_the_spectrum_says():
    basis = skies("TQU")
    root = basis.roots
    covariance = np.einsum("xyk,zyk->xzk", root, root)
    tt, ee, bb, te = basis.spectrum[:, basis.degree]
    np.testing.assert_allclose(covariance[[0, 1, 2, 0], [0, 1, 2, 1]], [tt, ee, bb, te], atol=1e-12)
    np.testing.assert_allclose(covariance[:2, 2], 0, atol=1e-12)
