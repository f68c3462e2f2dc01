"""One eigendecomposition of a kernel, for every ridge value and every training time.

Each fit here is a filter of the eigenvalues: its coefficients are ``V g(lambda) V^T y`` and its
predictions on the training inputs ``V lambda g(lambda) V^T y``. Ridge regression is
``g = 1 / (lambda + ridge)``; the filters of gradient descent are in `tangent.solve.flow`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from tangent.solve.ridge import warn_if_rounding_rules
from tangent.solve.system import System, check_memory, check_ridge, system

Filter = Callable[[Float[Tensor, " m"]], Float[Tensor, " m"]]


@dataclass(frozen=True)
class FilterFit:
    """A fit by one filter of the eigenvalues; `RidgePath` holds those of several."""

    coefficients: Tensor
    train_predictions: Tensor
    leave_one_out: Tensor
    loo_error: Tensor
    gcv_error: Tensor
    effective_dimension: Tensor


@dataclass(frozen=True)
class RidgePath(FilterFit):
    """Kernel ridge regression at several ridge values.

    Attributes
    ----------
    ridges : Tensor of shape (r,)
    coefficients, train_predictions, leave_one_out : Tensor of shape (r, *y.shape)
        ``leave_one_out`` is what the fit without an input predicts there.
    loo_error, gcv_error : Tensor of shape (r,)
        Mean squared error of leaving one out, and its generalized cross validation
        (Golub, Heath & Wahba 1979), which replaces each input's leverage by their mean.
    effective_dimension : Tensor of shape (r,)
        Trace of the smoother: the number of parameters that the fit spends.
    """

    ridges: Tensor

    @property
    def best(self) -> int:
        """Index of the ridge value with the least leave-one-out error."""
        return int(self.loo_error.argmin())


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues, largest first, and eigenvectors of a kernel; made by `spectrum`."""

    eigenvalues: Float[Tensor, " m"]
    eigenvectors: Float[Tensor, "m m"]
    system: System

    @property
    def condition_number(self) -> float:
        """Largest over smallest eigenvalue, as far as the kernel's dtype can tell."""
        top = float(self.eigenvalues[0])
        floor = top * self.system.rounding
        return top / max(float(self.eigenvalues[-1]), floor) if top > 0 else float("inf")

    def project(self, y: Tensor) -> Float[Tensor, "m r"]:
        """Return the coordinates of targets in the eigenvectors."""
        return self.eigenvectors.T @ self.system.columns(y)

    def apply(self, filter_of: Filter, y: Tensor) -> Tensor:
        """Return the coefficients ``V filter_of(lambda) V^T y``, in the shape of ``y``."""
        y = torch.as_tensor(y)
        filtered = self.eigenvectors @ (filter_of(self.eigenvalues)[:, None] * self.project(y))
        return self.system.unfold(filtered, y)

    def ridge(
        self,
        y: Tensor,
        ridge: float | Sequence[float] | Tensor,
        *,
        eliminated: Float[Tensor, " n"] | None = None,
    ) -> RidgePath:
        """Kernel ridge regression at each value of ``ridge``.

        Parameters
        ----------
        y : Tensor of shape (n,) or (n, k)
        ridge : float or sequence of float
            At least 0. At 0 the solution of least norm: directions whose eigenvalue is below
            the kernel's rounding are left out (and leave-one-out is then NaN if no direction
            is left unexplained).
        eliminated : Tensor of shape (n,), optional
            A unit vector that the kernel maps to 0 and that is fitted without penalty:
            ``1 / sqrt(n)`` for a kernel centred by `tangent.solve.KernelCentring`, whose
            constant is then the mean of the targets. Leave-one-out takes it into account.

        Returns
        -------
        RidgePath

        Notes
        -----
        m^2 multiply-adds a ridge value for the predictions, m^2 more for leave-one-out with a
        shared kernel and m^2 k with a full one.
        """
        values = [check_ridge(r) for r in torch.as_tensor(ridge).reshape(-1).tolist()]
        if not values:
            raise ValueError("ridge must hold at least one value; got none")
        y = torch.as_tensor(y)
        least = min(values)
        if least:
            top, bottom = float(self.eigenvalues[0]), max(float(self.eigenvalues[-1]), 0.0)
            warn_if_rounding_rules((top + least) / (bottom + least), self.system.rounding, least)
        paths = []
        for value in values:
            gain, left = self._ridge_filter(value)
            # Leave-one-out does not change when the filter of the residual is scaled: at ridge 0
            # on a kernel of full rank its limit is the inverse itself.
            slack = gain if value == 0 and not left.any() else left
            paths.append(self.fit(y, gain, left, slack=slack, eliminated=eliminated))
        stacked = {
            field.name: torch.stack([getattr(path, field.name) for path in paths])
            for field in fields(FilterFit)
        }
        return RidgePath(**stacked, ridges=torch.tensor(values, dtype=torch.float64))

    def _ridge_filter(self, ridge: float) -> tuple[Tensor, Tensor]:
        lam = self.eigenvalues.clamp(min=0)
        if ridge:
            return 1 / (lam + ridge), ridge / (lam + ridge)
        kept = lam > self.system.rounding * lam[0]
        return torch.where(kept, 1 / lam, 0.0), torch.where(kept, 0.0, 1.0).to(lam)

    def fit(
        self,
        y: Tensor,
        gain: Float[Tensor, " m"],
        left: Float[Tensor, " m"],
        *,
        slack: Float[Tensor, " m"] | None = None,
        eliminated: Float[Tensor, " n"] | None = None,
    ) -> FilterFit:
        """Fit by any filter.

        Parameters
        ----------
        y : Tensor of shape (n,) or (n, k)
        gain, left : Tensor of shape (m,)
            Coefficients and residual that the fit leaves in each eigenvector:
            ``left = 1 - lambda * gain``.
        slack : Tensor of shape (m,), optional
            In place of ``left`` in leave-one-out, which is exact for ridge regression and a
            shortcut (each input's residual over one minus its leverage) for other filters.
        eliminated : Tensor of shape (n,), optional
            As in `ridge`.
        """
        s, v = self.system, self.eigenvectors
        slack = left if slack is None else slack
        columns = s.columns(y)
        constant = None
        kept = columns
        if eliminated is not None:
            constant = eliminated.to(v)
            if s.k is not None:
                constant = torch.kron(constant[:, None], torch.eye(s.k).to(v))
            else:
                constant = constant[:, None]
            kept = columns - constant @ (constant.T @ columns)
        projected = v.T @ kept
        coefficients = v @ (gain[:, None] * projected)
        residual = v @ (left[:, None] * projected)
        loo = v @ (slack[:, None] * projected)
        if s.k is None:
            leverage = v**2 @ slack
            if constant is not None:
                leverage = leverage - constant[:, 0] ** 2 * slack[-1]
            loo = loo / leverage[:, None]
        else:
            rows = v.reshape(s.n, s.k, -1)
            blocks = torch.einsum("iam,m,ibm->iab", rows, slack, rows)
            if eliminated is not None:
                eye = torch.eye(s.k).to(v)
                blocks = blocks - (eliminated.to(v) ** 2 * slack[-1])[:, None, None] * eye
            loo = torch.linalg.solve_ex(blocks, loo.reshape(s.n, s.k, 1))[0].reshape(-1, 1)
        spent = len(left) - left.sum()
        if constant is not None:
            spent = spent + constant.shape[1] * left[-1]
        gcv = (residual**2).mean() / (1 - spent / len(left)) ** 2
        return FilterFit(
            s.unfold(coefficients, y),
            s.unfold(columns - residual, y),
            s.unfold(columns - loo, y),
            (loo**2).mean(),
            gcv,
            spent,
        )


def spectrum(kernel: Tensor) -> Spectrum:
    """Eigendecomposition of a kernel, in float64.

    Parameters
    ----------
    kernel : Tensor of shape (n, n), shared across outputs, or (n, k, n, k)

    Returns
    -------
    Spectrum

    Raises
    ------
    ValueError
        For NaN, a shape that is not square, or an asymmetric kernel.
    MemoryError
        Before any work, if it would not fit.

    Notes
    -----
    m = n, or n * k: about 9 m^3 multiply-adds and four m x m float64 matrices. Eigenvalues may
    come out slightly negative by rounding; the filters take them as 0.
    """
    check_memory(
        kernel.shape[0] * (kernel.shape[1] if kernel.ndim == 4 else 1),
        4,
        "eigendecomposition",
        "take tangent.solve.kernel_ridge (three quarters of the memory), or "
        "tangent.solve.conjugate_gradients, which never forms the kernel",
    )
    s = system(kernel)
    eigenvalues, eigenvectors = torch.linalg.eigh(s.matrix)
    return Spectrum(eigenvalues.flip(0), eigenvectors.flip(1), s)
