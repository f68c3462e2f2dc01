"""Batch norm of one input, on memory in the usual order.

The backward pass of batch norm with fixed statistics (torch 2.14.1, on a CPU) is wrong for one
input with strides (c, 1, w c, c): of an image of shape (h, w, c) turned round and given an axis. A
copy in the usual order is the same input, and has the right gradient.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["OrderedBatchNorm", "in_order"]


def in_order(x: Tensor) -> Tensor:
    """Return ``x``, of one input with axes of positions a copy whose strides are the usual ones."""
    return x.contiguous() if x.ndim > 2 and len(x) == 1 else x


class OrderedBatchNorm(TorchFunctionMode):
    """Within it, batch norm takes one input in the usual order."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.batch_norm, F.batch_norm):
            if args:
                args = (in_order(args[0]), *args[1:])
            else:
                kwargs["input"] = in_order(kwargs["input"])
        return func(*args, **kwargs)
