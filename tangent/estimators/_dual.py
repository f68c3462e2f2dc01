"""Fit in the dual: coefficients of the training inputs, weighted, with a free constant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tangent.solve.centring import KernelCentring
from tangent.solve.flow import flow_filter
from tangent.solve.spectrum import Spectrum, spectrum


@dataclass(frozen=True)
class DualFit:
    """Predictions are ``cross_kernel @ coefficients + constant``.

    Attributes
    ----------
    coefficients : Tensor of shape (n, k)
    constant : Tensor of shape (k,)
    leave_one_out : Tensor of shape (n, k)
    error : float
        Weighted mean squared leave-one-out error.
    ridge : float
        The chosen one, over the kernel's mean diagonal entry.
    unit : float
        The kernel's mean diagonal entry.
    condition_number : float
        Of the (centred, weighted) kernel plus ridge.
    spectrum, centring, root
        What the posterior variance needs; root is the square root of the weights.
    temperature : float, optional
        Factor that turns a classifier's scores into log probabilities.
    """

    coefficients: Float[Tensor, "n k"]
    constant: Float[Tensor, " k"]
    leave_one_out: Float[Tensor, "n k"]
    error: float
    ridge: float
    unit: float
    condition_number: float
    spectrum: Spectrum
    centring: KernelCentring | None
    root: Float[Tensor, " n"]
    temperature: float | None = None


def dual_fit(
    kernel: Tensor,
    y: Float[Tensor, "n k"],
    weights: Float[Tensor, " n"],
    *,
    ridges: Sequence[float],
    time: float | None,
    intercept: bool,
) -> DualFit:
    """Weighted kernel ridge regression, or gradient flow to ``time``, with a free constant.

    Minimizes ``sum_i w_i |f(x_i) - y_i|^2 + ridge * unit * |f|^2``, unit being the kernel's
    weighted mean diagonal entry, at the ridge of least leave-one-out error. A weight of 2 is the
    input twice. ``time`` is that of the flow on half the mean squared error with the kernel
    divided by unit.
    """
    k = y.shape[1]
    centring = KernelCentring.fit(kernel, weights) if intercept else None
    unit = _mean_diagonal(kernel, weights)
    constant = torch.zeros(k).to(y)
    if centring is not None:
        kernel = centring.train(kernel)
        constant = (weights / weights.sum()) @ y
    root = weights.sqrt()
    both = root[:, None] * root
    decomposed = spectrum(kernel * (both if kernel.ndim == 2 else both[:, None, :, None]))
    target = root[:, None] * (y - constant)
    eliminated = root / root.norm() if intercept else None
    if time is None:
        path = decomposed.ridge(target, [r * unit for r in ridges], eliminated=eliminated)
        best = path.best
        ridge = float(ridges[best])
        coefficients, loo = path.coefficients[best], path.leave_one_out[best]
    else:
        ridge = 0.0
        lam = decomposed.eigenvalues.clamp(min=0)
        gain = flow_filter(lam, time / (unit * float(weights.sum())))
        fit = decomposed.fit(target, gain, 1 - lam * gain, eliminated=eliminated)
        coefficients, loo = fit.coefficients, fit.leave_one_out
    # Without the only row there is no fit: the constant is what is left.
    loo = torch.zeros_like(target) if len(target) == 1 and intercept else loo / root[:, None]
    coefficients = root[:, None] * coefficients
    top, bottom = decomposed.eigenvalues[0], decomposed.eigenvalues[-1].clamp(min=0)
    shift = ridge * unit
    error = float((weights[:, None] * (loo - y + constant) ** 2).sum() / (weights.sum() * k))
    if centring is not None:
        # The coefficients sum to zero, so that centring only moves the constant.
        shared = kernel.ndim == 2
        offset = torch.tensordot(centring.row_means, coefficients, dims=1 if shared else 2)
        loo = loo + constant
        constant = constant - offset
    return DualFit(
        coefficients,
        constant,
        loo,
        error,
        ridge,
        unit,
        float((top + shift) / (bottom + shift)) if shift or bottom > 0 else float("inf"),
        decomposed,
        centring,
        root,
    )


def _mean_diagonal(kernel: Tensor, weights: Tensor) -> float:
    """Weighted mean of the kernel's diagonal, over inputs and outputs; 1 for a zero kernel."""
    if kernel.ndim == 4:
        kernel = torch.einsum("iaia->i", kernel) / kernel.shape[1]
    else:
        kernel = kernel.diagonal()
    return float((weights / weights.sum()) @ kernel) or 1.0
