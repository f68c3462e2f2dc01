"""The largest stable learning rate of the linearized problem, before training starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tangent.difference import ScaledDifference
from tangent.losses import Loss

__all__ = ["largest_kernel_eigenvalue", "stability_edge"]


def largest_kernel_eigenvalue(
    model: ScaledDifference,
    x: Tensor,
    *,
    iterations: int = 12,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """Largest eigenvalue of the tangent kernel of ``x``, (n k) x (n k), by power iteration.

    Parameters
    ----------
    model : ScaledDifference
        Only its network at w0 matters, not alpha and not delta.
    x : Tensor of shape (n, ...)
    iterations : int
        Products with the kernel. The kernel's first eigenvalue stands far apart from the others,
        and the estimate (a Rayleigh quotient, from below) is good to a few per cent in a dozen.
    batch_size : int, optional
        Inputs handled at once; bounds the memory, not the result.
    generator : torch.Generator, optional
        A CPU generator, for the starting vector.

    Returns
    -------
    float
        Cost: ``iterations`` forward and backward passes over ``x``.
    """
    batches = x.split(batch_size or len(x))
    # One number each, seen in the shape of the weights: the edge costs less memory than training.
    zeros = [p.new_zeros(()).expand_as(p).requires_grad_() for p in model.delta]
    outputs = [model.pair(b, alpha=math.inf, delta=zeros).difference for b in batches[:1]]
    shape = (len(x), *outputs[0].shape[1:])  # type: ignore[union-attr]
    vector = torch.randn(shape, generator=generator, dtype=torch.float32).to(x)
    vector /= vector.norm()
    value = 0.0
    for _ in range(iterations):
        direction: list[Tensor] = []
        for inputs, part in zip(batches, vector.split(batch_size or len(x)), strict=True):
            out = model.pair(inputs, alpha=math.inf, delta=zeros).difference
            assert out is not None
            grads = torch.autograd.grad(out, zeros, part, materialize_grads=True)
            direction = (
                [a + b for a, b in zip(direction, grads, strict=True)] if direction else list(grads)
            )
            del out, grads
        with torch.no_grad():
            parts = [model.pair(b, alpha=math.inf, delta=direction).difference for b in batches]
            product = torch.cat([p for p in parts if p is not None])
        del direction
        value = float((vector * product).sum())
        norm = product.norm()
        if not norm > 0:
            return 0.0
        vector = product / norm
    return value


def stability_edge(
    model: ScaledDifference,
    x: Tensor,
    loss: Loss,
    *,
    momentum: float = 0.0,
    iterations: int = 12,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """Learning rate above which gradient descent on the linearized model diverges.

    ``2 (1 + momentum) / (c lambda / n)``, lambda the largest eigenvalue of the tangent kernel of
    the n inputs and c / n the largest curvature of the loss in the outputs at initialization. For
    the square loss it is the edge itself; cross entropy bends with training, so that it is the
    edge at the first step.

    Parameters
    ----------
    model, x, iterations, batch_size, generator
        As in `largest_kernel_eigenvalue`; ``x`` stands for a mini-batch of training.
    loss : Loss
    momentum : float
        Of heavy-ball momentum, in [0, 1).

    Returns
    -------
    float
        ``inf`` when no parameter moves the outputs.

    Notes
    -----
    Heavy ball on a quadratic with curvature L is stable for lr < 2 (1 + momentum) / L (Polyak
    1964). Mini-batches have larger eigenvalues than their average, which is why ``x`` should be
    one mini-batch and not the whole set.
    """
    value = largest_kernel_eigenvalue(
        model, x, iterations=iterations, batch_size=batch_size, generator=generator
    )
    curvature = loss.curvature(model.network(x[:1]).shape[1:].numel()) * value / len(x)
    return 2 * (1 + momentum) / curvature if curvature > 0 else math.inf
