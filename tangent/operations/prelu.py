"""PReLU in operations that torch differentiates for many inputs at once.

``torch.func.vmap`` of PReLU's gradient (torch 2.14.1) sums the weights' gradients to a shape of
its own, and fails. A choice between ``x`` and ``weight * x`` is the same function and gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["ElementaryPReLU"]


class ElementaryPReLU(TorchFunctionMode):
    """Within it, PReLU is a choice between two products."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.prelu, Tensor.prelu):
            return _prelu(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _prelu(input: Tensor, weight: Tensor) -> Tensor:
    if weight.numel() > 1 and input.ndim > 1:
        weight = weight.reshape(-1, *[1] * (input.ndim - 2))
    return torch.where(input > 0, input, weight * input)
