"""The losses of lazy training, on the scaled, centred output u = alpha h.

The paper's objective is R(alpha h(w)) / alpha**2 (Chizat et al. 2019, equation (2)). In the scaled
displacement delta = alpha (w - w0) the factor is absorbed: gradient descent on delta with the loss
R(u) and a learning rate is gradient descent on w with R(alpha h)/alpha**2 and the same rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A loss R(u): its value averaged over a batch, its targets and its curvature.

    ``curvature(k)`` is the largest eigenvalue, times n, of the Hessian of R in the n x k outputs
    at u = 0.
    """

    name: str
    value: Callable[[Tensor, Tensor], Tensor]
    targets: Callable[[Tensor, int, torch.dtype], Tensor]
    curvature: Callable[[int], float]


def _square(u: Float[Tensor, "n k"], targets: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
    """Mean over inputs *and* outputs, no 1/2: what the published code trains."""
    return F.mse_loss(u, targets)


def _one_hot(labels: Int[Tensor, " n"], k: int, dtype: torch.dtype) -> Float[Tensor, "n k"]:
    return F.one_hot(labels, k).to(dtype)


def _cross_entropy(u: Float[Tensor, "n k"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    return F.cross_entropy(u, labels)


def _labels(labels: Int[Tensor, " n"], k: int, dtype: torch.dtype) -> Int[Tensor, " n"]:
    return labels


LOSSES = {
    # d^2/du^2 of sum (u - y)^2 / (n k) is 2 / (n k)
    "square": Loss("square", _square, _one_hot, lambda k: 2 / k),
    # the Hessian of cross entropy at u = 0 is (I - 11^T/k) / (n k)
    "cross_entropy": Loss("cross_entropy", _cross_entropy, _labels, lambda k: 1 / k),
}


def loss_named(name: str) -> Loss:
    """Return the loss called ``name``; a ValueError lists those there are."""
    if name not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(map(repr, LOSSES))}; got {name!r}")
    return LOSSES[name]
