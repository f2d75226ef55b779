"""Made-up skies of the cosmic microwave background behind masks, to fill the holes of.

A sky is a Gaussian, isotropic field of a given spectrum, through a beam and with white noise, in
µK. Training draws its skies anew (medseg/data/freshskies.py); the ones written here are for
choosing and judging, and no training ever draws one of them.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from medseg.data.phantoms.cases import Cases, write_cases
from medseg.data.sheet import Record
from medseg.data.skymasks import KINDS, Masks
from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import Sphere, check_nside
from medseg.io import healpix
from medseg.io import spectrum as spectra
from medseg.sample import Sample

PLANCK = "planck18"
NOISE_UK = {"T": 1.0, "QU": 0.01, "TQU": 0.01}
FIELDS = {"T": ("map",), "QU": ("Q", "U"), "TQU": ("T", "Q", "U")}
SPECTRUM_FILE = "spectrum.npz"
_BEAM_ARCMIN = 320.0 * 32  # times 1 / nside: almost three pixels


class Simulator:
    """What a kind of sky is made from; `draw` makes one.

    Args:
        nside: of the maps.
        spectrum: "planck18", or a file of C_l or D_l.
        lmax: the largest multipole of the skies; 2 nside without a word.
        beam_arcmin: FWHM of the beam; by default 320 arc minutes at nside 32, and so on.
        noise_uk: standard deviation of each pixel's noise, as methods are told it; 1 by default,
            and 0.01 where Q and U are among the fields, which are a hundred times weaker.
        added_noise_uk: the noise that seen pixels really have; as told without a word. What is
            hidden has none, so that a map's truth is the sky.
        fields: "T", "QU" or "TQU".
    """

    def __init__(
        self,
        nside: int,
        *,
        spectrum: str | Path = PLANCK,
        lmax: int | None = None,
        beam_arcmin: float | None = None,
        noise_uk: float | None = None,
        added_noise_uk: float | None = None,
        fields: str = "T",
    ) -> None:
        self.nside, self.fields = check_nside(nside), fields
        if fields not in FIELDS:
            raise ValueError(f"fields is {fields!r}; it must be one of {', '.join(FIELDS)}")
        beam = _BEAM_ARCMIN / nside if beam_arcmin is None else beam_arcmin
        noise_uk = NOISE_UK[fields] if noise_uk is None else noise_uk
        self.noise_uk = noise_uk if added_noise_uk is None else added_noise_uk
        if min(beam, noise_uk, self.noise_uk) < 0:
            raise ValueError(
                f"beam_arcmin is {beam}, noise_uk {noise_uk}, added_noise_uk {added_noise_uk}; "
                "give 0 or more of each"
            )
        prior = Prior(_spectrum(str(spectrum)), beam_arcmin=beam, noise_uk=noise_uk)
        tt, ee, bb, _ = prior.spectrum.any(1)
        if ("T" in fields and not tt) or ("Q" in fields and not (ee or bb)):
            raise ValueError(
                f"the spectrum {spectrum} has no power for the fields {fields}; T wants a column "
                "TT, Q and U want EE or BB"
            )
        self.prior = prior.upto(2 * nside if lmax is None else lmax)

    def draw(
        self,
        sky: np.random.Generator,
        grain: np.random.Generator,
        *,
        seen: Bool[np.ndarray, " n"] | None = None,
    ) -> Float[np.ndarray, "c n"]:
        """A sky and the noise of what is seen (of all, if None), a stream each; µK, NESTED."""
        signal = self.prior.draw(self.nside, seed=sky, fields=self.fields)
        noise = self.noise_uk * grain.standard_normal(signal.shape)
        return (signal + (noise if seen is None else noise * seen)).astype(np.float32)


@cache
def _spectrum(name: str) -> Float[np.ndarray, "4 l"]:
    """C_l in µK² by name or file, read once."""
    return spectra.planck18() if name == PLANCK else spectra.read(Path(name)).values


class Cmb:
    """Skies behind masks; case i of a split never changes when a split grows.

    Channels are the fields (`map`, or `Q` and `U`, or `T`, `Q` and `U`) with nothing hidden, and
    `mask`: 1 where the sky is seen, 0 in holes. The same seed and place make the same sky behind
    every kind of mask. Each case has a stream of its own, whose seed is (seed, split, place), so
    splits share none; the skies of training come from seeds of another form.

    Args:
        n_train: training cases.
        n_val: validation cases.
        n_test: test cases.
        seed: another seed makes other skies.
        nside: of the maps.
        spectrum: "planck18", or a file of C_l or D_l.
        lmax: the largest multipole of the skies; 2 nside without a word.
        beam_arcmin: FWHM of the beam; by default 320 arc minutes at nside 32, and so on.
        noise_uk: standard deviation of each pixel's noise, as methods are told it; 1 by default,
            and 0.01 where Q and U are among the fields, which are a hundred times weaker.
        added_noise_uk: the noise that seen pixels really have; as told without a word. What is
            hidden has none, so that a map's truth is the sky.
        fields: "T", "QU" or "TQU".
        mask: a kind of medseg/data/skymasks.py, "mixed" for all of them in turn by chance, or a
            HEALPix file.
        base: the mask that "wmap" and "rotated" take: the shipped one, or a HEALPix file.
        n_masks: so many masks a split, which its cases take in turn; by default each has its own.
    """

    def __init__(
        self,
        *,
        n_train: int = 64,
        n_val: int = 40,
        n_test: int = 200,
        seed: int = 0,
        nside: int = 32,
        spectrum: str | Path = PLANCK,
        lmax: int | None = None,
        beam_arcmin: float | None = None,
        noise_uk: float | None = None,
        added_noise_uk: float | None = None,
        fields: str = "T",
        mask: str = "wmap",
        base: str = "wmap",
        n_masks: int | None = None,
    ) -> None:
        self.cases = Cases(n_train, n_val, n_test, seed)
        self.simulator = Simulator(
            nside,
            spectrum=spectrum,
            lmax=lmax,
            beam_arcmin=beam_arcmin,
            noise_uk=noise_uk,
            added_noise_uk=added_noise_uk,
            fields=fields,
        )
        if mask not in (*KINDS, "mixed"):
            if base != "wmap" or not Path(mask).is_file():
                raise ValueError(
                    f"mask is {mask!r}, base {base!r}; a mask is one of {', '.join(KINDS)}, mixed "
                    "or a HEALPix file, and base is for wmap, rotated and mixed"
                )
            mask, base = "wmap", mask
        if n_masks is not None and n_masks < 1:
            raise ValueError(f"n_masks is {n_masks}; give 1 or more, or null for one a case")
        self.masks, self.mask, self.n_masks = Masks(nside, base=base), mask, n_masks
        self.channels = (*FIELDS[fields], "mask")
        names = ["TEMPERATURE"] if fields == "T" else list(fields)
        self._meta = {"unit": "uK_CMB", "columns": names}
        self._space = Sphere(nside, frame="G")

    def records(self) -> list[Record]:
        """One record a case; nothing has been drawn yet."""
        return self.cases.records()

    def draw(self, record: Record) -> tuple[Float[np.ndarray, "c n"], Bool[np.ndarray, " n"]]:
        """The maps of one case in µK, noisy where they are seen, and what that is; NESTED."""
        sky, grain, _ = self.cases.stream(record).spawn(3)
        seen = self._seen(self._mask_of(record))
        return self.simulator.draw(sky, grain, seen=seen), seen

    def load(self, record: Record, *, with_target: bool = True) -> Sample:
        """Draw one case; the maps are their own target."""
        del with_target
        maps, seen = self.draw(record)
        return Sample(
            id=record.case,
            image=np.concatenate([maps, seen[None].astype(np.float32)]),
            space=self._space,
            channels=self.channels,
            subject=record.subject,
            split=record.split,
            meta=self._meta,
        )

    def write(self, folder: Path) -> Path:
        """Write every case's maps and mask as HEALPix FITS, the spectrum and a sheet; returns it.

        Cases with one mask share its file. The folder takes its place when all is written; one
        that was there is replaced.
        """
        facts = ["spectrum", "beam_arcmin", "noise_uk"]
        columns = ["case", "subject", *self.channels, "split", *facts]
        return write_cases(folder, columns, rows=self._write_cases)

    def _write_cases(self, folder: Path) -> Iterator[list[str]]:
        """Write the files of each case and yield its row."""
        prior = self.simulator.prior
        np.savez(folder / SPECTRUM_FILE, total=prior.spectrum.T)
        facts = [SPECTRUM_FILE, f"{prior.beam_arcmin:g}", f"{prior.noise_uk:g}"]
        for record in self.records():
            maps, seen = self.draw(record)
            source = self._mask_of(record)
            hidden = "mask.fits" if self.mask == "wmap" else f"{source.case}_mask.fits"
            name = f"{record.case}.fits"
            healpix.write(folder / name, maps, grid=self._space, meta=self._meta)
            if not (folder / hidden).exists():
                healpix.write(folder / hidden, seen, grid=self._space, meta={"columns": ["MASK"]})
            names = [name] * len(maps) + [hidden]
            yield [record.case, record.subject, *names, record.split, *facts]

    def _mask_of(self, record: Record) -> Record:
        """The case whose mask a case takes."""
        if self.n_masks is None:
            return record
        split, _, place = record.case.partition("-")
        return Record(f"{split}-{int(place) % self.n_masks:03d}", "", split, paths={})

    def _seen(self, record: Record) -> Bool[np.ndarray, " n"]:
        dice = self.cases.stream(record).spawn(3)[2]
        kind = KINDS[int(dice.integers(len(KINDS)))] if self.mask == "mixed" else self.mask
        return self.masks.draw(kind, dice)
