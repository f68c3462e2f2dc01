"""Kernel ridge regression by conjugate gradients, for more rows than a Cholesky factor allows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from baselines.kernel_ridge import KernelSolution
from baselines.moments import best_of, gcv, left_out_accuracy

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


def low_rank(
    kernel: PackedKernel, rank: int, generator: torch.Generator
) -> tuple[Float[Tensor, "n rank"], Float[Tensor, " rank"]]:
    """Orthonormal vectors and values of the randomized Nystrom approximation of the kernel.

    Frangella, Tropp and Udell (2023), Algorithm 2.1; one product with ``rank`` vectors.
    """
    n = len(kernel)
    sample = torch.linalg.qr(torch.randn(n, rank, generator=generator)).Q
    image = kernel @ sample
    shift = float(torch.linalg.vector_norm(image)) * 1e-6  # rounding of float32 products
    image = image.add_(sample, alpha=shift)
    core = (sample.T @ image).double()
    root = torch.linalg.cholesky((core + core.T) / 2)
    tall = torch.linalg.solve_triangular(root, image.T.double(), upper=False)  # (rank, n)
    squares, turn = torch.linalg.eigh(tall @ tall.T)
    values = (squares - shift).clamp_min(0)
    vectors = (tall.T @ (turn / torch.where(squares > 0, squares, torch.inf).sqrt())).float()
    return vectors, values


def conjugate_gradients(
    kernel: PackedKernel,
    right: Float[Tensor, "n k"],
    shifts: Float[Tensor, " k"],
    *,
    tolerance: float = 3e-3,
    max_iter: int = 1000,
    rank: int = RANK,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n k"]:
    """Solve (K + shift) x = right for every column of ``right`` with its own shift.

    Each column is a conjugate gradient of its own, preconditioned by a low-rank approximation of
    the kernel; all take their products together, and those that are done are left out.

    Parameters
    ----------
    kernel : PackedKernel
        float32, positive semidefinite.
    right : Tensor of shape (n, k)
    shifts : Tensor of shape (k,)
        Above zero.
    tolerance : float
        Norm of a residual over that of its right-hand side at which a column is done.
    max_iter : int
    rank : int
        Of the preconditioner.
    generator : torch.Generator, optional
        Draws the vectors that the preconditioner is made from.

    Raises
    ------
    RuntimeError
        If a column is not done after ``max_iter`` products.
    """
    n = len(kernel)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    vectors, values = low_rank(kernel, max(1, min(rank, n // 4)), generator)

    def preconditioned(r: Tensor, shift: Tensor) -> Tensor:
        # (least value + shift) U (values + shift)^-1 U^T + (1 - U U^T)
        factors = (values.min() + shift) / (values[:, None] + shift) - 1
        return r + vectors @ (factors.float() * (vectors.T @ r))

    x = torch.zeros_like(right)
    active = torch.arange(right.shape[1])
    goal = tolerance * torch.linalg.vector_norm(right.double(), dim=0)
    r, shift = right.clone(), shifts.double()
    z = preconditioned(r, shift)
    p, rz = z.clone(), _dots(r, z)
    for _ in range(max_iter):
        unfinished = torch.linalg.vector_norm(r.double(), dim=0) > goal[active]
        if not bool(unfinished.all()):
            active, r, p, rz = (
                active[unfinished],
                r[:, unfinished],
                p[:, unfinished],
                rz[unfinished],
            )
            if len(active) == 0:
                return x
        here = shift[active]
        product = (kernel @ p).addcmul_(p, here.float())
        step = rz / _dots(p, product)
        x[:, active] += p * step.float()
        r = r - product * step.float()
        z = preconditioned(r, here)
        rz, before = _dots(r, z), rz
        p = z + p * (rz / before).float()
    raise RuntimeError(
        f"conjugate gradients did not come to tolerance={tolerance} in max_iter={max_iter} "
        f"products for {len(active)} right-hand sides; take a larger alpha"
    )


def iterative_kernel_ridge(
    kernel: PackedKernel,
    targets: Float[np.ndarray, "n k"],
    weight: Float[np.ndarray, " n"],
    alphas: tuple[float, ...],
    *,
    rank: int = RANK,
    generator: torch.Generator | None = None,
) -> KernelSolution:
    """Solve (K + alpha / weight) a = targets for the best of several ridges, without factors.

    As `baselines.kernel_ridge.kernel_ridge`, but that ``kernel`` comes multiplied by the roots of
    the weights on both sides, and that the accuracy that chooses the ridge is not leave-one-out's:
    as in generalized cross-validation every leverage is taken at the mean, from a trace estimated
    with a few vectors of random signs.
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
    found = conjugate_gradients(kernel, right, shifts, rank=rank, generator=generator)
    duals, errors, accuracies = {}, {}, {}
    for alpha, solved in zip(alphas, found.split(columns.shape[1], dim=1), strict=True):
        dual = solved[:, :k].double().numpy()
        duals[alpha] = dual * root
        if len(alphas) == 1:
            break
        inverse = float(_dots(columns[:, k:], solved[:, k:]).mean())  # trace of (K + alpha)^-1
        trace = n - alpha * inverse
        errors[alpha] = gcv(float(alpha**2 * (dual**2).sum()), trace, total)
        leverages = min(trace / total, 1 - 1e-12) * weight
        accuracies[alpha] = left_out_accuracy(targets, alpha * dual / root, leverages, weight)
    alpha = best_of(errors, accuracies) if len(alphas) > 1 else alphas[0]
    return KernelSolution(duals[alpha], alpha, errors, accuracies)


def _dots(a: Tensor, b: Tensor) -> Float[Tensor, " k"]:
    """Inner products of columns, summed in float64."""
    return (a * b).sum(0, dtype=torch.float64)
