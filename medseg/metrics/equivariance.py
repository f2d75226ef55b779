"""How far an operator or a network on the sphere is from commuting with turns of the sky.

Any rotation: E = (|R(L f) - L(R f)| / |L f|)² for fields f of a single degree, where R turns
harmonics and so is exact for f. Beyond l = 2 nside HEALPix quadrature, not the operator, makes E.
The sixteen symmetries of the grid move pixels onto pixels; there the deviation has no such floor.

Source: Defferrard et al. 2020, arXiv:2012.15000 (E, squared in the text). Differs: both
that and the ratio without the square, which the published figure averages, are told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from medseg.geometry.sphere import nest_numbers, nside_of, ring_numbers
from medseg.geometry.symmetry import symmetries

ITERATIONS = 10

Operator = Callable[[Float[np.ndarray, " n"]], Float[np.ndarray, " n"]]
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Equivariance:
    """The error at one degree: mean over draws of the squared ratio and of the ratio itself."""

    degree: int
    squared: float
    plain: float


def equivariance_error(
    operator: Operator,
    nside: int,
    *,
    degree: int,
    functions: int = 4,
    rotations: int = 1,
    seed: int = 0,
) -> Equivariance:
    """E of an operator on NESTED maps at one degree, over random fields and uniform rotations.

    Args:
        operator: maps a whole NESTED map to another of the same nside.
        nside: of the maps.
        degree: the one l that a field holds.
        functions: how many random fields.
        rotations: how many rotations of each.
        seed: of fields and rotations.
    """
    lmax = 3 * nside - 1
    if not 1 <= degree <= lmax:
        raise ValueError(f"degree {degree} is not one of 1..{lmax}, which nside {nside} holds")
    dice = np.random.default_rng(seed)
    ratios = []
    for _ in range(functions):
        alm = _single(degree, lmax, dice)
        image = operator(_map(alm, nside))
        harmonics = _harmonics(image, lmax)
        for _ in range(rotations):
            angles = _angles(dice)
            after = _map(_turned(harmonics, angles, lmax), nside)
            before = operator(_map(_turned(alm, angles, lmax), nside))
            ratios.append(np.linalg.norm(after - before) / np.linalg.norm(image))
    found = np.array(ratios)
    return Equivariance(degree, float(np.square(found).mean()), float(found.mean()))


def symmetry_deviation(
    network: Network, sky: Float[Tensor, "b c n"], *, which: Sequence[int] = tuple(range(16))
) -> Float[np.ndarray, " g"]:
    """For each of the grid's symmetries, how far a network is from commuting with it.

    The largest difference between the network of the moved sky and the moved output, over the
    largest output; a network of whole skies ("b k") has to give the same for a moved sky.

    Args:
        network: maps "b c n" to "b k n" or "b k", without chance (`eval` mode).
        sky: NESTED maps.
        which: the symmetries, numbered as in `symmetries`: 8 rotations, then 8 reflections.
    """
    table = symmetries(nside_of(sky.shape[-1]))
    with torch.no_grad():
        own = network(sky)
        size = float(own.abs().max().clamp_min(torch.finfo(own.dtype).tiny))
        found = []
        for number in which:
            back = torch.from_numpy(np.argsort(table[number])).to(sky.device)
            wanted = own[..., back] if own.ndim == sky.ndim else own
            found.append(float((network(sky[..., back]) - wanted).abs().max()) / size)
    return np.array(found)


def _single(degree: int, lmax: int, dice: np.random.Generator) -> Complex[np.ndarray, " a"]:
    """Coefficients of a random real field of one degree."""
    import healpy

    alm = np.zeros(healpy.Alm.getsize(lmax), dtype=np.complex128)
    order = np.arange(degree + 1)
    parts = dice.standard_normal((2, degree + 1)) / np.sqrt(2)
    values = parts[0] + 1j * parts[1]
    values[0] = dice.standard_normal()
    alm[healpy.Alm.getidx(lmax, degree, order)] = values
    return alm


def _angles(dice: np.random.Generator) -> tuple[float, float, float]:
    """Euler angles about z, y and z of a rotation drawn uniformly."""
    from scipy.spatial.transform import Rotation

    first, second, third = Rotation.random(random_state=dice).as_euler("zyz")
    return float(first), float(second), float(third)


def _turned(
    alm: Complex[np.ndarray, " a"], angles: tuple[float, float, float], lmax: int
) -> Complex[np.ndarray, " a"]:
    import healpy

    found = alm.copy()
    healpy.rotate_alm(found, *angles, lmax=lmax)
    return found


def _map(alm: Complex[np.ndarray, " a"], nside: int) -> Float[np.ndarray, " n"]:
    import healpy

    return healpy.alm2map(alm, nside, lmax=3 * nside - 1)[ring_numbers(nside)]


def _harmonics(values: Float[np.ndarray, " n"], lmax: int) -> Complex[np.ndarray, " a"]:
    import healpy

    ring = np.asarray(values, dtype=np.float64)[nest_numbers(nside_of(len(values)))]
    return healpy.map2alm(ring, lmax=lmax, iter=ITERATIONS, use_pixel_weights=False)
