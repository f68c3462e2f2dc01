"""PReLU in operations that torch differentiates for many inputs at once.

``torch.func.vmap`` of PReLU's gradient (torch 2.14.1) sums the weights' gradients to a shape of
its own, and fails. A choice between ``x`` and ``weight * x`` is the same function and gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["elementary_prelu"]


def elementary_prelu(func: Any, input: Tensor, weight: Tensor) -> Tensor:
    """PReLU, whatever function of torch's it was, as a choice between two products."""
    if weight.numel() > 1 and input.ndim > 1:
        weight = weight.reshape(-1, *[1] * (input.ndim - 2))
    return torch.where(input > 0, input, weight * input)
