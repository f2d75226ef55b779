"""Graphs of a HEALPix sky, their Laplacians, and the rescaled operator that filters are made of.

Published: k nearest pixels with Gaussian weights of tabulated width (`knn8` to `knn60`), and the
first version's eight neighbours (`healpix8`). Ours: stencils whose weights are moved as little as
possible until they act rightly on smooth functions (`ls8`, `ls20`).

Source: Defferrard, Milani, Gusset, Perraudin 2020, arXiv:2012.15000, sec. 3 and app. (widths as in
its code, MIT); Perraudin et al. 2018, arXiv:1810.12186, eq. 1, for healpix8. Differs: the largest
eigenvalue is found from a fixed start and repeats. No code followed.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, Integer
from scipy import sparse
from scipy.sparse.linalg import eigs, eigsh

from medseg.geometry.neighbours import neighbours, neighbours_of
from medseg.geometry.skystencil import least_squares, nearest, square_distances
from medseg.geometry.sphere import FACES, Sphere
from medseg.geometry.symmetry import each_symmetry

WIDTHS = {
    8: (0.025, 0.01228, 0.00614, 0.00307, 0.00154, 0.00077),
    20: (0.03185, 0.01564, 0.00782, 0.00391, 0.00196, 0.00098),
    40: (0.042432, 0.021354, 0.010595, 0.005551, 0.0027755, 0.00138775),
    60: (0.05172, 0.025403, 0.012695, 0.006351, 0.0031755, 0.00158775),
}
TABULATED = (32, 64, 128, 256, 512, 1024)
KINDS = {
    "knn8": 8, "knn20": 20, "knn40": 40, "knn60": 60, "healpix8": 8, "ls8": 8, "ls20": 20,
}  # fmt: skip
DEGREES = {"ls8": 1, "ls20": 4}
LAPLACIANS = ("combinatorial", "normalized", "stencil")
TOLERANCE = 1e-3
EXACT_NSIDE = 64
LANCZOS = 20

Table = tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]


@dataclass(frozen=True, eq=False)
class Graph:
    """Who is whose neighbour on a sky, and with what weight.

    Attributes:
        index: position of each neighbour among the sky's pixels; where one has fewer, its own.
        weight: 0 for such places; else float64, positive but for ls20.
        symmetric: whether both ends of an edge give it the same weight.
    """

    index: Int[np.ndarray, "n k"]
    weight: Float[np.ndarray, "n k"]
    symmetric: bool

    def adjacency(self) -> sparse.csr_matrix:
        """The weights W as a matrix, row i for the neighbours of pixel i."""
        rows, columns = np.nonzero(self.weight)
        values = self.weight[rows, columns]
        return _csr(rows, self.index[rows, columns], values, len(self.index))

    def laplacian(self, kind: str) -> sparse.csr_matrix:
        """D - W (`combinatorial`, and `stencil` where W is not symmetric), or I - D^-½ W D^-½.

        D holds the sums of W's rows. A pixel without neighbours has a row of zeros in each.

        Raises:
            ValueError: an unknown kind, or one that these weights do not have.
        """
        wanted = LAPLACIANS[:2] if self.symmetric else LAPLACIANS[2:]
        if kind not in wanted:
            raise ValueError(
                f"laplacian={kind} and a graph whose weights are "
                f"{'' if self.symmetric else 'not '}symmetric; take {' or '.join(wanted)}"
            )
        weights = self.adjacency()
        degree = np.asarray(weights.sum(1)).ravel()
        if kind != "normalized":
            return (sparse.diags(degree) - weights).tocsr()
        root = np.zeros_like(degree)
        np.power(degree, -0.5, where=degree > 0, out=root)
        scale = sparse.diags(root)
        return (sparse.diags((degree > 0).astype(float)) - scale @ weights @ scale).tocsr()


@dataclass(frozen=True, eq=False)
class Operator:
    """L~ = 2 L / lambda_max - I of a sky as one table: row i is the sum of weight · x[index].

    Attributes:
        index: positions among the sky's pixels, ascending, a pixel's own among them.
        weight: float32; 0 in the places at the end of a row that has fewer, whose index is its own.
        symmetric: whether L~ is its own transpose.
        lambda_max: the eigenvalue L was divided by; at most 0.1 % above the whole sky's largest.
        transposed: the table of L~'s transpose where that is another matrix, else None.
    """

    index: Int[np.ndarray, "n k"]
    weight: Float[np.ndarray, "n k"]
    symmetric: bool
    lambda_max: float
    transposed: tuple[Int[np.ndarray, "n t"], Float[np.ndarray, "n t"]] | None = None


def graph(sphere: Sphere, kind: str, *, degree: int | None = None) -> Graph:
    """The graph of a whole sky or a part of it, whose pixels are taken in NESTED order.

    `knn…`: k nearest centres, an edge where either end counts the other among them; of equally
    distant ones some are cut, so that mirrored skies differ a little. `healpix8`, `ls8`, `ls20`:
    sets closed under ties, on which all symmetries of the grid hold. The least squares take the 8
    or 20 nearest and all that are as near as the last: for ls8 one more at times, and twice as
    equivariant as on the eight neighbours of healpix8 (squared error 2.1e-3 against 4.8e-3 at
    l = 10, nside 32). On a part of the sky, neighbours out of it are dropped; where `knn` cuts
    ties, it may cut others than on the whole.

    Args:
        sphere: the pixels.
        kind: one of `KINDS`.
        degree: up to which l a stencil is fitted: 1 for ls8; 4, or 2, for ls20.

    Raises:
        ValueError: an unknown kind, a degree for a graph that is not fitted, or a grid of too few
            pixels.
    """
    return _graph(*_key(sphere), kind, _degree(kind, degree, sphere.nside))


def operator(
    sphere: Sphere, kind: str, *, laplacian: str | None = None, degree: int | None = None
) -> Operator:
    """The rescaled Laplacian of `graph`, kept for the next call.

    Without a word the Laplacian is what each graph was published with: `combinatorial` for knn,
    `normalized` for healpix8, `stencil` for ls8 and ls20.

    Raises:
        ValueError: as `graph` and its Laplacian.
    """
    degree = _degree(kind, degree, sphere.nside)
    chosen = laplacian or _usual(kind)
    return _operator(*_key(sphere), kind, chosen, degree)


def largest_eigenvalue(
    matrix: sparse.csr_matrix, *, symmetric: bool = True, tolerance: float = TOLERANCE
) -> float:
    """The largest magnitude of a Laplacian's eigenvalues, from a fixed start vector."""
    n = matrix.shape[0]
    if n <= LANCZOS + 2:
        return float(np.abs(np.linalg.eigvals(matrix.toarray())).max())
    start = np.random.default_rng(n).standard_normal(n)
    find = eigsh if symmetric else eigs
    found = find(
        matrix, k=1, which="LM", v0=start, tol=tolerance, ncv=LANCZOS, maxiter=100 * n,
        return_eigenvectors=False,
    )  # fmt: skip
    return float(np.abs(found[0]))


def table(matrix: sparse.csr_matrix) -> Table:
    """The rows of a square sparse matrix as a padded table of positions and float32 weights."""
    matrix = matrix.tocsr()
    matrix.sort_indices()
    n = matrix.shape[0]
    counts = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(n), counts)
    columns = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], counts)
    index = np.repeat(np.arange(n)[:, None], max(int(counts.max()), 1), axis=1)
    weight = np.zeros(index.shape, np.float32)
    index[rows, columns], weight[rows, columns] = matrix.indices, matrix.data
    return _frozen(index), _frozen(weight)


def _key(sphere: Sphere) -> tuple[int, bytes | None]:
    own = sphere.nested()
    return own.nside, None if own.pixels is None else own.pixels.astype(np.int64).tobytes()


def _degree(kind: str, degree: int | None, nside: int) -> int:
    if kind not in KINDS:
        raise ValueError(f"no graph of the sphere is named {kind}; there are {', '.join(KINDS)}")
    if degree is not None and (kind not in DEGREES or not 1 <= degree <= DEGREES[kind]):
        wanted = "it is fitted to nothing" if kind not in DEGREES else f"take 1..{DEGREES[kind]}"
        raise ValueError(f"degree={degree} for the graph {kind}: {wanted}")
    if KINDS[kind] >= FACES * nside**2:
        raise ValueError(
            f"nside {nside} has {FACES * nside**2} pixels, too few for the graph {kind}; "
            "take one of fewer neighbours, or pool less often"
        )
    return degree or DEGREES.get(kind, 0)


def _usual(kind: str) -> str:
    return "stencil" if kind in DEGREES else "normalized" if kind == "healpix8" else "combinatorial"


@lru_cache(maxsize=32)
def _operator(nside: int, pixels: bytes | None, kind: str, laplacian: str, degree: int) -> Operator:
    own = _graph(nside, pixels, kind, degree)
    matrix = own.laplacian(laplacian)
    highest = largest_eigenvalue(matrix, symmetric=own.symmetric) * (1 + TOLERANCE)
    if pixels is not None:
        highest = max(highest, _of_whole(nside, kind, laplacian, degree))
    eye = sparse.identity(matrix.shape[0], format="csr")
    scaled = (matrix * (2 / highest if highest else 0.0) - eye).tocsr()
    other = None if own.symmetric else table(scaled.T.tocsr())
    return Operator(*table(scaled), own.symmetric, highest, other)


def _of_whole(nside: int, kind: str, laplacian: str, degree: int) -> float:
    """The whole sky's lambda_max, so that a part is filtered as it is within the whole.

    From EXACT_NSIDE on by its law: that of a stencil grows as nside², the others stay.
    """
    least = min(nside, EXACT_NSIDE)
    grown = (nside / least) ** 2 if laplacian == "stencil" else 1.0
    return grown * _operator(least, None, kind, laplacian, degree).lambda_max


@lru_cache(maxsize=8)
def _graph(nside: int, pixels: bytes | None, kind: str, degree: int) -> Graph:
    numbers = None if pixels is None else np.frombuffer(pixels, np.int64)
    if kind == "healpix8":
        return _symmetrised(*_heuristic(nside, numbers), numbers)
    near = KINDS[kind]
    width = kernel_width(nside, near)
    if not degree:
        index, square = nearest(nside, numbers, near=near, ties=False)
        return _symmetrised(index, np.exp(-np.log(2) * square / width**2), numbers)
    if numbers is not None:
        index, weight = least_squares(nside, numbers, near=near, width=width, degree=degree)
        return _placed(index, weight, numbers)
    index, weight = _from_orbits(nside, near, width, degree)
    return Graph(_frozen(index), _frozen(weight), symmetric=False)


def kernel_width(nside: int, near: int) -> float:
    """The distance, on the unit sphere, at which the published weight of k neighbours is a half.

    Between the published nsides 32 and 1024 it is tabulated, beyond them it goes as 1 / nside.
    """
    known = min(max(nside, TABULATED[0]), TABULATED[-1])
    return WIDTHS[near][TABULATED.index(known)] * known / nside


def _heuristic(nside: int, numbers: Integer[np.ndarray, " n"] | None) -> Table:
    """The eight neighbours, with Gaussian weights whose variance is the mean square distance."""
    if numbers is None:
        index, own = neighbours(nside), np.arange(FACES * nside**2)
    else:
        index, own = neighbours_of(numbers, nside), numbers
    square = square_distances(index, own, nside=nside)
    return index, np.where(index >= 0, np.exp(-square / (2 * _mean_square(nside))), 0)


@lru_cache(maxsize=16)
def _mean_square(nside: int) -> float:
    """The mean of the squared distance to the eight neighbours, over the whole sky."""
    sums, counts = 0.0, 0
    for face, many in ((0, 8), (4, 4)):  # a polar and an equatorial face stand for all
        own = np.arange(face * nside**2, (face + 1) * nside**2)
        index = neighbours_of(own, nside)
        sums += many * float(square_distances(index, own, nside=nside)[index >= 0].sum())
        counts += many * int((index >= 0).sum())
    return sums / counts


def _from_orbits(nside: int, near: int, width: float, degree: int) -> Table:
    """Stencils of the whole sky: fitted on one pixel of each orbit, and carried to the others."""
    lowest = np.arange(FACES * nside**2)
    for moved in each_symmetry(nside):
        np.minimum(lowest, moved, out=lowest)
    first = np.flatnonzero(lowest == np.arange(len(lowest)))
    index, weight = least_squares(nside, first, near=near, width=width, degree=degree)
    whole = np.empty((len(lowest), index.shape[1]), np.int64)
    weights = np.empty(whole.shape)
    for moved in each_symmetry(nside):
        rows = moved[first]
        whole[rows] = np.where(index < 0, rows[:, None], moved[index])
        weights[rows] = weight
    return whole, weights


def _placed(
    index: Int[np.ndarray, "n k"],
    weight: Float[np.ndarray, "n k"],
    numbers: Integer[np.ndarray, " n"],
) -> Graph:
    """Neighbours by position among the pixels there are; those that are not there, dropped."""
    place = np.searchsorted(numbers, index).clip(max=len(numbers) - 1)
    there = (index >= 0) & (numbers[place] == index)
    own = np.arange(len(numbers))[:, None]
    return Graph(_frozen(np.where(there, place, own)), _frozen(np.where(there, weight, 0)), False)


def _symmetrised(
    index: Int[np.ndarray, "n k"],
    weight: Float[np.ndarray, "n k"],
    numbers: Integer[np.ndarray, " n"] | None,
) -> Graph:
    """Edges both ways, where either end has one."""
    numbers = np.arange(len(index)) if numbers is None else numbers
    one = _placed(index, weight, numbers).adjacency()
    both = one.maximum(one.T).tocsr()
    both.sort_indices()
    positions, _ = table(both)
    values = np.zeros(positions.shape)
    counts = np.diff(both.indptr)
    values[np.arange(positions.shape[1]) < counts[:, None]] = both.data
    return Graph(positions, _frozen(values), True)


def _csr(
    rows: Int[np.ndarray, " e"],
    columns: Int[np.ndarray, " e"],
    values: Float[np.ndarray, " e"],
    size: int,
) -> sparse.csr_matrix:
    return sparse.csr_matrix((values, (rows, columns)), shape=(size, size))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
