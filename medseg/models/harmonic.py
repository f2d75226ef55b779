"""Holes of a sky filled with what its own harmonics say of them, over and over.

Source: none of its own: the alternation of Gerchberg 1974, doi:10.1080/713818946, and Papoulis
1975, doi:10.1109/TCS.1975.1084118, between "the map is band-limited" and "the map is as seen",
with the transforms of healpy (Gorski et al. 2005, doi:10.1086/427976). It is what users of healpy
do by hand; it moves slowly in large holes and is here to be compared with.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medseg.geometry.spectrum import Prior
from medseg.geometry.sphere import nest_numbers, nside_of, ring_numbers

METHOD = {
    "task": {"name": "inpaint"},
    "channels": ["map", "T", "Q", "U", "mask", "spectrum"],
    "optional_channels": True,
    "ndim": 1,
}
ITERATIONS = 50


def add_options(parser: argparse.ArgumentParser) -> None:
    """How long to go on."""
    parser.add_argument(
        "--iterations",
        type=int,
        metavar="N",
        help=f"of the harmonic fill: there and back so many times (default {ITERATIONS})",
    )


class Harmonic(nn.Module):
    """Starts from empty holes; each turn puts the map's expansion up to lmax into them.

    lmax is the prior's, and 2 nside at the most: beyond that, quadrature errors would grow from
    turn to turn. One map is a temperature, two are Q and U, three are T, Q and U.

    Args:
        iterations: turns.
    """

    needs_prior = False
    ndim = 1
    stride = 1
    not_exportable = "it goes through healpy's transforms, which an exported program cannot call"
    of_maps = True

    def __init__(self, *, iterations: int = ITERATIONS) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}; give 1 or more")
        self.iterations = iterations

    def fit(self, images: Sequence[Tensor], targets: Sequence[Tensor]) -> float:  # noqa: ARG002
        """Nothing is learned."""
        return 0.0

    def fill(
        self,
        values: Float[np.ndarray, "c n"],
        *,
        seen: Bool[np.ndarray, " n"],
        prior: Prior | None = None,
    ) -> Float[np.ndarray, "c n"]:
        """The map with its holes filled, NESTED; seen pixels come back as they were."""
        nside = nside_of(len(seen))
        lmax = 2 * nside if prior is None else min(prior.lmax, 2 * nside)
        turn = _limited(len(values), nside, lmax=lmax)
        own, known = np.array(values, dtype=float), seen[nest_numbers(nside)]
        ringed = np.where(known, own[:, nest_numbers(nside)], 0)
        filled = ringed
        for _ in range(self.iterations):
            filled = np.where(known, ringed, turn(filled))
        return np.where(seen, own, filled[:, ring_numbers(nside)])


def _limited(
    fields: int, nside: int, *, lmax: int
) -> Callable[[Float[np.ndarray, "c n"]], Float[np.ndarray, "c n"]]:
    """Maps in RING order to the same without harmonics beyond `lmax`.

    Raises:
        ValueError: another number of maps than T, QU or TQU have.
    """
    import healpy

    def turn(maps: Float[np.ndarray, "c n"]) -> Float[np.ndarray, "c n"]:
        if fields == 2:
            pair = healpy.map2alm_spin(list(maps), 2, lmax=lmax)
            return np.asarray(healpy.alm2map_spin(pair, nside, 2, lmax=lmax))
        given = maps[0] if fields == 1 else list(maps)
        alms = healpy.map2alm(given, lmax=lmax, iter=0, use_pixel_weights=False)
        return np.atleast_2d(healpy.alm2map(alms, nside, lmax=lmax))

    if fields not in {1, 2, 3}:
        raise ValueError(f"the map has {fields} fields; give T (1), Q and U (2), or T, Q and U (3)")
    return turn
