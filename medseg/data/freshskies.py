"""Training data made on the fly: skies and masks drawn anew for every batch, as in `cmb`.

Chance is drawn in `draw`, the deed done in `apply`, as in `transforms`: equal seed and step of a
training, equal skies. A stream's seed is four random words under a `spawn_key` that no written case
has, so a training never draws a sky that is validated or tested on.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from medseg.data.cmb import PLANCK, Simulator
from medseg.data.skymasks import Masks, check_kind
from medseg.data.transforms import Chance
from medseg.geometry.sphere import nside_of
from medseg.sample import Batch

# A written case's streams are children 0, 1 and 2 of its seed.
_FRESH = 0x5EED
_WORDS = 4


class FreshSkies:
    """The maps of every case give way to a new sky; the last channel, the mask, stays.

    Noise lies where that mask sees, so new masks (`FreshMasks`) come first.

    Args:
        spectrum: "planck18", or a file of C_l or D_l.
        lmax: the largest multipole; 2 nside without a word.
        beam_arcmin: FWHM of the beam; by default 320 arc minutes at nside 32, and so on.
        noise_uk: standard deviation of each pixel's noise in µK, as methods are told it.
        added_noise_uk: the noise that seen pixels really have; as told without a word.
        fields: "T", "QU" or "TQU".
    """

    def __init__(
        self,
        *,
        spectrum: str | Path = PLANCK,
        lmax: int | None = None,
        beam_arcmin: float | None = None,
        noise_uk: float | None = None,
        added_noise_uk: float | None = None,
        fields: str = "T",
    ) -> None:
        self.options: dict[str, Any] = {
            "spectrum": spectrum,
            "lmax": lmax,
            "beam_arcmin": beam_arcmin,
            "noise_uk": noise_uk,
            "added_noise_uk": added_noise_uk,
            "fields": fields,
        }
        Simulator(1, **self.options)  # refuses here what it would refuse at the first batch
        self.simulators: dict[int, Simulator] = {}

    def simulator(self, nside: int) -> Simulator:
        """What draws the skies of an nside; it is made once."""
        if nside not in self.simulators:
            self.simulators[nside] = Simulator(nside, **self.options)
        return self.simulators[nside]

    def draw(self, batch: Batch, source: Chance) -> Int64[Tensor, "b words"]:
        """The seed of each case's sky."""
        return _words(batch, source)

    def apply(self, batch: Batch, drawn: Int64[Tensor, "b words"]) -> Batch:
        """Draw the skies."""
        channels, fields = batch.image.shape[1], self.options["fields"]
        if channels != len(fields) + 1:
            raise ValueError(
                f"skies of the fields {fields} fill {len(fields)} channels beside the mask, and "
                f"the data have {channels - 1}; set data.source.fields and data.channels alike"
            )
        simulator = self.simulator(nside_of(batch.image.shape[-1]))
        seen = batch.image[:, -1].cpu().numpy() > 0.5
        skies = [
            simulator.draw(*_stream(words).spawn(2), seen=one)
            for words, one in zip(drawn, seen, strict=True)
        ]
        maps = torch.from_numpy(np.stack(skies)).to(batch.image)
        return replace(batch, image=torch.cat([maps, batch.image[:, -1:]], 1))


class FreshMasks:
    """The mask of every case, its last channel, gives way to a new one.

    Args:
        shares: kind of mask (medseg/data/skymasks.py) to its share of the cases; what is left to 1
            keeps its mask.
        base: the mask that "wmap" and "rotated" take: the shipped one, or a HEALPix file.
    """

    def __init__(
        self,
        *,
        shares: Mapping[str, float] | None = None,
        base: str = "wmap",
    ) -> None:
        given = {"rotated": 0.5, "cuts": 0.25} if shares is None else dict(shares)
        self.kinds = [check_kind(kind) for kind in given]
        self.bounds = np.cumsum([float(share) for share in given.values()])
        if min(given.values(), default=0) < 0 or (given and self.bounds[-1] > 1 + 1e-9):
            raise ValueError(f"shares is {given}; give shares from 0 to 1 that sum up to at most 1")

        self.base = base

    def draw(self, batch: Batch, source: Chance) -> Int64[Tensor, "b words"]:
        """The seed of each case's mask."""
        return _words(batch, source)

    def apply(self, batch: Batch, drawn: Int64[Tensor, "b words"]) -> Batch:
        """Draw the masks."""
        masks = Masks(nside_of(batch.image.shape[-1]), base=self.base)
        changed = batch.image.clone()
        for number, words in enumerate(drawn):
            dice = _stream(words)
            place = int(np.searchsorted(self.bounds, dice.random(), side="right"))
            if place < len(self.kinds):
                seen = masks.draw(self.kinds[place], dice)
                changed[number, -1] = torch.from_numpy(seen.astype(np.float32)).to(changed)
        return replace(batch, image=changed)


def _words(batch: Batch, source: Chance) -> Int64[Tensor, "b words"]:
    return torch.randint(2**32, (len(batch.image), _WORDS), generator=source.generator)


def _stream(words: Int64[Tensor, " words"]) -> np.random.Generator:
    seed = np.random.SeedSequence(words.tolist(), spawn_key=(_FRESH,))
    return np.random.default_rng(seed)
