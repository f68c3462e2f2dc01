"""Lanczos iterations for the head of a kernel's spectrum, with a bound on each value's error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Spectrum", "lanczos", "whole_spectrum"]


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues at the head of a symmetric positive semidefinite operator, largest first.

    Attributes
    ----------
    values : Tensor of shape (count,)
        float64.
    errors : Tensor of shape (count,)
        An eigenvalue lies within this distance of each value: the residual of its vector; zeros
        where all eigenvalues were computed.
    trace : float
        Sum of all eigenvalues, exact or estimated.
    trace_error : float
        Standard error of ``trace``.
    exact : bool
        Whether all eigenvalues are there, to rounding.
    """

    values: Float[Tensor, " count"]
    errors: Float[Tensor, " count"]
    trace: float
    trace_error: float
    exact: bool

    @property
    def effective_rank(self) -> float:
        """Trace over the largest eigenvalue."""
        return self.trace / float(self.values[0])


def whole_spectrum(kernel: Float[Tensor, "q q"]) -> Spectrum:
    """All eigenvalues of a kernel that fits in memory."""
    values = torch.linalg.eigvalsh(kernel.double()).flip(0).clamp(min=0)
    return Spectrum(values, torch.zeros_like(values), float(values.sum()), 0.0, True)


def lanczos(
    product: Callable[[Tensor], Tensor],
    size: int,
    steps: int,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
) -> tuple[Float[Tensor, " s"], Float[Tensor, " s"]]:
    """Ritz values of ``steps`` Lanczos steps, largest first, and the residuals of their vectors.

    Parameters
    ----------
    product : callable
        The operator on a float64 vector of shape (size,).
    size : int
    steps : int
        Products; fewer where the space is exhausted.
    generator : torch.Generator, optional
        A CPU generator, for the start.
    start : Tensor of shape (size,), optional
        A vector to start from instead of a random one.

    Notes
    -----
    With full reorthogonalization. For a symmetric operator there is an eigenvalue within the
    residual of every Ritz value (Parlett 1980, Theorem 4.5.1); the largest Ritz value is never
    above the largest eigenvalue.
    """
    if start is None:
        start = torch.randn(size, generator=generator, dtype=torch.float64)
    vector = start.double() / start.double().norm()
    basis, diagonal, beside = [vector], [], []
    for _ in range(min(steps, size)):
        image = product(basis[-1])
        diagonal.append(float(basis[-1] @ image))
        known = torch.stack(basis)
        for _ in range(2):  # once is not enough in floating point (Kahan: twice is)
            image = image - known.T @ (known @ image)
        norm = float(image.norm())
        beside.append(norm)
        if norm <= 1e-10 * max(map(abs, diagonal)):
            break
        basis.append(image / norm)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    links = torch.tensor(beside[:-1], dtype=torch.float64)
    matrix += torch.diag(links, 1) + torch.diag(links, -1)
    values, vectors = torch.linalg.eigh(matrix)
    residuals = beside[-1] * vectors[-1].abs()
    return values.flip(0), residuals.flip(0)
