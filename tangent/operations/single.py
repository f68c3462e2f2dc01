"""Batch norm of one input, on memory in the usual order.

The backward pass of batch norm with fixed statistics (torch 2.14.1, on a CPU) is wrong for one
input with strides (c, 1, w c, c): of an image of shape (h, w, c) turned round and given an axis. A
copy in the usual order is the same input, and has the right gradient.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["in_order", "ordered_batch_norm"]


def in_order(x: Tensor) -> Tensor:
    """Return ``x``, of one input with axes of positions a copy whose strides are the usual ones."""
    return x.contiguous() if x.ndim > 2 and len(x) == 1 else x


def ordered_batch_norm(func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Batch norm by ``func``, of one input in the usual order."""
    return func(in_order(input), *args, **kwargs)
