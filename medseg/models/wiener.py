"""The best linear fill of a Gaussian sky's holes, and skies drawn from all that agree with the map.

Source: Wiener 1949 for the mean; Hoffman and Ribak 1991, ApJ 380, L5 (doi 10.1086/186160), for the
constrained realisations; Eriksen et al. 2004, arXiv:astro-ph/0407028, sec. 3, for solving it by
conjugate gradients with a dense block of large scales as the preconditioner. No code followed.
Differs: the equations stand in white numbers w, sky = B w, where (1 + Bᵀ M B / noise²) w = Bᵀ M d /
noise²; by the matrix inversion lemma that is the conditional mean S_ho (S_oo + noise²)⁻¹ d of the
pixels' covariance S = B Bᵀ, with fewer unknowns than there are seen pixels. No eigenvalue lies
below 1, so that the residual's norm bounds the error's.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn

from medseg.geometry.harmonics import FIELDS, Harmonics
from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import FACES, nside_of

METHOD = {
    "task": {"name": "inpaint"},
    "channels": ["map", "T", "Q", "U", "mask", "spectrum"],
    "optional_channels": True,
    "ndim": 1,
}
SOLVERS = ("auto", "dense", "iterative")
MOST_DENSE = 13_000
LIMIT = 30_000
MOST_NSIDE = 128
NUGGET = {True: 1e-4, False: 1e-3}
OFFSET = 10
ACCURACY = 1e-4
MOST_STEPS = 4000
LARGE = 48
STRIPE = 512


def add_options(parser: argparse.ArgumentParser) -> None:
    """How the equations are solved."""
    parser.add_argument(
        "--solver",
        choices=SOLVERS,
        help="of the Wiener filter: dense factorises once a mask and is exact, iterative holds no "
        "matrix; auto is dense while that takes less than a minute (nside 32)",
    )
    parser.add_argument(
        "--offset",
        action="store_true",
        default=None,
        help="the map may have a monopole and a dipole, which the Wiener filter then finds as well "
        "(default: it has none)",
    )


class Wiener(nn.Module):
    """The mean of all Gaussian skies of a spectrum that agree with what is seen, and draws of them.

    A filled pixel is sky through the beam, without noise. T, QU (E and B of their own spectra) or
    TQU (TE counts). Multipoles end with the prior's, and with 3 nside - 1 at the latest. A prior
    without noise is given one of 1e-4 (dense) or 1e-3 (iterative) of the sky's deviation. What was
    computed for the last mask and prior is kept.

    Seconds on one core, lmax 2 nside, 1 µK a pixel: dense takes 2 for a new mask at nside 32 and
    0.05 a map (deviation 6), at nside 64 120 and 2 with a matrix of 2.1 GiB; iterative takes 3 and
    then 5 a map at nside 64 (about 500 steps), 60 and 130 at nside 128 (about 1300).

    Args:
        solver: dense, iterative, or auto (dense up to `MOST_DENSE` real unknowns: nside 32).
        offset: whether temperature may have a monopole and a dipole, of some ten times the sky's
            deviation at the most; without it they are taken to be zero.
    """

    needs_prior = True
    ndim = 1
    stride = 1
    not_exportable = "it goes through healpy's transforms, which an exported program cannot call"
    of_maps = True

    def __init__(self, *, solver: str = "auto", offset: bool = False) -> None:
        super().__init__()
        if solver not in SOLVERS:
            raise ValueError(f"solver is '{solver}'; give one of {', '.join(SOLVERS)}")
        self.solver, self.offset = solver, offset
        self._kept: tuple[tuple[Any, ...], _Dense | _Iterative] | None = None

    def fit(self, images: Sequence[Tensor], targets: Sequence[Tensor]) -> float:  # noqa: ARG002
        """Nothing is learned."""
        return 0.0

    def fill(
        self, values: Float[np.ndarray, "c n"], *, seen: Bool[np.ndarray, " n"], prior: Prior | None
    ) -> Float[np.ndarray, "c n"]:
        """The posterior mean in the holes, NESTED; seen pixels come back as they were.

        Raises:
            ValueError: no prior, nothing seen, too fine a map, or an iteration that does not end.
        """
        if seen.all():
            return np.array(values, dtype=float)
        equations = self._equations(len(values), seen, prior=prior)
        return np.where(seen, values, equations.mean(values))

    def draw(
        self,
        values: Float[np.ndarray, "c n"],
        *,
        seen: Bool[np.ndarray, " n"],
        prior: Prior | None,
        seeds: Sequence[int],
    ) -> Float[np.ndarray, "s c n"]:
        """Skies drawn from the posterior, one a seed; of a seed, either solver draws the same."""
        if seen.all():
            return np.repeat(np.array(values, dtype=float)[None], len(seeds), 0)
        equations = self._equations(len(values), seen, prior=prior)
        return np.stack([np.where(seen, values, equations.draw(values, seed)) for seed in seeds])

    def deviation(
        self, values: Float[np.ndarray, "c n"], *, seen: Bool[np.ndarray, " n"], prior: Prior | None
    ) -> Float[np.ndarray, "c n"]:
        """Posterior standard deviation in µK; 0 where the map is seen. The values do not matter.

        Raises:
            ValueError: as `fill`, and where the matrix of the posterior is never built.
        """
        out = np.zeros(np.shape(values))
        if not seen.all():
            holes = np.flatnonzero(~seen)
            out[:, holes] = self._equations(len(values), seen, prior=prior).deviation(holes)
        return out

    def _equations(
        self, fields: int, seen: Bool[np.ndarray, " n"], *, prior: Prior | None
    ) -> "_Dense | _Iterative":
        prior = _checked(fields, seen, prior=prior)
        key = (fields, seen.tobytes(), prior.spectrum.tobytes(), prior.beam_arcmin, prior.noise_uk)
        if self._kept is None or self._kept[0] != key:
            self._kept = None
            self._kept = key, self._new(FIELDS[fields], seen, prior=prior)
        return self._kept[1]

    def _new(
        self, fields: str, seen: Bool[np.ndarray, " n"], *, prior: Prior
    ) -> "_Dense | _Iterative":
        harmonics = Harmonics(nside_of(len(seen)), prior.seen, fields)
        sky = harmonics.variance[harmonics.variance > 0]
        if not len(sky):
            raise ValueError("the spectrum has no power beyond the dipole; give one that has")
        if self.offset and "T" in fields:
            spectrum = prior.seen.copy()
            spectrum[0, :2] = OFFSET**2 * 4 * np.pi * harmonics.variance[0]
            harmonics = Harmonics(harmonics.nside, spectrum, fields)
        unknowns = 2 * harmonics.shape[0] * harmonics.shape[1]
        dense = self.solver == "dense" or (self.solver == "auto" and unknowns <= MOST_DENSE)
        if dense and unknowns > LIMIT:
            raise ValueError(
                f"the dense solver would hold {unknowns}² numbers, {unknowns**2 / 2**27:.0f} GiB; "
                "give --solver iterative, or a smaller --lmax"
            )
        noise = max(prior.noise_uk, NUGGET[dense] * float(sky.min()) ** 0.5)
        return (_Dense if dense else _Iterative)(harmonics, seen, prior, noise)


def _checked(fields: int, seen: Bool[np.ndarray, " n"], *, prior: Prior | None) -> Prior:
    """The prior without what pixels cannot hold, if the map can be filled at all."""
    nside = nside_of(len(seen))
    if prior is None:
        raise ValueError("the Wiener filter needs to know the sky's spectrum; give spectrum=FILE")
    if nside > MOST_NSIDE:
        raise ValueError(
            f"the map has nside {nside}, and the Wiener filter is solved up to {MOST_NSIDE} only; "
            f"fill it with method:diffusion, or degrade map and mask to nside {MOST_NSIDE}"
        )
    if fields not in FIELDS:
        raise ValueError(f"the map has {fields} fields; give T (1), Q and U (2) or T, Q and U (3)")
    if not seen.any():
        raise ValueError(
            "no pixel is seen, and nothing follows from an empty map; the mask has 1 where the "
            "map is known and 0 in the holes: is it the other way round?"
        )
    return prior.upto(min(prior.lmax, 3 * nside - 1))


@dataclass(frozen=True, eq=False)
class _Equations:
    """One mask and prior; `noise` is the deviation that counts."""

    harmonics: Harmonics
    seen: Bool[np.ndarray, " n"]
    prior: Prior
    noise: float

    def mean(self, values: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c n"]:
        """The sky that is expected where the map is as it is."""
        known = np.where(self.seen, values, 0)
        right = self.harmonics.transposed(known) / self.noise**2
        return self.harmonics.maps(self.solve(right))

    def draw(self, values: Float[np.ndarray, "c n"], seed: int) -> Float[np.ndarray, "c n"]:
        """A sky from the prior, moved by what the map and its own noisy view differ in."""
        dice = np.random.default_rng(seed)
        sky = self.prior.draw(self.harmonics.nside, seed=dice, fields=self.harmonics.fields)
        view = sky + self.noise * dice.standard_normal(sky.shape)
        return sky + self.mean(values - view)

    def solve(self, right: Complex[np.ndarray, "x k"]) -> Complex[np.ndarray, "x k"]:
        """White numbers from the right-hand side."""
        raise NotImplementedError

    def deviation(self, pixels: np.ndarray) -> Float[np.ndarray, "c p"]:
        """Of the sky in some pixels."""
        raise NotImplementedError


class _Dense(_Equations):
    """The factor of the whole matrix."""

    @cached_property
    def _factor(self) -> tuple[np.ndarray, bool]:
        return _factor(self.harmonics, self.seen, noise=self.noise)

    def solve(self, right: Complex[np.ndarray, "x k"]) -> Complex[np.ndarray, "x k"]:
        return _solved(self._factor, right)

    def deviation(self, pixels: np.ndarray) -> Float[np.ndarray, "c p"]:
        from scipy.linalg import solve_triangular

        factor, lower = self._factor
        out = np.empty((len(self.harmonics.fields), len(pixels)))
        for start in range(0, len(pixels), STRIPE):
            here = slice(start, start + STRIPE)
            for field, rows in enumerate(self.harmonics.rows(pixels[here])):
                half = solve_triangular(
                    factor, rows.T, lower=lower, trans=0 if lower else 1, check_finite=False
                )
                out[field, here] = np.sqrt((half**2).sum(0))
        return out


class _Iterative(_Equations):
    """Conjugate gradients; large scales are solved exactly by the preconditioner."""

    @cached_property
    def _large(self) -> tuple[tuple[np.ndarray, bool], np.ndarray]:
        """The factor of the multipoles up to `LARGE`, and where these are."""
        import healpy

        own = self.harmonics
        top = min(LARGE, own.lmax)
        block = Harmonics(own.nside, own.spectrum[:, : top + 1], own.fields)
        where = healpy.Alm.getidx(own.lmax, block.degree, block.order)
        return _factor(block, self.seen, noise=self.noise), where

    @cached_property
    def _diagonal(self) -> Float[np.ndarray, "x k"]:
        """What the matrix has on its diagonal, on the average over orders."""
        hits = FACES * self.harmonics.nside**2 / (4 * np.pi) * self.seen.mean()
        return 1 + (self.harmonics.roots**2).sum(0) * hits / self.noise**2

    def solve(self, right: Complex[np.ndarray, "x k"]) -> Complex[np.ndarray, "x k"]:
        """Ends when the root mean square error of the white numbers is below `ACCURACY` for sure.

        Raises:
            ValueError: not after `MOST_STEPS`.
        """
        left, found = right.copy(), np.zeros_like(right)
        step, size = np.zeros_like(right), 1.0
        wanted = ACCURACY * right.size**0.5
        for _ in range(MOST_STEPS):
            if np.linalg.norm(left) <= wanted:
                return found
            better = self._near(left)
            size, before = _dot(left, better), size
            step = better + size / before * step
            applied = self._apply(step)
            share = size / _dot(step, applied)
            found += share * step
            left -= share * applied
        raise ValueError(
            f"the Wiener filter has not converged after {MOST_STEPS} steps; the noise of "
            f"{self.noise:g} µK is very small for this sky: say --noise-uk, or a smaller --lmax"
        )

    def deviation(self, pixels: np.ndarray) -> Float[np.ndarray, "c p"]:
        raise ValueError(
            f"the posterior's deviation in {len(pixels)} pixels needs the dense solver; lower "
            "--lmax or degrade the map to nside 32 (or, with the memory for it, give --solver "
            "dense), or ask for --samples and take their spread"
        )

    def _apply(self, white: Complex[np.ndarray, "x k"]) -> Complex[np.ndarray, "x k"]:
        sky = np.where(self.seen, self.harmonics.maps(white), 0)
        return white + self.harmonics.transposed(sky) / self.noise**2

    def _near(self, white: Complex[np.ndarray, "x k"]) -> Complex[np.ndarray, "x k"]:
        factor, where = self._large
        out = white / self._diagonal
        out[:, where] = _solved(factor, white[:, where])
        return out


def _factor(
    harmonics: Harmonics, seen: Bool[np.ndarray, " n"], *, noise: float
) -> tuple[np.ndarray, bool]:
    """Cholesky factor of 1 + Bᵀ M B / noise²."""
    from scipy.linalg import cho_factor

    matrix = harmonics.coupling(seen)
    matrix /= noise**2
    matrix[np.diag_indices(len(matrix))] += 1
    return cho_factor(matrix.T, overwrite_a=True, check_finite=False)


def _solved(
    factor: tuple[np.ndarray, bool], right: Complex[np.ndarray, "x k"]
) -> Complex[np.ndarray, "x k"]:
    from scipy.linalg import cho_solve

    parts = np.concatenate([right.real.ravel(), right.imag.ravel()])
    real, imaginary = cho_solve(factor, parts, check_finite=False).reshape(2, *right.shape)
    return real + 1j * imaginary


def _dot(first: Complex[np.ndarray, "x k"], second: Complex[np.ndarray, "x k"]) -> float:
    """The product of white numbers as real ones."""
    return float(np.vdot(first, second).real)
