"""Short trainings by difference propagation, and what they moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tangent.laziness.operators import NormalizedKernel
from tangent.models import ScaledDifference
from tangent.training.batches import Inputs
from tangent.training.lazy import LazySettings, outputs_and_stability, train


@dataclass(frozen=True)
class Trained:
    """What a short training of the centred network at one scale changed.

    Attributes
    ----------
    alpha : float
    loss : float
        |u - y|^2 over |y|^2 at the end, u the scaled, centred outputs: 1 before training.
        Infinite where the training diverged.
    weights : float
        |w - w0| / |w0|; at alpha = inf the limit, 0.
    kernel : float
        |K(w) - K(w0)| / |K(w0)| in Frobenius norm, estimated with random probes; 0 at
        alpha = inf, None where the weights cannot hold the displacement (alpha beyond the
        precision) or where it was not asked for.
    kernel_error : float or None
        Standard error of ``kernel``.
    from_linearized : float
        |u - u_inf| / |u_inf|: distance to the linearized network after the same steps.
    stability : dict of str to float
        Of each gate, the fraction of decisions kept from w0.
    """

    alpha: float
    loss: float
    weights: float
    kernel: float | None
    kernel_error: float | None
    from_linearized: float | None
    stability: dict[str, float]

    @property
    def least_stable(self) -> float | None:
        """The smallest fraction over the gates; None without any."""
        return min(self.stability.values(), default=None)


def short_training(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    alphas: Sequence[float],
    *,
    lr: float,
    epochs: int,
    batch_size: int,
    probed: Sequence[tuple[Tensor, Tensor]],
    seed: int,
) -> tuple[Trained, ...]:
    """Train the centred network at every scale by the same steps, infinity first.

    Parameters
    ----------
    model : nn.Module
    x, y : Tensors of shapes (n, ...) and (n, k)
    alphas : sequence of float
    lr : float
        For the loss that is the mean of squares over inputs and outputs, without momentum.
    epochs, batch_size : int
    probed : sequence of pairs of Tensors of shape (n k,)
        Random signs z and K(w0) z (`NormalizedKernel`), by which the kernel's change is
        estimated, the same for every scale.
    seed : int
        Of the order of the data.
    """
    inputs = Inputs(x, x.new_zeros(()), x.new_ones(()), x.dtype)
    settings = LazySettings(
        loss="square", lr=lr, momentum=0.0, epochs=epochs, batch_size=batch_size
    )
    ordered = [math.inf, *(a for a in dict.fromkeys(alphas) if not math.isinf(a))]
    linear: Tensor | None = None
    found = []
    for alpha in ordered:
        module = ScaledDifference(model, alpha)
        end, stability = _end(module, inputs, y, settings, seed)
        if linear is None:
            linear = end
        kernel = _kernel_change(module, x, batch_size, probed if end is not None else ())
        found.append(_trained(model, module, y, end, linear, stability, kernel))
    return tuple(sorted(found, key=lambda t: t.alpha))


def _end(
    module: ScaledDifference, inputs: Inputs, y: Tensor, settings: LazySettings, seed: int
) -> tuple[Tensor | None, dict[str, float]]:
    """Outputs after the training and what every gate kept; None where it diverged."""
    generator = torch.Generator().manual_seed(seed)
    try:
        train(module, inputs, y, settings, generator=generator)
    except ArithmeticError:
        return None, {}
    end, stability = outputs_and_stability(module, inputs, batch_size=settings.batch_size)
    return end.flatten(1), stability


def _trained(
    model: nn.Module,
    module: ScaledDifference,
    y: Tensor,
    end: Tensor | None,
    linear: Tensor | None,
    stability: dict[str, float],
    kernel: tuple[float | None, float | None],
) -> Trained:
    alpha = module.alpha
    if end is None:
        return Trained(alpha, math.inf, math.nan, None, None, None, {})
    moved = math.sqrt(sum(float(d.detach().double().square().sum()) for d in module.delta))
    size = math.sqrt(sum(float(p.detach().double().square().sum()) for p in model.parameters()))
    return Trained(
        alpha=alpha,
        loss=float((end - y).norm() / y.norm()) ** 2,
        weights=moved / size / alpha,
        kernel=kernel[0],
        kernel_error=kernel[1],
        from_linearized=None
        if linear is None
        else float((end - linear).norm() / linear.norm().clamp(min=1e-300)),
        stability=stability,
    )


def _kernel_change(
    module: ScaledDifference, x: Tensor, batch_size: int, probed: Sequence[tuple[Tensor, Tensor]]
) -> tuple[float | None, float | None]:
    """Relative change of the kernel in Frobenius norm: E|A z|^2 = |A|_F^2 for random signs z."""
    if not probed:
        return None, None
    if math.isinf(module.alpha):
        return 0.0, 0.0
    displaced = module.displaced()
    moves = any(
        bool((p != q).any())
        for p, q in zip(displaced.parameters(), module.network.parameters(), strict=True)
    )
    if not moves:
        return None, None
    after = NormalizedKernel(displaced, x, batch_size)
    old = torch.stack([image for _, image in probed], 1)
    moved = after(torch.stack([z for z, _ in probed], 1)) - old
    top, bottom = moved.square().sum(0).tolist(), old.square().sum(0).tolist()
    ratio = math.sqrt(sum(top) / sum(bottom))
    return ratio, _jackknife_error(top, bottom)


def _jackknife_error(top: list[float], bottom: list[float]) -> float | None:
    """Standard error of the square root of a ratio of sums, one probe left out at a time."""
    m = len(top)
    if m < 2:
        return None
    left = [math.sqrt((sum(top) - t) / (sum(bottom) - b)) for t, b in zip(top, bottom, strict=True)]
    mean = sum(left) / m
    return math.sqrt((m - 1) / m * sum((v - mean) ** 2 for v in left))
