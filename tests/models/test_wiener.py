"""The Wiener filter is the Gaussian conditional mean, and its draws have that distribution."""

from types import SimpleNamespace

import healpy
import numpy as np
import pytest
from scipy.special import eval_legendre

from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import centres, ring_numbers
from medseg.geometry.symmetry import symmetries
from medseg.models import wiener
from medseg.models.wiener import Wiener


def known(lmax, noise=2.0):
    """A steep spectrum with TE, E and B, without a beam."""
    degree = np.arange(lmax + 1)
    tt = 2e4 / (degree + 1.0) ** 2.5
    spectrum = np.stack([tt, 0.2 * tt, 0.05 * tt, 0.3 * tt])
    spectrum[:, :2] = 0
    return Prior(spectrum, noise_uk=noise)


def problem(nside, fields="T", noise=2.0):
    """A noisy sky of lmax = 2 nside behind a Galactic cut of 20 degrees and a cap."""
    prior = known(2 * nside, noise)
    sky = prior.draw(nside, seed=3, fields=fields)
    view = sky + noise * np.random.default_rng(4).standard_normal(sky.shape)
    vectors = centres(nside)
    seen = (np.abs(vectors[:, 2]) > 0.34) & (vectors @ [0.6, 0.0, 0.8] < 0.95)
    return SimpleNamespace(prior=prior, sky=sky, values=np.where(seen, view, 0), seen=seen)


def legendre_covariance(prior, nside):
    vectors = centres(nside)
    cosine = np.clip(vectors @ vectors.T, -1, 1)
    terms = zip(range(prior.lmax + 1), prior.seen[0], strict=True)
    return sum((2 * d + 1) / (4 * np.pi) * c * eval_legendre(d, cosine) for d, c in terms)


def unit_covariance(prior, nside, fields):
    """The covariance of T, Q and U from the maps of single harmonics."""
    degree, order = healpy.Alm.getlm(prior.lmax)
    total = np.zeros((3 * 12 * nside**2,) * 2)
    for number, (at, m) in enumerate(zip(degree, order, strict=True)):
        tt, ee, bb, te = prior.seen[:, at]
        kinds = np.array([[tt, te, 0], [te, ee, 0], [0, 0, bb]]) / (2 if m else 1)
        for part in (1, 1j) if m else (1,):
            alms = np.zeros((3, 3, len(degree)), complex)
            alms[range(3), range(3), number] = part
            maps = [np.asarray(healpy.alm2map(list(a), nside, lmax=prior.lmax)) for a in alms]
            rows = np.stack(maps)[:, :, ring_numbers(nside)].reshape(3, -1)
            total += rows.T @ kinds @ rows
    keep = np.isin(np.repeat(list("TQU"), 12 * nside**2), list(fields))
    return total[np.ix_(keep, keep)]


def conditional(covariance, case):
    """Mean and covariance of the hidden values, by the textbook."""
    seen = np.tile(case.seen, len(case.values))
    noisy = covariance[np.ix_(seen, seen)] + case.prior.noise_uk**2 * np.eye(seen.sum())
    gain = np.linalg.solve(noisy, covariance[np.ix_(seen, ~seen)]).T
    rest = covariance[np.ix_(~seen, ~seen)] - gain @ covariance[np.ix_(seen, ~seen)]
    return gain @ case.values.ravel()[seen], rest


def test_mean_and_deviation_are_the_conditional_ones():
    case = problem(8)
    mean, rest = conditional(legendre_covariance(case.prior, 8), case)
    method = Wiener()
    found = method.fill(case.values, seen=case.seen, prior=case.prior)
    scale = np.abs(mean).max()
    np.testing.assert_allclose(found[0, ~case.seen], mean, atol=1e-8 * scale)
    np.testing.assert_array_equal(found[:, case.seen], case.values[:, case.seen])
    deviation = method.deviation(case.values, seen=case.seen, prior=case.prior)
    np.testing.assert_allclose(deviation[0, ~case.seen], np.sqrt(np.diag(rest)), rtol=1e-6)
    assert not deviation[:, case.seen].any()


@pytest.mark.parametrize("fields", ["QU", "TQU"])
def test_polarised_mean_and_deviation_are_the_conditional_ones(fields):
    case = problem(4, fields, noise=0.5)
    mean, rest = conditional(unit_covariance(case.prior, 4, fields), case)
    method = Wiener()
    found = method.fill(case.values, seen=case.seen, prior=case.prior)
    scale = np.abs(mean).max()
    np.testing.assert_allclose(found[:, ~case.seen].ravel(), mean, atol=1e-8 * scale)
    deviation = method.deviation(case.values, seen=case.seen, prior=case.prior)
    wanted = np.sqrt(np.diag(rest))
    np.testing.assert_allclose(deviation[:, ~case.seen].ravel(), wanted, rtol=1e-6)


def test_draws_have_the_posteriors_mean_and_covariance():
    case, many = problem(4), 1500
    mean, rest = conditional(legendre_covariance(case.prior, 4), case)
    draws = Wiener().draw(case.values, seen=case.seen, prior=case.prior, seeds=range(many))
    hidden = draws[:, 0, ~case.seen]
    size = np.sqrt(np.diag(rest))
    assert np.abs((hidden.mean(0) - mean) / size).max() < 5 / many**0.5
    error = (np.cov(hidden.T) - rest) / np.sqrt(np.outer(size**2, size**2) + rest**2)
    assert np.abs(error).max() < 5.5 / many**0.5  # five and a half standard errors of 5000 pairs
    np.testing.assert_array_equal(
        draws[:, :, case.seen],
        np.broadcast_to(case.values[:, case.seen], (many, 1, case.seen.sum())),
    )


def test_a_seed_draws_one_sky():
    case = problem(4, "QU")
    method = Wiener()
    first, second, again = method.draw(
        case.values, seen=case.seen, prior=case.prior, seeds=[5, 6, 5]
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second)[:, ~case.seen].max() > 1


@pytest.mark.parametrize("fields", ["T", "QU", "TQU"])
def test_iterations_end_at_the_dense_answer(fields, monkeypatch):
    monkeypatch.setattr(wiener, "LARGE", 10)  # most of the work is left to the iteration
    case = problem(16, fields)
    given = {"seen": case.seen, "prior": case.prior}
    dense, iterative = Wiener(solver="dense"), Wiener(solver="iterative")
    for wanted, found in (
        (dense.fill(case.values, **given), iterative.fill(case.values, **given)),
        (
            dense.draw(case.values, **given, seeds=[1])[0],
            iterative.draw(case.values, **given, seeds=[1])[0],
        ),
    ):
        error = np.linalg.norm((found - wanted)[:, ~case.seen], axis=1)
        assert (error < 1e-4 * np.linalg.norm(wanted[:, ~case.seen], axis=1)).all()


def test_the_residual_bounds_the_error_of_the_white_numbers(monkeypatch):
    monkeypatch.setattr(wiener, "LARGE", 10)
    case = problem(16)
    kinds = [Wiener(solver=name) for name in ("dense", "iterative")]
    exact, near = (k._equations(1, case.seen, prior=case.prior) for k in kinds)
    right = exact.harmonics.transposed(case.values) / exact.noise**2
    error = np.linalg.norm(near.solve(right) - exact.solve(right))
    residual = np.linalg.norm(right - near._apply(near.solve(right)))
    assert error <= 1.01 * residual + 1e-9
    assert error / right.size**0.5 < wiener.ACCURACY


def test_the_grids_symmetries_are_kept():
    case = problem(8)
    whole = Wiener().fill(case.values, seen=case.seen, prior=case.prior)
    for turn in symmetries(8):
        found = Wiener().fill(case.values[:, turn], seen=case.seen[turn], prior=case.prior)
        np.testing.assert_allclose(found, whole[:, turn], atol=1e-8 * np.abs(whole).max())


def test_what_the_band_limit_determines_is_found_without_noise():
    case = problem(8, noise=0.0)
    prior = case.prior.upto(5)
    sky = prior.draw(8, seed=7)
    found = Wiener().fill(np.where(case.seen, sky, 0), seen=case.seen, prior=prior)
    assert np.abs(found - sky).max() < 1e-3 * sky.std()


@pytest.mark.parametrize("solver", ["dense", "iterative"])
def test_an_offset_and_a_dipole_are_found_if_allowed(solver):
    case = problem(8)
    tilt = 40 + centres(8) @ [30.0, -20.0, 10.0]
    moved = np.where(case.seen, case.values + tilt, 0)
    given = {"seen": case.seen, "prior": case.prior}
    plain = Wiener(offset=True, solver=solver).fill(case.values, **given)
    found = Wiener(offset=True, solver=solver).fill(moved, **given)
    np.testing.assert_allclose(found - plain, tilt[None], atol=0.5)  # the prior's pull on 54 µK
    assert np.abs(Wiener(solver=solver).fill(moved, **given) - plain - tilt).max() > 10


def test_a_mask_or_prior_that_changed_is_noticed():
    case, other = problem(4), problem(4, noise=9.0)
    method = Wiener()
    first = method.fill(case.values, seen=case.seen, prior=case.prior)
    kept = method._kept
    method.fill(case.values, seen=case.seen.copy(), prior=known(8))
    assert method._kept is kept
    second = method.fill(case.values, seen=case.seen, prior=other.prior)
    assert np.abs(first - second).max() > 0.1
    third = method.fill(case.values[:, ::-1].copy(), seen=case.seen[::-1].copy(), prior=case.prior)
    fresh = Wiener().fill(
        case.values[:, ::-1].copy(), seen=case.seen[::-1].copy(), prior=case.prior
    )
    np.testing.assert_array_equal(third, fresh)


def test_a_full_map_comes_back():
    case = problem(4)
    full = np.ones(len(case.seen), bool)
    method = Wiener()
    for found in (
        method.fill(case.sky, seen=full, prior=case.prior),
        *method.draw(case.sky, seen=full, prior=case.prior, seeds=[1, 2]),
    ):
        np.testing.assert_array_equal(found, case.sky)
    assert not method.deviation(case.sky, seen=full, prior=case.prior).any()


def test_what_cannot_be_filled_is_refused():
    case = problem(4)
    given = {"seen": case.seen, "prior": case.prior}
    with pytest.raises(ValueError, match="spectrum=FILE"):
        Wiener().fill(case.values, seen=case.seen, prior=None)
    with pytest.raises(ValueError, match="no pixel is seen"):
        Wiener().fill(case.values, seen=np.zeros_like(case.seen), prior=case.prior)
    with pytest.raises(ValueError, match="4 fields"):
        Wiener().fill(np.tile(case.values, (4, 1)), **given)
    with pytest.raises(ValueError, match="no power"):
        Wiener().fill(case.values, seen=case.seen, prior=Prior(np.zeros((4, 9))))
    with pytest.raises(ValueError, match="--samples"):
        Wiener(solver="iterative").deviation(case.values, **given)
    with pytest.raises(ValueError, match="solver is 'fast'"):
        Wiener(solver="fast")
    large = np.arange(12 * 64**2) > 100
    with pytest.raises(ValueError, match="give --solver iterative"):
        Wiener(solver="dense").fill(np.zeros((1, len(large))), seen=large, prior=known(180))
    large = np.arange(12 * 256**2) > 100
    with pytest.raises(ValueError, match="method:diffusion"):
        Wiener().fill(np.zeros((1, len(large))), seen=large, prior=case.prior)


def test_an_iteration_that_does_not_end_says_so(monkeypatch):
    monkeypatch.setattr(wiener, "MOST_STEPS", 2)
    monkeypatch.setattr(wiener, "LARGE", 4)
    case = problem(8)
    with pytest.raises(ValueError, match="not converged after 2 steps"):
        Wiener(solver="iterative").fill(case.values, seen=case.seen, prior=case.prior)
