"""The algebra of a Dixon scan, by which contrasts in each other's places are noticed.

Source: in = water + fat and opposed = |water - fat|, after Dixon 1984,
doi:10.1148/radiology.153.1.6089263. Fat and water can be exchanged in both, so a swap of these two
is left to the files' names.
"""

import itertools

import numpy as np
from jaxtyping import Float

from medseg.sample import Sample

CONTRASTS = ("fat", "inphase", "opposed", "water")

_VOXELS = 1 << 17
_HOLDS, _BROKEN, _TIMES = 0.02, 0.05, 4.0


def check(sample: Sample) -> None:
    """Refuse four contrasts that fit the algebra in other places much better than in their own.

    Nothing is said where the algebra fits nowhere: scanners may scale each contrast by itself.
    """
    names = {name.lower(): index for index, name in enumerate(sample.channels)}
    there = sample.meta.get("present", (True,) * len(sample.channels))
    if not set(CONTRASTS) <= set(names) or not all(there[names[c]] for c in CONTRASTS):
        return
    flat = [sample.image[names[c]].reshape(-1) for c in CONTRASTS]
    step = 1 + len(flat[0]) // _VOXELS
    values = [part[::step].astype(np.float64) for part in flat]
    given = _misfit(*values)
    if given < _BROKEN:
        return
    orders = [o for o in itertools.permutations(range(4)) if o[0] < o[3]]
    best = min(orders, key=lambda order: _misfit(*(values[n] for n in order)))
    least = _misfit(*(values[n] for n in best))
    if least > _HOLDS or given < _TIMES * least:
        return
    moved = [(CONTRASTS[n], CONTRASTS[k]) for k, n in enumerate(best) if n != k]
    told = ", ".join(f"what is given as {was} looks like {wanted}" for was, wanted in moved)
    raise ValueError(
        f"case {sample.id}: the contrasts are not in their places: inphase = water + fat and "
        f"opposed = |water - fat| are missed by {given:.0%}, and by {least:.1%} if changed round: "
        f"{told} (fat and water cannot be told apart); mend the names, or give --as-given"
    )


def _misfit(
    fat: Float[np.ndarray, " n"],
    inphase: Float[np.ndarray, " n"],
    opposed: Float[np.ndarray, " n"],
    water: Float[np.ndarray, " n"],
) -> float:
    """Share of the two composed contrasts' energy that the algebra leaves over, the larger one.

    Each of the two may have a scale of its own.
    """
    return max(_left(inphase, water + fat), _left(opposed, np.abs(water - fat)))


def _left(found: Float[np.ndarray, " n"], wanted: Float[np.ndarray, " n"]) -> float:
    energy = float(found @ found) * float(wanted @ wanted)
    return 1.0 - float(found @ wanted) ** 2 / energy if energy > 0 else 1.0
