"""Kernel ridge regression by conjugate gradients, for more rows than a Cholesky factor allows."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from baselines.moments import best_of, gcv, left_out_accuracy
from baselines.weighted_ridge import KernelSolution
from tangent.solve import (
    NystromPreconditioner,
    UnconvergedWarning,
    conjugate_gradients,
    nystrom_preconditioner,
)

RANK = 1000  # of the preconditioner: a few products' worth of work, and a tenth of the iterations
N_PROBED = 50_000  # rows times vectors that a trace is estimated with, and not more than 100


class PackedKernel:
    """A symmetric matrix as the rows of its upper triangle, in blocks: half of the memory.

    Parameters
    ----------
    blocks : iterable of Tensor
        Rows from the diagonal on; the first has as many columns as there are rows in all, each
        further one as many fewer as the one before it has rows.
    """

    def __init__(self, blocks: Iterable[Float[Tensor, "rows columns"]]) -> None:
        self._blocks = list(blocks)
        for block in self._blocks:  # a corner is used whole, and symmetric to the last bit
            corner = block[:, : len(block)]
            corner.copy_(corner.triu() + corner.triu(1).T)

    def __len__(self) -> int:
        return self._blocks[0].shape[1]

    def __matmul__(self, v: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """The product, in one pass over the matrix."""
        out = torch.zeros_like(v)
        start = 0
        for block in self._blocks:
            stop = start + len(block)
            out[start:stop].addmm_(block, v[start:])
            out[stop:].addmm_(block[:, len(block) :].T, v[start:stop])
            start = stop
        return out


def iterative_kernel_ridge(
    kernel: PackedKernel,
    targets: Float[np.ndarray, "n k"],
    weight: Float[np.ndarray, " n"],
    alphas: tuple[float, ...],
    *,
    rank: int = RANK,
    tolerance: float = 3e-3,
    max_iterations: int = 1000,
    generator: torch.Generator | None = None,
) -> KernelSolution:
    """Solve (K + alpha / weight) a = targets for the best of several ridges, without factors.

    As `baselines.weighted_ridge.weighted_kernel_ridge`, but that ``kernel`` comes multiplied by the
    roots of the weights on both sides, and that the accuracy that chooses the ridge is not
    leave-one-out's: as in generalized cross-validation every leverage is taken at the mean, from a
    trace estimated with a few vectors of random signs.

    Parameters
    ----------
    kernel : PackedKernel
        float32, positive semidefinite.
    targets, weight, alphas
        As there.
    rank : int
        Of the preconditioner.
    tolerance : float
        Norm of a residual over that of its right-hand side at which a column is done.
    max_iterations : int
    generator : torch.Generator, optional
        Draws the vectors that the preconditioner and the trace are made from.

    Raises
    ------
    RuntimeError
        If a column is not done after ``max_iterations`` products.
    """
    n, k = targets.shape
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    root, total = np.sqrt(weight)[:, None], float(weight.sum())
    columns = torch.from_numpy(targets * root).float()
    if len(alphas) > 1:
        count = min(max(N_PROBED // n, 4), 100)
        signs = torch.randint(2, (n, count), generator=generator).float() * 2 - 1
        columns = torch.cat([columns, signs], dim=1)
    shifts = torch.tensor(alphas, dtype=torch.float64).repeat_interleave(columns.shape[1])
    right = columns.repeat(1, len(alphas))
    preconditioner = nystrom_preconditioner(
        kernel.__matmul__,
        n,
        rank=max(1, min(rank, n // 4)),
        ridge=shifts,
        dtype=torch.float32,
        generator=generator,
    )
    found = _solved(kernel, right, shifts, preconditioner, tolerance, max_iterations)
    duals, errors, accuracies = {}, {}, {}
    for alpha, solved in zip(alphas, found.split(columns.shape[1], dim=1), strict=True):
        dual = solved[:, :k].double().numpy()
        duals[alpha] = dual * root
        if len(alphas) == 1:
            break
        products = (columns[:, k:] * solved[:, k:]).sum(0, dtype=torch.float64)
        inverse = float(products.mean())  # trace of (K + alpha)^-1
        trace = n - alpha * inverse
        errors[alpha] = gcv(float(alpha**2 * (dual**2).sum()), trace, total)
        leverages = min(trace / total, 1 - 1e-12) * weight
        accuracies[alpha] = left_out_accuracy(targets, alpha * dual / root, leverages, weight)
    alpha = best_of(errors, accuracies) if len(alphas) > 1 else alphas[0]
    return KernelSolution(duals[alpha], alpha, errors, accuracies)


def _solved(
    kernel: PackedKernel,
    right: Float[Tensor, "n columns"],
    ridges: Float[Tensor, " columns"],
    preconditioner: NystromPreconditioner,
    tolerance: float,
    max_iterations: int,
) -> Float[Tensor, "n columns"]:
    """Each column solved with its own ridge, or an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnconvergedWarning)
        end = conjugate_gradients(
            kernel.__matmul__,
            right,
            ridge=ridges,
            preconditioner=preconditioner,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
    if not end.converged:
        raise RuntimeError(
            f"conjugate gradients did not come to tolerance={tolerance} in "
            f"max_iterations={max_iterations} products (a relative residual of "
            f"{end.residual:.2g}); take a larger alpha"
        )
    return end.coefficients
