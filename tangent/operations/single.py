"""Batch norm of inputs whose order in memory has two names, in the usual order.

Where there is one input, or one position along some axis, an image may count as channels first and
as channels last at once. The backward pass of batch norm (torch 2.14.1, on a CPU) then
takes the name of the input for that of the gradient, and reads the gradient in a wrong order. Both
in the usual order, what it finds is right.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["ordered", "ordered_norm"]


def _has_two_names(x: Tensor) -> bool:
    return x.ndim > 3 and 1 in (len(x), *x.shape[2:])


def ordered(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A norm by ``func`` that returns its output and statistics, its memory in order."""
    if not _has_two_names(x):
        return func(x, *args, **kwargs)
    out, *statistics = func(x.contiguous(), *args, **kwargs)
    return _with_gradient_in_order(out), *statistics


def ordered_norm(func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A norm by ``func`` that returns its output alone, its memory in order."""
    if not _has_two_names(input):
        return func(input, *args, **kwargs)
    return _with_gradient_in_order(func(input.contiguous(), *args, **kwargs))


def _with_gradient_in_order(out: Tensor) -> Tensor:
    """The same values: back through the two views, a gradient is copied where it is turned."""
    return out.reshape(-1).view(out.shape)
