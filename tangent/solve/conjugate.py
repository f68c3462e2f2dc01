"""Conjugate gradients on a kernel that is only ever multiplied with.

The kernel comes as a function of columns, ``product(v)``: a matrix product, or Jacobian-vector
products over the data in batches, which never form it. Under ``torchrun`` the function sums over
ranks (`tangent.kernel.products`), and every rank runs the same iterations on the same numbers.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tangent.solve.nystrom import NystromPreconditioner
from tangent.solve.system import check_ridge

Product = Callable[[Tensor], Tensor]


class UnconvergedWarning(UserWarning):
    """The iterations stopped before the tolerance was reached."""


@dataclass(frozen=True)
class Iteration:
    """One line of the log: residual norm over target norm (the worst column), and seconds."""

    step: int
    residual: float
    seconds: float


@dataclass(frozen=True)
class ConjugateGradients:
    """Where the iterations ended, and their log.

    ``products`` counts kernel-vector products (columns); ``residual`` is that of the coefficients,
    as in the log's last line.
    """

    coefficients: Tensor
    converged: bool
    iterations: int
    products: int
    residual: float
    log: list[Iteration] = field(default_factory=list)


def conjugate_gradients(
    product: Product,
    y: Tensor,
    *,
    ridge: float | Float[Tensor, " r"],
    preconditioner: NystromPreconditioner | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
    initial: Tensor | None = None,
    method: Literal["columns", "block"] = "columns",
    callback: Callable[[Iteration], None] | None = None,
) -> ConjugateGradients:
    """Solution of ``(kernel + ridge * I) coefficients = y`` by products with the kernel.

    Take it where the kernel does not fit in memory or costs more than some hundred products;
    otherwise `tangent.solve.kernel_ridge`.

    Parameters
    ----------
    product : callable
        Returns the kernel times a tensor of the shape of ``y``, of fewer columns when some are
        done.
    y : Tensor of shape (m,) or (m, r)
        Targets; those of a full kernel are flattened to (n * k,) or (n * k, 1).
    ridge : float, or Tensor of shape (r,)
        A tensor has one ridge for each column of ``y``; with ``method="columns"`` only.
    preconditioner : NystromPreconditioner, optional
    tolerance : float
        Stop when the residual norm of every column is below it times the norm of its target.
    max_iterations : int
    initial : Tensor, optional
        Coefficients to start from, of a neighbouring ridge for example; zero by default.
    method : {"columns", "block"}
        ``"block"`` searches in the span of all columns at once (O'Leary 1980, in the form of
        Dubrulle 2001): fewer iterations with several columns, for r^2 m more arithmetic.
    callback : callable, optional
        Called with each `Iteration`, for progress.

    Returns
    -------
    ConjugateGradients
        Coefficients in dtype and device of ``y``.

    Warns
    -----
    UnconvergedWarning
        If ``max_iterations`` was reached first, or rounding holds the residual above the
        tolerance; with the residual that was.

    Notes
    -----
    Iterations are in float64 whatever the dtype of ``y``, products in that of ``y``. The end is
    believed only after one more product: the last residual is that of the coefficients.
    """
    shift = _shift(ridge, y, method)
    _check_arguments(y, tolerance, method)
    target = (y[:, None] if y.ndim == 1 else y).double()

    def system(v: Tensor, columns: Tensor | None = None) -> Tensor:
        given = v.to(y.dtype)
        image = product(given[:, 0] if y.ndim == 1 else given).reshape(v.shape)
        some = columns is not None and len(shift) > 1
        return image.double() + (shift[columns] if some else shift) * v

    start = torch.zeros_like(target) if initial is None else initial.to(target)
    start = start.reshape(target.shape)
    residual = target if initial is None else target - system(start)
    scale = target.norm(dim=0)
    scale = torch.where(scale > 0, scale, 1.0)
    log = _Log(callback)
    check = _Check(system, target, scale, tolerance, max_iterations, preconditioner, log)
    run = _columns if method == "columns" else _block
    x, products = run(start, residual, check)
    end = log.lines[-1]
    if not end.residual <= tolerance:
        _warn(end, check)
    return ConjugateGradients(
        x.to(y.dtype).reshape(y.shape),
        end.residual <= tolerance,
        end.step,
        products + (0 if initial is None else target.shape[1]),
        end.residual,
        log.lines,
    )


def _check_arguments(y: Tensor, tolerance: float, method: str) -> None:
    if method not in ("columns", "block"):
        raise ValueError(f"method must be 'columns' or 'block'; got {method!r}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive; got {tolerance}")
    if not torch.isfinite(y).all():
        raise ValueError("y must be finite; it holds NaN or infinite entries")
    if not y.is_floating_point():
        raise TypeError(f"y must be of a floating dtype; got {y.dtype}; pass y.double()")


def _warn(end: Iteration, check: _Check) -> None:
    """Say that the end is not what was asked for, why, and what to do."""
    if check.stalled and end.step < check.max_iterations:
        reason = "were stopped by rounding"
        cure = "take a float64 network and targets, or a larger ridge or tolerance"
    else:
        reason = f"stopped at max_iterations={check.max_iterations}"
        cure = "raise max_iterations or ridge, or pass a preconditioner of higher rank"
    warnings.warn(
        f"conjugate gradients {reason} with a relative residual of {end.residual:.3g}, "
        f"above tolerance={check.tolerance:.3g}; {cure}",
        UnconvergedWarning,
        stacklevel=3,
    )


def _shift(ridge: float | Tensor, y: Tensor, method: str) -> Float[Tensor, " r"]:
    """The ridge in float64, one number or one for each column."""
    if not isinstance(ridge, Tensor) or ridge.ndim == 0:
        return torch.tensor([check_ridge(float(ridge))], dtype=torch.float64, device=y.device)
    if method != "columns" or y.ndim != 2 or ridge.shape != y.shape[1:]:
        raise ValueError(
            "ridge must be a number, or hold one for each column of y with method='columns'; got "
            f"shape {tuple(ridge.shape)} for y of shape {tuple(y.shape)} and method={method!r}"
        )
    for value in ridge.tolist():
        check_ridge(value)
    return ridge.to(y.device, torch.float64)


class _Log:
    def __init__(self, callback: Callable[[Iteration], object] | None) -> None:
        self.lines: list[Iteration] = []
        self.callback = callback
        self.start = time.perf_counter()

    def __call__(self, step: int, residual: float) -> None:
        if residual != residual:
            raise ValueError(
                f"conjugate gradients met NaN at iteration {step}: product(v) must be a "
                "positive semidefinite operator and finite; check the network's outputs"
            )
        self.lines.append(Iteration(step, residual, time.perf_counter() - self.start))
        if self.callback is not None:
            self.callback(self.lines[-1])


@dataclass
class _Check:
    """The residual as it is, one product, before an end is believed.

    The residual that the recursion carries goes on falling where rounding holds the true one:
    with a float32 network it is soon a hundred times too small.
    """

    system: Callable[..., Tensor]
    target: Float[Tensor, "m r"]
    scale: Float[Tensor, " r"]
    tolerance: float
    max_iterations: int
    preconditioner: NystromPreconditioner | None
    log: _Log
    last: float = float("inf")
    stalled: bool = False

    def relative(self, r: Float[Tensor, "m r"]) -> float:
        return float((r.norm(dim=0) / self.scale).max())

    def due(self, step: int, relative: float) -> bool:
        """Whether the iterations would end here."""
        return relative <= self.tolerance or step == self.max_iterations

    def residual(self, x: Float[Tensor, "m r"]) -> Float[Tensor, "m r"]:
        r = self.target - self.system(x)
        found = self.relative(r)
        # A restart that does not halve it is held by rounding, and so will be the next.
        self.stalled = self.tolerance < found and not found < self.last / 2
        self.last = found
        return r


def _columns(
    x: Float[Tensor, "m r"], r: Float[Tensor, "m r"], check: _Check
) -> tuple[Float[Tensor, "m r"], int]:
    """Preconditioned conjugate gradients, every column on its own but multiplied together.

    A column that is done is left out of the products until the end is checked.
    """

    preconditioner = check.preconditioner

    def precondition(v: Float[Tensor, "m r"]) -> Float[Tensor, "m r"]:
        return v if preconditioner is None else preconditioner.of_columns(active).power(v, -1.0)

    count, active = r.shape[1], torch.arange(r.shape[1], device=r.device)
    x = x.clone()
    z = precondition(r)
    p, rho, step, products = z, (r * z).sum(0), 0, 0
    relative = check.relative(r)
    check.log(0, relative)
    while relative > check.tolerance and step < check.max_iterations and not check.stalled:
        q = check.system(p, active)
        step, products = step + 1, products + p.shape[1]
        curvature = (p * q).sum(0)
        a = torch.where(curvature > 0, rho / curvature, 0.0)  # a finished column stays
        x[:, active] += a * p
        r = r - a * q
        each = r.norm(dim=0) / check.scale[active]
        relative = float(each.max())
        if check.due(step, relative):
            r, products = check.residual(x), products + count
            relative = check.last
            each, active = r.norm(dim=0) / check.scale, torch.arange(count, device=r.device)
            p, rho = torch.zeros_like(r), torch.ones_like(each).double()
        going = (each > check.tolerance) | (relative <= check.tolerance)
        active, r, p, rho = active[going], r[:, going], p[:, going], rho[going]
        z = precondition(r)
        new = (r * z).sum(0)
        p = z + torch.where(rho > 0, new / rho, 0.0) * p
        rho = new
        check.log(step, relative)
    return x, products


def _block(
    x: Float[Tensor, "m r"], r: Float[Tensor, "m r"], check: _Check
) -> tuple[Float[Tensor, "m r"], int]:
    """Block conjugate gradients on the symmetrically preconditioned system.

    The residual block is kept as Q C with orthonormal Q: no breakdown when columns become
    dependent, as those of one-hot targets are from the start.
    """

    preconditioner = check.preconditioner

    def root(v: Tensor, exponent: float) -> Tensor:
        return v if preconditioner is None else preconditioner.power(v, exponent)

    q, c = torch.linalg.qr(root(r, -0.5))
    s, moved, step, products = q, torch.zeros_like(x), 0, 0
    relative = check.relative(r)
    check.log(0, relative)
    while relative > check.tolerance and step < check.max_iterations and not check.stalled:
        image = root(check.system(root(s, -0.5)), -0.5)
        step, products = step + 1, products + s.shape[1]
        core = s.T @ image
        inverse = torch.linalg.pinv((core + core.T) / 2, hermitian=True)
        moved = moved + s @ (inverse @ c)
        q, turn = torch.linalg.qr(q - image @ inverse)
        s = q + s @ turn.T
        c = turn @ c
        relative = check.relative(root(q @ c, 0.5))
        if check.due(step, relative):
            x, moved = x + root(moved, -0.5), torch.zeros_like(x)
            r, products = check.residual(x), products + x.shape[1]
            q, c = torch.linalg.qr(root(r, -0.5))
            s, relative = q, check.last
        check.log(step, relative)
    return x + root(moved, -0.5), products
