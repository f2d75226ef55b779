"""What is known of a sky before it is seen: angular power spectrum, beam and noise.

Units: C_l in µK² (not D_l), beams in arc minutes (FWHM of a Gaussian), noise in µK a pixel.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from medseg.geometry.sphere import ring_numbers

KINDS = ("TT", "EE", "BB", "TE")


@dataclass(frozen=True, eq=False)
class Prior:
    """A Gaussian, isotropic sky seen through a beam, with white noise.

    Attributes:
        spectrum: C_l in µK², a row for each of `KINDS` (zeros where unknown), l from 0.
        beam_arcmin: FWHM of the Gaussian beam; 0 for none.
        noise_uk: standard deviation of each pixel's noise in µK.
    """

    spectrum: Float[np.ndarray, "4 l"]
    beam_arcmin: float = 0.0
    noise_uk: float = 0.0

    @property
    def lmax(self) -> int:
        """The largest multipole that the spectrum says something of."""
        return self.spectrum.shape[1] - 1

    @cached_property
    def seen(self) -> Float[np.ndarray, "4 l"]:
        """The spectrum through the beam, in µK²; monopole and dipole are none of the CMB's."""
        import healpy

        window = np.ones((self.lmax + 1, 4))
        if self.beam_arcmin:
            fwhm = np.radians(self.beam_arcmin / 60)
            window = healpy.gauss_beam(fwhm, lmax=self.lmax, pol=True)
        t, e, b, te = window.T
        found = self.spectrum * np.stack([t**2, e**2, b**2, te**2])
        found[:, :2] = 0
        return found

    def upto(self, lmax: int) -> "Prior":
        """The same without multipoles beyond `lmax`.

        Raises:
            ValueError: the spectrum ends before.
        """
        if self.lmax < lmax:
            raise ValueError(
                f"the spectrum ends at l = {self.lmax}, and l = {lmax} is needed; give a longer "
                "one, or a smaller --lmax"
            )
        return Prior(self.spectrum[:, : lmax + 1], self.beam_arcmin, self.noise_uk)

    def draw(
        self, nside: int, *, seed: int | np.random.Generator, fields: str = "T"
    ) -> Float[np.ndarray, "c n"]:
        """A sky through the beam without noise, in µK, NESTED; equal seeds draw equal skies.

        Args:
            nside: of the map.
            seed: a number or a generator.
            fields: "T", "QU" or "TQU", a channel a letter.
        """
        import healpy

        dice = np.random.default_rng(seed)
        alms = self._alms(dice, polarised=fields != "T")
        order = ring_numbers(nside)
        if fields == "T":
            return healpy.alm2map(alms[0], nside, lmax=self.lmax)[order][None]
        maps = np.asarray(healpy.alm2map(alms, nside, lmax=self.lmax))[:, order]
        return maps if fields == "TQU" else maps[1:]

    def _alms(self, dice: np.random.Generator, *, polarised: bool) -> np.ndarray:
        """Coefficients of T, and of E and B, with the spectra's variances and covariance."""
        import healpy

        degree, order = healpy.Alm.getlm(self.lmax)
        tt, ee, bb, te = self.seen[:, degree]

        def white() -> np.ndarray:
            parts = dice.standard_normal((2, len(degree)))
            return np.where(order == 0, parts[0] + 0j, (parts[0] + 1j * parts[1]) / np.sqrt(2))

        first = white()
        t = np.sqrt(tt) * first
        if not polarised:
            return t[None]
        share = np.divide(te, np.sqrt(tt), out=np.zeros_like(te), where=tt > 0)
        rest = np.sqrt(np.maximum(ee - share**2, 0))
        return np.stack([t, share * first + rest * white(), np.sqrt(bb) * white()])


def bins(nside: int) -> list[tuple[int, int]]:
    """The bands of multipoles that results are told in: l from and to, both included."""
    return [(2, 10), (11, nside), (nside + 1, int(1.75 * nside))]
