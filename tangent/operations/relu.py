"""max(z, 0) of a pair, which other rules are made of."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tangent.operations.registry import Pair

__all__ = ["bent", "negative_part", "relu_pair", "stable_signs"]


def stable_signs(z: Pair, alpha: float) -> Tensor:
    """Return where the pre-activation keeps its sign pattern: (z > 0) == (z + v/alpha > 0).

    Compared as v > -alpha z, which does not round away a small v. True everywhere at alpha = inf.
    """
    if z.difference is None or math.isinf(alpha):
        return torch.ones_like(z.base, dtype=torch.bool)
    return (z.base > 0) == (z.difference > -alpha * z.base)


class _ReLUDifference(torch.autograd.Function):
    """max(v, -alpha z) where z > 0, max(v + alpha z, 0) elsewhere; saves one mask."""

    @staticmethod
    def forward(ctx: Any, v: Any, z: Any, alpha: float) -> Any:
        if math.isinf(alpha):
            mask = z > 0
            ctx.save_for_backward(mask)
            return v * mask
        # In one expression: max(v, -alpha z) - max(-alpha z, 0); the second term is zero on the
        # active side, and on the other the sum is exact where the unit stays off.
        edge = z * -alpha
        ctx.save_for_backward(v > edge)
        return torch.maximum(v, edge).sub_(edge.relu_())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (mask,) = ctx.saved_tensors
        return grads[0] * mask, None, None


def relu_pair(z: Pair, alpha: float) -> Pair:
    """The pair of max(z, 0)."""
    v = z.difference
    return Pair(F.relu(z.base), None if v is None else _ReLUDifference.apply(v, z.base, alpha))


def bent(z: Pair, alpha: float) -> Any:
    """Difference of max(z, 0), where z moves."""
    return relu_pair(z, alpha).difference


def negative_part(z: Pair, alpha: float) -> Pair:
    """min(z, 0) = z - relu(z)."""
    if z.difference is None:
        return Pair(z.base.clamp(max=0))
    return Pair(z.base.clamp(max=0), z.difference - bent(z, alpha))
