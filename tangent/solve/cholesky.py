"""Cholesky factors in place, block by block.

LAPACK's own blocks call for no more than this, but the OpenBLAS that SciPy 1.17 brings ends in a
segmentation fault on two threads where a matrix has some 18,000 rows; and a product of torch's
reaches the full rate of all cores.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tangent.machine.bars import counted

BLOCK = 1024


def factor_in_place(lower: Float64[np.ndarray, "n n"], *, block: int = BLOCK) -> None:
    """Write the Cholesky factor over the lower triangle, as `factor_upper` over the upper one.

    ``lower`` is in Fortran order; what lies above its triangle is left undefined.
    """
    factor_upper(torch.from_numpy(lower.T), block=block)  # in C order: rows of the upper factor


def factor_upper(upper: Float[Tensor, "n n"], *, block: int = BLOCK) -> None:
    """Write U with U^T U = A over the upper triangle of A, the only part that is read.

    Parameters
    ----------
    upper : Tensor of shape (n, n)
        float32 or float64. What lies below the triangle is left undefined.
    block : int
        Rows eliminated at once.

    Raises
    ------
    numpy.linalg.LinAlgError
        If a leading minor is not positive; the matrix is then partly overwritten.
    """
    n = len(upper)
    for start in counted(range(0, n, block), "rows of the factor"):
        stop = min(start + block, n)
        corner, info = torch.linalg.cholesky_ex(upper[start:stop, start:stop], upper=True)
        if info > 0:
            raise np.linalg.LinAlgError(
                f"the matrix is not positive definite (leading minor {start + int(info)}); "
                "take a larger alpha"
            )
        upper[start:stop, start:stop] = corner
        if stop == n:
            break
        rest = upper[start:stop, stop:]
        rest.copy_(torch.linalg.solve_triangular(corner.T, rest, upper=False))
        for top in range(stop, n, block):
            rows = rest[:, top - stop : top - stop + block]
            upper[top : top + block, top:].addmm_(rows.T, rest[:, top - stop :], alpha=-1)


def solve_transposed(
    upper: Float[Tensor, "n n"], right: Float[Tensor, "n k"], *, block: int = BLOCK
) -> Float[Tensor, "n k"]:
    """Solve U^T x = right, which is overwritten; a block of U at a time."""
    for start in range(0, len(upper), block):
        stop = min(start + block, len(upper))
        corner = upper[start:stop, start:stop]
        right[start:stop] = torch.linalg.solve_triangular(corner.T, right[start:stop], upper=False)
        right[stop:] -= upper[start:stop, stop:].T @ right[start:stop]
    return right


def solve_upper(
    upper: Float[Tensor, "n n"], right: Float[Tensor, "n k"], *, block: int = BLOCK
) -> Float[Tensor, "n k"]:
    """Solve U x = right, which is overwritten; a block of U at a time."""
    for start in reversed(range(0, len(upper), block)):
        stop = min(start + block, len(upper))
        corner = upper[start:stop, start:stop]
        rest = right[start:stop] - upper[start:stop, stop:] @ right[stop:]
        right[start:stop] = torch.linalg.solve_triangular(corner, rest, upper=True)
    return right


def inverse_diagonal(
    factor: Float64[np.ndarray, "n n"], *, block: int = BLOCK
) -> Float64[np.ndarray, " n"]:
    """The diagonal of A^-1 from A's lower Cholesky factor, whose upper triangle is not read.

    The sum of squares of each column of the factor's inverse; n^3 / 6 multiply-adds and two
    arrays of n x ``block``.
    """
    lower = torch.from_numpy(factor.T).T
    n = len(lower)
    starts = list(range(0, n, block))
    corners = [lower[s : s + block, s : s + block].tril() for s in starts]
    diagonal = lower.new_empty(n)
    for i, first in enumerate(starts):
        eye = torch.eye(len(corners[i]), dtype=torch.float64)
        columns = lower.new_empty(n - first, len(eye))
        columns[: len(eye)] = torch.linalg.solve_triangular(corners[i], eye, upper=False)
        for row, corner in zip(starts[i + 1 :], corners[i + 1 :], strict=True):
            above = columns[: row - first]
            right = lower[row : row + block, first:row] @ above
            solved = torch.linalg.solve_triangular(corner, right, upper=False)
            columns[row - first : row - first + len(corner)] = -solved
        diagonal[first : first + len(eye)] = columns.square_().sum(0)
    return diagonal.numpy()


def squared_norms(
    factor: Float64[np.ndarray, "n n"], right: Float[Tensor, "n m"], *, block: int = BLOCK
) -> Float64[np.ndarray, " m"]:
    """``b^T A^-1 b`` of every column b, from A's lower Cholesky factor; ``right`` is used up.

    The upper triangle of the factor is not read; n^2 / 2 multiply-adds a column.
    """
    half = solve_transposed(torch.from_numpy(factor.T), right.double(), block=block)
    return half.square_().sum(0).numpy()
