"""The graphs of a set of contours, and what is computed on them once.

Every matrix is block diagonal, a block a contour, in the order of the contours: a closed contour
is a ring of its nodes, an open one a path.

Source: Gaggion et al. 2022, arXiv:2203.10977, for halving and doubling; Defferrard, Bresson,
Vandergheynst 2016, arXiv:1606.09375, eq. 4, for the Chebyshev basis. No code followed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from medseg.geometry.contour import Contour


def coarse(contours: Sequence[Contour]) -> tuple[Contour, ...]:
    """The same contours with every two nodes joined; the last of an odd number stays alone."""
    return tuple(replace(contour, nodes=-(-contour.nodes // 2)) for contour in contours)


def adjacency(contours: Sequence[Contour]) -> Float[np.ndarray, "n n"]:
    """1 between neighbours on a contour, 0 elsewhere."""
    return _blocks(_neighbours, contours)


def down(contours: Sequence[Contour]) -> Float[np.ndarray, "m n"]:
    """Mean of nodes 2i and 2i + 1; the last row of an odd contour takes its last node."""
    return _blocks(_halve, contours)


def up(contours: Sequence[Contour], *, circular: bool = True) -> Float[np.ndarray, "n m"]:
    """Even nodes copy coarse node i/2, odd nodes are the mean of the two coarse ones beside them.

    The last node of an even contour lies between the last coarse node and the first where the
    contour is closed; on an open one, or without `circular` (as published), it copies the last.
    """
    return _blocks(lambda contour: _double(contour, circular), contours)


def edges(adjacency: Float[np.ndarray, "n n"]) -> Int[np.ndarray, "2 e"]:
    """Source and target of every edge, each neighbourhood in both directions."""
    return np.stack(np.nonzero(adjacency)).astype(np.int64)


def parts(adjacency: Float[np.ndarray, "n n"]) -> tuple[int, ...]:
    """Where runs of nodes end that no edge leaves: for contours, the end of each."""
    source, target = np.nonzero(adjacency)
    reach = np.arange(len(adjacency))
    np.maximum.at(reach, source, target)
    furthest = np.maximum.accumulate(reach)
    return tuple(int(node) + 1 for node in np.flatnonzero(furthest == np.arange(len(reach))))


def scaled_laplacian(adjacency: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Normalised Laplacian with its spectrum moved from [0, 2] to [-1, 1]."""
    degree = np.maximum(adjacency.sum(-1), 1) ** -0.5
    return -degree[:, None] * adjacency * degree[None, :]


def chebyshev(laplacian: Float[np.ndarray, "n n"], order: int) -> Float[np.ndarray, "k n n"]:
    """Chebyshev polynomials 0 to order - 1 of a scaled Laplacian: T(k) = 2 L T(k-1) - T(k-2)."""
    if order < 1:
        raise ValueError(f"the order of a Chebyshev basis is {order}; give at least 1")
    basis = [np.eye(len(laplacian)), laplacian]
    while len(basis) < order:
        basis.append(2 * laplacian @ basis[-1] - basis[-2])
    return np.stack(basis[:order])


def ellipses(contours: Sequence[Contour]) -> Float[np.ndarray, "n 2"]:
    """Simple curves in the unit square to start from: an ellipse a contour, side by side.

    Where nothing is known of the organs, their centres stand on a circle about the image's centre,
    and no two ellipses touch. An open contour is the upper half of its ellipse.
    """
    count = len(contours)
    ring = 0.25 if count > 1 else 0.0
    size = 0.2 if count < 3 else 0.8 * ring * np.sin(np.pi / count)
    found = []
    for number, contour in enumerate(contours):
        turn = 2 * np.pi * number / count
        centre = 0.5 + ring * np.array([-np.cos(turn), -np.sin(turn)])
        steps = contour.nodes if contour.closed else contour.nodes - 1
        share = (1.0 if contour.closed else 0.5) / max(steps, 1)
        angle = 2 * np.pi * (share * np.arange(contour.nodes) + 0.5)
        found.append(centre + size * np.stack([0.8 * np.cos(angle), np.sin(angle)], -1))
    return np.concatenate(found)


def _neighbours(contour: Contour) -> Float[np.ndarray, "n n"]:
    following = np.eye(contour.nodes, k=1)
    if contour.closed:
        following[-1, 0] = 1
    return np.maximum(following, following.T)


def _halve(contour: Contour) -> Float[np.ndarray, "m n"]:
    fine = np.arange(contour.nodes)
    matrix = np.zeros((-(-contour.nodes // 2), contour.nodes))
    matrix[fine // 2, fine] = 1
    return matrix / matrix.sum(-1, keepdims=True)


def _double(contour: Contour, circular: bool) -> Float[np.ndarray, "n m"]:
    fine = np.arange(contour.nodes)
    count = -(-contour.nodes // 2)
    before, after = fine // 2, (fine + 1) // 2
    last = 0 if circular and contour.closed else count - 1
    after = np.where(after == count, last, after)
    matrix = np.zeros((contour.nodes, count))
    np.add.at(matrix, (fine, before), 0.5)
    np.add.at(matrix, (fine, after), 0.5)
    return matrix


def _blocks(
    block: Callable[[Contour], Float[np.ndarray, "_ _"]], contours: Sequence[Contour]
) -> Float[np.ndarray, "r c"]:
    parts = [block(contour) for contour in contours]
    whole = np.zeros(np.sum([part.shape for part in parts], 0))
    row = column = 0
    for part in parts:
        whole[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    return whole
