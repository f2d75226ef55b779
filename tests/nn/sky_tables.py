"""Stencils of sparse matrices and dense matrices of stencils, to test operators with."""

import numpy as np
import torch

from medseg.nn.stencil import Stencil


def padded(matrix):
    """The rows of a sparse matrix as one table; what a row lacks is its own pixel, times 0."""
    csr = matrix.tocsr()
    counts = np.diff(csr.indptr)
    index = np.repeat(np.arange(csr.shape[0])[:, None], counts.max(), 1)
    weight = np.zeros(index.shape)
    there = np.arange(counts.max()) < counts[:, None]
    index[there], weight[there] = csr.indices, csr.data
    return index, weight


def stencil_of(matrix, dtype=torch.float32, *, symmetric=False):
    """A sparse matrix as an operator."""

    def made(csr, transposed=None):
        index, weight = padded(csr)
        return Stencil(torch.tensor(index), torch.tensor(weight, dtype=dtype), transposed)

    return made(matrix, None if symmetric else made(matrix.T.tocsr()))


def dense(operator):
    """The matrix of an operator."""
    n = len(operator.index)
    found = torch.zeros(n, n, dtype=operator.weight.dtype)
    found.scatter_add_(1, operator.index.long(), operator.weight)
    return found
