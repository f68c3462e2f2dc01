"""The largest stable learning rate of the linearized problem, before training starts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tangent.models import ScaledDifference
from tangent.models.losses import Loss, loss_named
from tangent.solve.lanczos import EigenvalueBounds, largest_eigenvalue_bounds


def largest_kernel_eigenvalue(
    model: ScaledDifference,
    x: Tensor,
    *,
    iterations: int = 24,
    tolerance: float = 0.05,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> EigenvalueBounds:
    """Bounds on the largest eigenvalue of the tangent kernel of ``x``, (n k) x (n k).

    Parameters
    ----------
    model : ScaledDifference
        Only its network at w0 matters, not alpha and not delta.
    x : Tensor of shape (n, ...)
    iterations : int
        Products with the kernel at most.
    tolerance : float
        Stop once the bounds are within this fraction of each other. The first eigenvalue of a
        network's kernel stands far apart from the others, and some six products do for 5%; where
        the leading ones are close, more are taken.
    batch_size : int, optional
        Inputs handled at once; bounds the memory, not the result.
    generator : torch.Generator, optional
        A CPU generator, for the starting vector.

    Returns
    -------
    EigenvalueBounds
        By Lanczos (`tangent.solve.lanczos`). Cost: a forward and backward pass over ``x`` and one
        forward pass a product.
    """
    batches = x.split(batch_size or len(x))
    # One number each, seen in the shape of the weights: the edge costs less memory than training.
    zeros = [p.new_zeros(()).expand_as(p).requires_grad_() for p in model.delta]
    first = model.pair(batches[0], alpha=math.inf, delta=zeros).difference
    assert first is not None
    shape = (len(x), *first.shape[1:])
    del first

    def product(vector: Tensor) -> Tensor:
        parts = vector.view(shape).split(batch_size or len(x))
        direction = _pulled_back(model, batches, parts, zeros)
        with torch.no_grad():
            moved = [model.pair(b, alpha=math.inf, delta=direction).difference for b in batches]
            return torch.cat([p for p in moved if p is not None]).flatten()

    start = torch.randn(shape, generator=generator, dtype=torch.float32)
    start = start.to(zeros[0]).flatten()
    return largest_eigenvalue_bounds(product, start, iterations=iterations, tolerance=tolerance)


def _pulled_back(
    model: ScaledDifference, batches: tuple[Tensor, ...], parts: tuple[Tensor, ...],
    zeros: list[Tensor],
) -> list[Tensor]:  # fmt: skip
    """Sum over the batches of Dh^T v: a direction in the weights."""
    direction: list[Tensor] = []
    for inputs, part in zip(batches, parts, strict=True):
        out = model.pair(inputs, alpha=math.inf, delta=zeros).difference
        assert out is not None
        grads = torch.autograd.grad(out, zeros, part, materialize_grads=True)
        direction = (
            [a + b for a, b in zip(direction, grads, strict=True)] if direction else list(grads)
        )
        del out, grads
    return direction


def stability_edge(
    model: ScaledDifference,
    x: Tensor,
    loss: Loss | str,
    *,
    momentum: float = 0.0,
    iterations: int = 24,
    tolerance: float = 0.05,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> float:
    """Learning rate below which gradient descent on the linearized model is stable.

    ``2 (1 + momentum) / (c lambda / n)``, lambda an upper bound on the largest eigenvalue of the
    tangent kernel of the n inputs and c / n the largest curvature of the loss in the outputs at
    initialization. For the square loss it is the edge itself, from below; cross entropy bends
    with training, so that it is the edge at the first step.

    Parameters
    ----------
    model, x, iterations, tolerance, batch_size, generator
        As in `largest_kernel_eigenvalue`; ``x`` stands for a mini-batch of training.
    loss : Loss or str
        A loss (`tangent.models.loss_named`) or its name, "square" or "cross_entropy".
    momentum : float
        Of heavy-ball momentum, in [0, 1).

    Returns
    -------
    float
        At most the edge, but for a chance of one in a thousand over the starting vector, and at
        least ``1 / (1 + tolerance)`` of it where ``iterations`` were enough (always within 20% on
        the spectra of the tests). ``inf`` when no parameter moves the outputs.

    Raises
    ------
    ValueError
        When the kernel's largest eigenvalue is not finite in the dtype of ``x``.

    Notes
    -----
    Heavy ball on a quadratic with curvature L is stable for lr < 2 (1 + momentum) / L (Polyak
    1964). Mini-batches have larger eigenvalues than their average, which is why ``x`` should be
    one mini-batch and not the whole set.
    """
    loss = loss_named(loss) if isinstance(loss, str) else loss
    bounds = largest_kernel_eigenvalue(
        model, x, iterations=iterations, tolerance=tolerance, batch_size=batch_size,
        generator=generator,
    )  # fmt: skip
    outputs = model.network(x[:1]).shape[1:].numel()
    curvature = loss.curvature(outputs) * bounds.upper / len(x)
    if not math.isfinite(curvature):
        raise ValueError(
            f"the largest eigenvalue of the tangent kernel must be finite; got {bounds.upper} "
            f"in {x.dtype}: check that x has no NaN, scale it down, or take float64"
        )
    return 2 * (1 + momentum) / curvature if curvature > 0 else math.inf
