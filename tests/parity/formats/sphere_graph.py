"""Published kNN graphs of a HEALPix sky: weights, both Laplacians, largest eigenvalues, L~.

`W_*`, `L_combinatorial_*`, `L_normalized_*` are CSR arrays, `Lscaled_*` coordinates and values;
`kernel_width`, `nside` and `k` say which graph it is. L~ was scaled by `lmax_used_*`, an estimate
from a random start, so ours is scaled by the same number. Tolerances: 1e-12 for weights, 1e-9 of
the eigenvalue, 1e-6 for L~, which is kept in float32.
"""

import zipfile

import numpy as np
from row import Row
from scipy import sparse

from medseg.geometry.skygraph import graph, kernel_width, largest_eigenvalue
from medseg.geometry.sphere import Sphere

WEIGHT, EIGENVALUE, SINGLE = 1e-12, 1e-9, 1e-6
NEEDED = {"W_indptr", "W_indices", "W_data", "kernel_width", "nside", "k"}


def recognise(path):
    if path.suffix != ".npz":
        return False
    try:
        with np.load(path) as file:
            return set(file.files) >= NEEDED
    except (ValueError, OSError, EOFError, zipfile.BadZipFile):
        return False


def compare(path):
    with np.load(path) as file:
        theirs = {name: file[name] for name in file.files}
    nside, k = int(theirs["nside"]), int(theirs["k"])
    ours = graph(Sphere(nside), f"knn{k}")
    off = abs(kernel_width(nside, k) - float(theirs["kernel_width"]))
    rows = [Row("kernel_width", off, WEIGHT), row("W", ours.adjacency(), csr(theirs, "W"), WEIGHT)]
    for kind in ("combinatorial", "normalized"):
        laplacian = ours.laplacian(kind)
        rows.append(row(f"L_{kind}", laplacian, csr(theirs, f"L_{kind}"), WEIGHT * 10))
        exact = float(theirs[f"lmax_exact_{kind}"])
        found = largest_eigenvalue(laplacian, tolerance=1e-12)
        rows.append(Row(f"lmax_exact_{kind}", abs(found - exact), EIGENVALUE * exact))
        used = float(theirs[f"lmax_used_{kind}"])
        scaled = laplacian * (2 / used) - sparse.identity(laplacian.shape[0])
        rowcol, data = theirs[f"Lscaled_{kind}_rowcol"], theirs[f"Lscaled_{kind}_data"]
        known = sparse.csr_matrix((data.astype(float), tuple(rowcol)), shape=laplacian.shape)
        rows.append(row(f"Lscaled_{kind}", scaled, known, SINGLE))
    return rows


def csr(arrays, name):
    """One of a file's matrices."""
    parts = (arrays[f"{name}_data"], arrays[f"{name}_indices"], arrays[f"{name}_indptr"])
    return sparse.csr_matrix(parts)


def row(name, ours, theirs, tolerance):
    """The largest difference of two sparse matrices; a missing edge is one of its whole weight."""
    if ours.shape != theirs.shape:
        return Row(name, float("inf"), tolerance, f"{ours.shape} {theirs.shape}")
    return Row(name, float(abs(ours - theirs).max()), tolerance)
