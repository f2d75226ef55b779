"""Gaussian skies as white numbers: spherical harmonics weighed by the roots of a spectrum.

A sky of covariance S = B Bᵀ is B w with w independent and of variance one. B is never built whole:
it is a transform of healpy, and where its products are wanted (which harmonics a mask mixes) they
are sums over rings, on which every harmonic is a pure wave.

Source: Gorski et al. 2005, ApJ 622, 759 (doi 10.1086/427976) for rings and transforms; Zaldarriaga
and Seljak 1997, arXiv:astro-ph/9609170, for Q and U. Own code; healpy's signs.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Complex, Float, Integer

from medseg.geometry.sphere import FACES, nest_numbers, ring_numbers

FIELDS = {1: "T", 2: "QU", 3: "TQU"}
SMALL = 1e-30


@dataclass(frozen=True, eq=False)
class Harmonics:
    """The way from white numbers to maps, and its transpose.

    White numbers are complex, a row for each of T, E, B that the fields are made of, in healpy's
    order (m first); real and imaginary part count as two numbers, and what has no effect (imaginary
    parts of m = 0, multipoles without power) maps to zero.

    Attributes:
        nside: of the maps, which are NESTED.
        spectrum: C_l through the beam, rows TT, EE, BB, TE, l from 0.
        fields: T, QU or TQU.
    """

    nside: int
    spectrum: Float[np.ndarray, "4 l"]
    fields: str

    @property
    def lmax(self) -> int:
        """The largest multipole."""
        return self.spectrum.shape[1] - 1

    @cached_property
    def degree(self) -> Integer[np.ndarray, " k"]:
        """The l of each white number."""
        import healpy

        return healpy.Alm.getlm(self.lmax)[0]

    @cached_property
    def order(self) -> Integer[np.ndarray, " k"]:
        """The m of each white number."""
        import healpy

        return healpy.Alm.getlm(self.lmax)[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Kinds (T, E, B) and complex white numbers of each."""
        return len(self.fields), len(self.degree)

    @property
    def variance(self) -> Float[np.ndarray, " c"]:
        """Variance of each field in a pixel, in µK²."""
        power = self.spectrum @ (2 * np.arange(self.lmax + 1) + 1) / (4 * np.pi)
        polarised = (power[1] + power[2]) / 2
        return np.array([power[0] if field == "T" else polarised for field in self.fields])

    @cached_property
    def roots(self) -> Float[np.ndarray, "x x k"]:
        """What the coefficients (first axis) take of each white number (second axis)."""
        tt, ee, bb, te = self.spectrum[:, self.degree]
        found = np.zeros((3, 3, len(tt)))
        found[0, 0] = np.sqrt(tt)
        if self.fields != "QU":
            found[1, 0] = np.where(tt > 0, te, 0) / np.sqrt(np.maximum(tt, SMALL))
        found[1, 1] = np.sqrt(np.maximum(ee - found[1, 0] ** 2, 0))
        found[2, 2] = np.sqrt(bb)
        keep = ["TEB".index(kind) for kind in self._kinds]
        return found[np.ix_(keep, keep)]

    @property
    def _kinds(self) -> str:
        return {"T": "T", "QU": "EB", "TQU": "TEB"}[self.fields]

    def maps(self, white: Complex[np.ndarray, "x k"]) -> Float[np.ndarray, "c n"]:
        """The sky of white numbers, in µK."""
        import healpy

        alms = np.einsum("xyk,yk->xk", self.roots, white)
        alms[:, self.order > 0] /= np.sqrt(2)
        if self.fields == "QU":
            found = np.asarray(healpy.alm2map_spin(list(alms), self.nside, 2, self.lmax))
        elif self.fields == "T":
            found = healpy.alm2map(alms[0], self.nside, lmax=self.lmax)[None]
        else:
            found = np.asarray(healpy.alm2map(list(alms), self.nside, lmax=self.lmax))
        return found[:, ring_numbers(self.nside)]

    def transposed(self, maps: Float[np.ndarray, "c n"]) -> Complex[np.ndarray, "x k"]:
        """The transpose of `maps`, exact: quadrature weights play no part."""
        import healpy

        ringed = maps[:, nest_numbers(self.nside)]
        if self.fields == "QU":
            alms = np.stack(healpy.map2alm_spin(list(ringed), 2, lmax=self.lmax))
        else:
            given = ringed[0] if self.fields == "T" else list(ringed)
            found = healpy.map2alm(given, lmax=self.lmax, iter=0, use_pixel_weights=False)
            alms = np.atleast_2d(found)
        alms[:, self.order > 0] *= np.sqrt(2)
        return np.einsum("xyk,xk->yk", self.roots, alms) * (FACES * self.nside**2 / (4 * np.pi))

    def coupling(self, seen: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "w w"]:
        """Bᵀ M B, M the mask: how seen pixels mix white numbers (all real parts, then imaginary).

        Each harmonic is a wave on a ring, so that the sum over a ring's pixels is one Fourier
        coefficient of the mask: (white numbers)² times rings operations, not times pixels.
        """
        rows = self._kernels
        waves = _waves(seen[nest_numbers(self.nside)], self.nside, highest=2 * self.lmax)
        out = np.zeros((2, *self.shape, 2, *self.shape))
        for m in range(self.lmax + 1):
            own = slice(int(np.argmax(self.order == m)), int(np.argmax(self.order > m)) or None)
            rest = slice(own.start, None)
            left = rearrange(rows[:, own], "x k f r -> (x k) (f r)")
            apart = self.order[rest] - m
            shape = (*rows[:, own].shape[:2], *rows[:, rest].shape[:2])
            less = (left @ _columns(rows[:, rest].conj(), waves[apart].conj())).reshape(shape)
            more = (left @ _columns(rows[:, rest], waves[apart + 2 * m])).reshape(shape)
            for part, other, block in (
                (0, 0, (less + more).real / 2),
                (1, 1, (less - more).real / 2),
                (0, 1, (less - more).imag / 2),
                (1, 0, -(less + more).imag / 2),
            ):
                out[part, :, own, other, :, rest] = block
                out[other, :, rest, part, :, own] = rearrange(block, "x k y j -> y j x k")
        return out.reshape(2 * self.roots[0, 0].size * len(rows), -1)

    def rows(self, pixels: Integer[np.ndarray, " p"]) -> Float[np.ndarray, "c p w"]:
        """Rows of B: what each white number (real parts, then imaginary) adds to some pixels."""
        ring, angle = _place(ring_numbers(self.nside)[pixels], self.nside)
        wave = np.exp(1j * angle[:, None] * np.arange(self.lmax + 1))[:, self.order]
        found = rearrange(self._kernels[..., ring], "x k f p -> f p x k") * wave[:, None]
        return rearrange([found.real, -found.imag], "part f p x k -> f p (part x k)")

    @cached_property
    def _kernels(self) -> Complex[np.ndarray, "x k c r"]:
        """Each harmonic on each ring but for its wave, in each field, times its root."""
        plain = _plain(self.nside, self.lmax)
        found = np.zeros((3, len(self.degree), 3, plain.shape[1]), complex)
        found[0, :, 0] = plain
        if self.fields != "T":
            even, odd = _spinning(self.nside, plain, degree=self.degree, order=self.order)
            found[1, :, 1], found[1, :, 2] = -even, 1j * odd
            found[2, :, 1], found[2, :, 2] = -1j * odd, -even
        found[:, self.order > 0] *= np.sqrt(2)
        kinds = ["TEB".index(kind) for kind in self._kinds]
        found = found[kinds][:, :, ["TQU".index(field) for field in self.fields]]
        return np.einsum("xyk,xkfr->ykfr", self.roots, found)


def _columns(
    kernels: Complex[np.ndarray, "x k c r"], waves: Complex[np.ndarray, "k r"]
) -> Complex[np.ndarray, "cr xk"]:
    return rearrange(kernels * waves[None, :, None], "x k f r -> (f r) (x k)")


def _rings(nside: int) -> tuple[np.ndarray, ...]:
    """First pixel, number of pixels, cosine of the colatitude and first longitude of each ring."""
    import healpy

    first, count, cosine, _, shifted = healpy.ringinfo(nside, np.arange(1, 4 * nside))
    return first, count, cosine, np.where(shifted, np.pi / count, 0)


def _place(
    pixels: Integer[np.ndarray, " p"], nside: int
) -> tuple[Integer[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Ring and longitude of RING pixels."""
    first, count, _, shift = _rings(nside)
    ring = np.searchsorted(first, pixels, side="right") - 1
    return ring, shift[ring] + 2 * np.pi * (pixels - first[ring]) / count[ring]


def _waves(
    ringed: Bool[np.ndarray, " n"], nside: int, *, highest: int
) -> Complex[np.ndarray, "m r"]:
    """Sum of exp(i m longitude) over the chosen pixels of each ring, m up to `highest`."""
    orders, out = np.arange(highest + 1), []
    for first, count, _, shift in zip(*_rings(nside), strict=True):
        sums = np.fft.fft(ringed[first : first + count].astype(float)).conj()
        out.append(sums[orders % count] * np.exp(1j * orders * shift))
    return np.stack(out, 1)


def _plain(nside: int, lmax: int) -> Float[np.ndarray, "k r"]:
    """Normalised associated Legendre functions on each ring, healpy's order and sign."""
    import healpy

    cosine = _rings(nside)[2]
    sine, m = np.sqrt((1 - cosine) * (1 + cosine)), np.arange(lmax + 1)[:, None]
    cube = np.zeros((lmax + 1, lmax + 1, len(cosine)))
    cube[0, 0] = 1 / np.sqrt(4 * np.pi)
    for degree in range(1, lmax + 1):
        low = m[:degree]
        step = np.sqrt((4 * degree**2 - 1) / (degree**2 - low**2))
        back = np.sqrt(((degree - 1) ** 2 - low**2) / max(4 * (degree - 1) ** 2 - 1, 1))
        before = cube[degree - 2, :degree] if degree > 1 else 0
        cube[degree, :degree] = step * (cosine * cube[degree - 1, :degree] - back * before)
        top = -np.sqrt((2 * degree + 1) / (2 * degree)) * sine * cube[degree - 1, degree - 1]
        cube[degree, degree] = top
    return cube[healpy.Alm.getlm(lmax)]


def _spinning(
    nside: int,
    plain: Float[np.ndarray, "k r"],
    *,
    degree: Integer[np.ndarray, " k"],
    order: Integer[np.ndarray, " k"],
) -> tuple[Float[np.ndarray, "k r"], Float[np.ndarray, "k r"]]:
    """Spin 2 on each ring, from l and l - 1: E adds -even to Q, i odd to U; B -i odd, -even."""
    cosine, m, n = _rings(nside)[2], order[:, None], degree[:, None].astype(float)
    square = (1 - cosine) * (1 + cosine)
    below = np.where(m < n, np.roll(plain, 1, axis=0), 0)
    below = below * np.sqrt((2 * n + 1) / np.maximum(2 * n - 1, 1) * (n**2 - m**2))
    size = 2 / np.sqrt(np.maximum((n + 2) * (n + 1) * n * (n - 1), 1)) * (n > 1)
    even = -((n - m**2) / square + n * (n - 1) / 2) * plain + cosine / square * below
    odd = m / square * (below - (n - 1) * cosine * plain)
    return size * even, size * odd
