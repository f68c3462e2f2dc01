"""Kernel ridge regression by one Cholesky factorization."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tangent.solve.system import System, check_memory, check_ridge, system


class IllConditionedWarning(UserWarning):
    """The solution rests on digits of the kernel that rounding has already spoiled."""


@dataclass(frozen=True)
class RidgeSolution:
    """Coefficients of a kernel ridge regression, and how far they can be trusted.

    Attributes
    ----------
    coefficients : Tensor of shape (n,) or (n, k), as the targets
        float64. Predictions are the cross kernel times the coefficients.
    train_predictions : Tensor, as the targets
    leave_one_out : Tensor, as the targets
        What the fit without an input predicts there (all its outputs left out at once).
    ridge : float
        As asked for.
    jitter : float
        What was added to ``ridge`` to make the factorization possible; 0 unless warned of.
    condition_number : float
        Of kernel + ridge, estimated to some 10% from below.
    """

    coefficients: Tensor
    train_predictions: Tensor
    leave_one_out: Tensor
    ridge: float
    jitter: float
    condition_number: float
    _system: System

    def predict(self, cross_kernel: Tensor) -> Tensor:
        """Return predictions at new inputs from their kernel with the fitted ones.

        ``cross_kernel`` has shape (n_new, n), or (n_new, k, n, k) for a full kernel.
        """
        new = self._system.cross(cross_kernel)
        columns = self._system.columns(self.coefficients, "coefficients")
        return (new @ columns).reshape(len(cross_kernel), *self.coefficients.shape[1:])


def kernel_ridge(kernel: Tensor, y: Tensor, ridge: float) -> RidgeSolution:
    """Solution of ``(kernel + ridge * I) coefficients = y`` in float64.

    Take it for one ridge value; `tangent.solve.spectrum` serves many ridge values and training
    times at some twenty times the cost of one.

    Parameters
    ----------
    kernel : Tensor of shape (n, n), shared across outputs, or (n, k, n, k)
        Of any floating dtype; converted.
    y : Tensor of shape (n,) or (n, k)
    ridge : float
        At least 0, in the units of the kernel.

    Returns
    -------
    RidgeSolution

    Raises
    ------
    ValueError
        For NaN, shapes that do not fit, a negative ridge, or a kernel singular at ridge 0.
    MemoryError
        Before any work, if the factorization would not fit.

    Warns
    -----
    IllConditionedWarning
        If jitter was needed, or the smallest eigenvalue lies below the kernel's rounding.

    Notes
    -----
    m = n, or n * k for a full kernel: m^3 multiply-adds and three m x m float64 matrices, the
    leave-one-out included.
    """
    ridge = check_ridge(ridge)
    check_memory(
        kernel.shape[0] * (kernel.shape[1] if kernel.ndim == 4 else 1),
        3,
        "Cholesky factorization",
        "take tangent.solve.conjugate_gradients, which never forms the kernel, or "
        "outputs='pseudo', whose kernel is k^2 times smaller than the full one",
    )
    s = system(kernel)
    columns = s.columns(y)
    factor, jitter = _factor(s, ridge)
    coefficients = torch.cholesky_solve(columns, factor)
    condition = _condition_number(s.matrix, factor, ridge + jitter)
    warn_if_rounding_rules(condition, s.rounding, ridge + jitter)
    inverse = torch.cholesky_inverse(factor)
    if s.k is None:
        residual = coefficients / inverse.diagonal()[:, None]
    else:
        blocks = torch.stack(
            [inverse[i * s.k : (i + 1) * s.k, i * s.k : (i + 1) * s.k] for i in range(s.n)]
        )
        residual = torch.linalg.solve(blocks, coefficients.reshape(s.n, s.k, 1)).reshape(-1, 1)
    fitted = columns - (ridge + jitter) * coefficients
    y = torch.as_tensor(y)
    return RidgeSolution(
        s.unfold(coefficients, y),
        s.unfold(fitted, y),
        s.unfold(columns - residual, y),
        ridge,
        jitter,
        condition,
        s,
    )


def _factor(s: System, ridge: float) -> tuple[Float[Tensor, "m m"], float]:
    """Cholesky factor of matrix + ridge + jitter, and the jitter it took."""
    mean = float(s.matrix.diagonal().mean())
    jitter, step = 0.0, max(s.rounding, 2.0**-52) * abs(mean)
    for _ in range(8):
        shifted = s.matrix.clone()
        shifted.diagonal().add_(ridge + jitter)
        factor, info = torch.linalg.cholesky_ex(shifted)
        if not info:
            break
        if ridge == 0:
            raise ValueError(_singular(s))
        jitter = step if jitter == 0 else 10 * jitter
    else:
        raise ValueError(
            f"kernel must be positive semidefinite; at ridge={ridge:.3g} it has an eigenvalue "
            f"below {-(ridge + jitter / 10):.3g}, more than rounding explains; check that it is "
            "the kernel of inputs with themselves"
        )
    if jitter:
        warnings.warn(
            f"kernel + ridge is not positive definite in its {s.rounding:.1g} rounding: added "
            f"jitter={jitter:.3g} to ridge={ridge:.3g}; compute the kernel in float64 or take "
            f"ridge >= {ridge + jitter:.3g}",
            IllConditionedWarning,
            stacklevel=3,
        )
    return factor, jitter


def _singular(s: System) -> str:
    """The message for a singular kernel at ridge 0, with the duplicate rows if there are any."""
    pair = _duplicate_rows(s)
    found = "" if pair is None else f" (inputs {pair[0]} and {pair[1]} have the same kernel row)"
    mean = float(s.matrix.diagonal().mean())
    return (
        f"kernel must be positive definite when ridge=0, and it is singular{found}; take "
        f"ridge > 0, say {1e-8 * mean:.2g}, drop duplicate inputs, or take "
        "tangent.solve.spectrum(kernel).ridge(y, 0), the solution of least norm"
    )


def _duplicate_rows(s: System) -> tuple[int, int] | None:
    rows = s.matrix[:: s.k or 1]
    order = torch.argsort(rows[:, 0])
    scale = float(rows.abs().max())
    for a, b in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
        if torch.allclose(rows[a], rows[b], rtol=0, atol=8 * s.rounding * scale):
            return min(a, b), max(a, b)
    return None


def _condition_number(matrix: Tensor, factor: Tensor, ridge: float, steps: int = 20) -> float:
    """Power iteration on the matrix and, through its factor, on its inverse."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(len(matrix), 1, generator=generator, dtype=torch.float64)
    largest = smallest = start.to(matrix)
    for _ in range(steps):
        largest = largest / largest.norm()
        smallest = smallest / smallest.norm()
        largest = matrix @ largest + ridge * largest
        smallest = torch.cholesky_solve(smallest, factor)
    return float(largest.norm() * smallest.norm())


def warn_if_rounding_rules(condition: float, rounding: float, ridge: float) -> None:
    """Warn if the condition number exceeds what the kernel's dtype can resolve."""
    if condition * rounding > 1:
        warnings.warn(
            f"condition number {condition:.2g} of kernel + ridge={ridge:.3g} exceeds "
            f"{1 / rounding:.2g}, the resolution of the kernel's dtype: the solution follows "
            "rounding errors; take a larger ridge, stop earlier, centre the kernel, or compute "
            "it in float64",
            IllConditionedWarning,
            stacklevel=3,
        )
