"""A randomized Nystrom preconditioner for conjugate gradients on a kernel.

A few products with the kernel give its leading eigenvectors; on them the preconditioner inverts
``kernel + ridge``, elsewhere it does nothing. The condition number falls to about
``1 + lambda_(rank + 1) / ridge`` (Frangella, Tropp & Udell 2023, "Randomized Nystrom
preconditioning").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NystromPreconditioner:
    """``P = U (Lambda + ridge) U^T / (last + ridge) + I - U U^T`` and its powers.

    Attributes
    ----------
    eigenvalues : Tensor of shape (rank,)
        Approximate leading eigenvalues of the kernel, largest first.
    eigenvectors : Tensor of shape (m, rank)
    ridge : float, or Tensor of shape (r,)
        Of the system, or of each of its columns.
    """

    eigenvalues: Float[Tensor, " rank"]
    eigenvectors: Float[Tensor, "m rank"]
    ridge: float | Float[Tensor, " r"]

    def power(self, v: Float[Tensor, "m r"], exponent: float) -> Float[Tensor, "m r"]:
        """Return ``P**exponent v``, in the dtype of ``v``; the exponents needed: -1, 1/2, -1/2."""
        values = self.eigenvalues[:, None]
        level = (values + self.ridge) / (values[-1] + self.ridge)
        inside = self.eigenvectors.T @ v.to(self.eigenvectors.dtype)
        moved = self.eigenvectors @ ((level**exponent - 1).to(inside) * inside)
        return v + moved.to(v.dtype)

    def of_columns(self, columns: Int[Tensor, " some"]) -> NystromPreconditioner:
        """The preconditioner of some of the columns."""
        if isinstance(self.ridge, Tensor):
            return replace(self, ridge=self.ridge[columns])
        return self


def nystrom_preconditioner(
    product: Product,
    size: int,
    *,
    rank: int,
    ridge: float | Float[Tensor, " r"],
    batch: int | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
    generator: torch.Generator | None = None,
) -> NystromPreconditioner:
    """Nystrom approximation of a positive semidefinite operator, as a preconditioner.

    Parameters
    ----------
    product : callable
        Takes and returns a tensor of shape (size, r).
    size : int
        Rows of the kernel.
    rank : int
        Products with the kernel to spend, at most ``size``; the more of the spectrum above
        ``ridge`` it covers, the fewer iterations remain.
    ridge : float, or Tensor of shape (r,)
        Of the system to be solved, or of each of its columns.
    batch : int, optional
        Columns handed to ``product`` at once; all by default.
    dtype, device, generator
        Of the random test matrix, drawn on the CPU.

    Returns
    -------
    NystromPreconditioner
        Holds size * rank numbers.

    Notes
    -----
    ``rank`` kernel products and 3 * size * rank^2 multiply-adds. The shift that keeps the small
    factorization stable is that of Tropp et al. (2017), Algorithm 3.
    """
    if not 1 <= rank <= size:
        raise ValueError(f"rank must be between 1 and the {size} rows of the kernel; got {rank}")
    test = torch.randn(size, rank, generator=generator, dtype=dtype).to(device)
    test = torch.linalg.qr(test)[0]
    sketch = torch.cat([product(part) for part in test.split(batch or rank, dim=1)], dim=1)
    norm = float(torch.linalg.norm(sketch))
    shift = max(math.sqrt(size) * torch.finfo(dtype).eps * norm, torch.finfo(dtype).tiny)
    while shift < max(1e-3 * norm, 1e-30):
        shifted = sketch + shift * test
        core = test.T @ shifted
        factor, info = torch.linalg.cholesky_ex((core + core.T) / 2)
        if not info:
            break
        shift *= 10  # the product is less exact than its dtype: a float32 network, say
    else:
        raise ValueError(
            "product must be positive semidefinite; its sketch has a negative eigenvalue larger "
            "than rounding explains; check that the operator is J J^T of one set of inputs"
        )
    tall = torch.linalg.solve_triangular(factor, shifted.T, upper=False).T
    vectors, singular, _ = torch.linalg.svd(tall, full_matrices=False)
    return NystromPreconditioner((singular**2 - shift).clamp(min=0), vectors, ridge)
