"""Conjugate gradients for least squares (CGLS), whose iterates are regularized by their number.

The iterate of step t is the best fit of the targets within t directions of the weights: the
squared error never rises, the leading directions are fitted first, and stopping early is a
regularization like a ridge or an end of the gradient flow (Hanke 1995; Blanchard and Kramer 2010
for kernels), reached in about the square root of the flow's steps. `conjugate_gradients` minimizes
another norm of the error, and without a ridge its residual may rise by far before it falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tangent.solve.system import check_ridge

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LeastSquaresStep:
    """Where the iterations stand, and all that they go on from; everything in float64.

    Attributes
    ----------
    step : int
        Products with the features so far, and as many with their transpose.
    weights : Tensor of shape (p,)
        The iterate.
    outputs : Tensor of shape (m + q,)
        Its outputs, those of the q rows that are only watched included.
    residual : float
        Norm of targets minus outputs over the norm of the targets.
    direction : Tensor of shape (p,)
        Of the latest step.
    descent : float
        Squared norm of the gradient that it was made from.
    """

    step: int
    weights: Float[Tensor, " p"]
    outputs: Float[Tensor, " rows"]
    residual: float
    direction: Float[Tensor, " p"]
    descent: float


def least_squares_steps(
    forward: Linear,
    adjoint: Linear,
    y: Float[Tensor, " m"],
    *,
    ridge: float = 0.0,
    start: LeastSquaresStep | None = None,
) -> Iterator[LeastSquaresStep]:
    """Yield the iterates of CGLS on ``|y - J w|^2 + ridge |w|^2``, from ``w = 0`` on.

    Whoever iterates decides when to stop: at a residual, or where held-out rows are best. Take it
    where neither features nor kernel fit in memory.

    Parameters
    ----------
    forward : callable
        ``J w`` of shape (m + q,) for weights of shape (p,). The first m rows are those of ``y``,
        the others are watched: their outputs cost no product of their own.
    adjoint : callable
        ``J^T r`` of shape (p,) for ``r`` of shape (m,).
    y : Tensor of shape (m,)
        Targets, finite; the callables get tensors of its dtype and device.
    ridge : float
    start : LeastSquaresStep, optional
        An earlier iterate to go on from, of the same problem.

    Yields
    ------
    LeastSquaresStep
        One product with ``forward`` and one with ``adjoint`` each. The iterations end where the
        gradient is zero.

    Raises
    ------
    ValueError
        If ``y`` or a product is not finite.

    Notes
    -----
    The recurrence is in float64 whatever the dtype of the products. Algorithm: Hestenes and
    Stiefel 1952, Section 10; Paige and Saunders 1982, Section 7.1.

    Examples
    --------
    >>> import torch
    >>> from tangent.solve import least_squares_steps
    >>> J = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    >>> y = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    >>> last = list(least_squares_steps(J.matmul, J.T.matmul, y))[-1]
    >>> bool(torch.allclose(last.weights, torch.linalg.lstsq(J, y[:, None]).solution[:, 0]))
    True
    """
    check_ridge(ridge)
    _check_finite(y, "y")
    target = y.double()
    scale = float(target.norm()) or 1.0
    now = start
    while True:
        fitted = 0.0 if now is None else now.outputs[: len(y)]
        gradient = _product(adjoint, target - fitted, y, "adjoint(r)")
        if now is not None:
            gradient -= ridge * now.weights
        descent = float(gradient @ gradient)
        if not descent:
            return
        direction = gradient if now is None else gradient + descent / now.descent * now.direction
        image = _product(forward, direction, y, "forward(w)")
        moved = image[: len(y)]
        curvature = float(moved @ moved + ridge * (direction @ direction))
        if not curvature > 0:  # rounding is all that is left of the gradient
            return
        length = descent / curvature
        outputs = length * image + (0.0 if now is None else now.outputs)
        now = LeastSquaresStep(
            1 if now is None else now.step + 1,
            length * direction + (0.0 if now is None else now.weights),
            outputs,
            float((target - outputs[: len(y)]).norm()) / scale,
            direction,
            descent,
        )
        yield now


def _product(of: Linear, v: Tensor, like: Tensor, name: str) -> Tensor:
    found = of(v.to(like.dtype)).double()
    _check_finite(found, name)
    return found


def _check_finite(values: Tensor, name: str) -> None:
    if not torch.isfinite(values).all():
        raise ValueError(
            f"{name} must be finite; it holds NaN or infinite entries; check inputs and weights, "
            "or take a float64 network and float64 targets"
        )
