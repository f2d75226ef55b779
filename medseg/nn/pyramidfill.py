"""The holes of a sky filled from coarse to fine: a level starts from the one above and relaxes.

A cheap near relative of the diffusion fill (the harmonic function between the holes' edges), in a
fixed number of sweeps at every resolution, so that its time and memory grow with the pixels alone.
Linear in the map, and nothing of it is learned or known beforehand.
"""

from functools import lru_cache

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from medseg.geometry.neighbours import neighbours
from medseg.geometry.sphere import FACES, nside_of

SWEEPS = 12


def pyramid_fill(
    values: Float[Tensor, "b c n"], seen: Float[Tensor, "b 1 n"], *, sweeps: int = SWEEPS
) -> Float[Tensor, "b c n"]:
    """NESTED skies whose pixels with `seen` 0 are filled; where it is 1 they stay as they are.

    A coarse pixel is the mean of its seen children. From nside 1, where an unseen face takes the
    mean of the seen ones, each level copies its parents and takes `sweeps` means of the eight
    neighbours. What stands in the holes does not matter; a sky that has not been seen becomes 0.
    """
    levels = [(values * seen, seen)]
    while levels[-1][0].shape[-1] > FACES:
        levels.append(_coarser(*levels[-1]))
    top, weight = levels[-1]
    mean = (top * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp_min(1)
    filled = torch.where(weight > 0, top, mean)
    for known, weight in reversed(levels[:-1]):
        filled = _relaxed(filled.repeat_interleave(4, -1), known, weight > 0, sweeps)
    return filled


def _coarser(
    known: Float[Tensor, "b c n"], weight: Float[Tensor, "b 1 n"]
) -> tuple[Float[Tensor, "b c m"], Float[Tensor, "b 1 m"]]:
    total, count = (reduce(v, "b c (n k) -> b c n", "sum", k=4) for v in (known, weight))
    there = (count > 0).to(weight.dtype)
    return total / count.clamp_min(1e-6) * there, there


def _relaxed(
    filled: Float[Tensor, "b c n"], known: Float[Tensor, "b c n"], seen: Tensor, sweeps: int
) -> Float[Tensor, "b c n"]:
    """Unseen pixels as the mean of their neighbours, again and again; a pixel is a row in here."""
    table, share = _table(nside_of(filled.shape[-1]), filled.device)
    share = share.to(filled.dtype)
    fixed = seen.expand(-1, filled.shape[1], -1)
    known, fixed, rows = (
        rearrange(v, "b c n -> n (b c)").contiguous() for v in (known, fixed, filled)
    )
    rows = torch.where(fixed, known, rows)
    for _ in range(sweeps):
        around = functional.embedding_bag(table, rows, mode="sum", per_sample_weights=share)
        rows = torch.where(fixed, known, around)
    return rearrange(rows, "n (b c) -> b c n", b=len(filled))


@lru_cache(maxsize=32)
def _table(nside: int, device: torch.device) -> tuple[Int[Tensor, "n 8"], Float[Tensor, "n 8"]]:
    """The eight neighbours and their shares in the mean; one that is missing has none."""
    around = neighbours(nside)
    there = around >= 0
    share = there / there.sum(1, keepdims=True)
    own = np.arange(len(around))[:, None]
    with torch.inference_mode(mode=False):
        table = torch.tensor(np.where(there, around, own), device=device)
        return table, torch.tensor(share, dtype=torch.float32, device=device)
