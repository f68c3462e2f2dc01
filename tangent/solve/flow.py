"""Training of a linearized network under the square loss in closed form, at any time.

In the eigenvectors of its kernel every training run from zero displacement is one number a
direction: the coefficients are ``V q_t(lambda) V^T (y - f_0)``. The loss is
``scale / 2 * sum_i |f(x_i) - y_i|^2``; the default scale 1/n makes it half the mean squared
error over the inputs, ``2 / (n k)`` makes it the mean over inputs and outputs of
``torch.nn.MSELoss`` (and of Figure 3(a) of Chizat et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tangent.solve.spectrum import Spectrum


@dataclass(frozen=True)
class TrainingPath:
    """Coefficients and predictions along training.

    Attributes
    ----------
    times : Tensor of shape (t,)
        Time of the flow, or number of steps.
    coefficients, train_predictions : Tensor of shape (t, *y.shape)
        The weights at a time are ``w0 + J^T coefficients``, J the tangent features.
    test_predictions : Tensor of shape (t, n_new, ...) or None
        None if no cross kernel was given.
    train_loss : Tensor of shape (t,)
        ``scale / 2`` times the sum of squared residuals.
    """

    times: Tensor
    coefficients: Tensor
    train_predictions: Tensor
    test_predictions: Tensor | None
    train_loss: Tensor


def flow_filter(eigenvalues: Float[Tensor, " m"], time: float) -> Float[Tensor, " m"]:
    """Filter of gradient flow: ``(1 - exp(-lambda t)) / lambda``, and ``t`` at lambda = 0.

    ``time`` is counted with the loss's scale multiplied in; it may be infinite, which gives
    the solution of least norm.
    """
    if not time >= 0:
        raise ValueError(f"time must be at least 0; got {time}")
    _check_eigenvalues(eigenvalues)
    positive = eigenvalues > 0
    safe = torch.where(positive, eigenvalues, 1.0)
    if math.isinf(time):
        return torch.where(positive, 1 / safe, 0.0)
    return torch.where(positive, -torch.expm1(-safe * time) / safe, time)


def descent_filter(
    eigenvalues: Float[Tensor, " m"], steps: int, lr: float, momentum: float = 0.0
) -> Float[Tensor, " m"]:
    """Filter of ``steps`` steps of gradient descent with heavy-ball momentum.

    The recursion ``q <- q + momentum (q - q_before) + lr (1 - lambda q)`` is the power of a
    3 x 3 matrix, taken by repeated squaring: no cancellation at small lambda, no degenerate
    root. ``momentum`` is that of ``torch.optim.SGD``; ``lr`` has the loss's scale in it.
    """
    if steps < 0 or steps != int(steps):
        raise ValueError(f"steps must be a whole number, at least 0; got {steps}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1); got {momentum}")
    _check_eigenvalues(eigenvalues)
    m = len(eigenvalues)
    power = eigenvalues.new_zeros(m, 3, 3)
    power[:, 0, 0] = 1 + momentum - lr * eigenvalues
    power[:, 0, 1] = -momentum
    power[:, 0, 2] = lr
    power[:, 1, 0] = 1
    power[:, 2, 2] = 1
    state = eigenvalues.new_zeros(m, 3, 1)
    state[:, 2] = 1
    left = int(steps)
    while left:
        if left & 1:
            state = power @ state
        left >>= 1
        if left:
            power = power @ power
    return state[:, 0, 0]


def _check_eigenvalues(eigenvalues: Tensor) -> None:
    if not eigenvalues.is_floating_point():
        raise TypeError(f"eigenvalues must be floating-point numbers; got {eigenvalues.dtype}")
    if not eigenvalues.isfinite().all():
        raise ValueError("eigenvalues must be finite; got NaN or infinity: check the kernel")


def stability_edge(eigenvalues: Tensor, *, scale: float, momentum: float = 0.0) -> float:
    """Largest learning rate at which gradient descent does not diverge.

    ``2 (1 + momentum) / (scale * largest eigenvalue)`` (Polyak 1964).
    """
    return 2 * (1 + momentum) / (scale * float(eigenvalues.max()))


def _check_rate(lam: Tensor, lr: float | None, momentum: float, scale: float) -> None:
    if lr is not None:
        limit = stability_edge(lam, scale=scale, momentum=momentum)
        if not 0 < lr <= limit:
            raise ValueError(
                f"lr must be positive and at most 2 (1 + momentum) / (scale * top eigenvalue) = "
                f"{limit:.4g}, where gradient descent diverges; got {lr}"
            )
    elif momentum:
        raise ValueError(f"momentum needs lr, the learning rate; got momentum={momentum}, lr=None")


def training_path(
    spectrum: Spectrum,
    y: Tensor,
    times: Sequence[float] | Tensor,
    *,
    cross_kernel: Tensor | None = None,
    lr: float | None = None,
    momentum: float = 0.0,
    scale: float | None = None,
    initial: Tensor | None = None,
    initial_test: Tensor | None = None,
) -> TrainingPath:
    """Predictions of the linearized network along gradient flow or gradient descent.

    Parameters
    ----------
    spectrum : Spectrum
        Of the kernel of the training inputs.
    y : Tensor of shape (n,) or (n, k)
    times : sequence of float
        Times of gradient flow (``inf`` allowed), or whole numbers of steps if ``lr`` is given.
    cross_kernel : Tensor of shape (n_new, n) or (n_new, k, n, k), optional
        Kernel of new inputs with the training inputs, for the test predictions.
    lr, momentum : float, optional
        With ``lr``, full-batch gradient descent as ``torch.optim.SGD`` does it; without,
        gradient flow. One step is a time of ``lr / (1 - momentum)`` where both are slow.
    scale : float, optional
        Of the loss ``scale / 2 * sum_i |f(x_i) - y_i|^2``; 1/n by default.
    initial, initial_test : Tensor, optional
        The network's outputs at initialization; zero by default (the centred model).

    Returns
    -------
    TrainingPath

    Raises
    ------
    ValueError
        If ``lr`` is too large for the spectrum; the message gives the limit.

    Notes
    -----
    m^2 multiply-adds and one prediction array a time; the eigenvectors are used once more.
    """
    s = spectrum.system
    y = torch.as_tensor(y)
    scale = 1 / s.n if scale is None else scale
    start = s.columns(torch.zeros_like(y) if initial is None else initial, "initial")
    lam = spectrum.eigenvalues.clamp(min=0)
    _check_rate(lam, lr, momentum, scale)
    times = torch.as_tensor(times, dtype=torch.float64).reshape(-1)
    if not (times >= 0).all():
        raise ValueError(f"times must be at least 0; got {times.tolist()}")
    projected = spectrum.eigenvectors.T @ (s.columns(y) - start)
    gains = torch.stack(
        [
            flow_filter(lam, scale * t)
            if lr is None
            else descent_filter(lam, t, scale * lr, momentum)
            for t in times.tolist()
        ]
    )
    # What rounding made of an eigenvalue of 0 carries no signal and would be amplified by time.
    gains = torch.where(lam > s.rounding * lam[0], gains, 0.0)
    filtered = gains[:, :, None] * projected
    coefficients = spectrum.eigenvectors @ filtered
    train = start + spectrum.eigenvectors @ (lam[:, None] * filtered)
    test = None
    if cross_kernel is not None:
        moved = s.cross(cross_kernel) @ coefficients
        test = moved.reshape(len(times), len(cross_kernel), *y.shape[1:])
        if initial_test is not None:
            test = test + torch.as_tensor(initial_test).to(test)
    loss = scale / 2 * ((train - s.columns(y)) ** 2).sum(dim=(1, 2))
    return TrainingPath(times, s.unfold(coefficients, y), s.unfold(train, y), test, loss)
