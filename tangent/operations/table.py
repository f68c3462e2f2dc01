"""The table: an entry an operation, filled by the families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tangent.operations.arguments import leaves_of, over_leaves
from tangent.operations.registry import Pair
from tangent.operations.single import ordered

__all__ = [
    "Operation",
    "bases",
    "differences",
    "entry",
    "exact",
    "executed",
    "gate",
    "is_pair",
    "moves",
    "operation",
]


@dataclass(slots=True)
class Operation:
    """What is known of an operation.

    ``difference(alpha, *args, **kwargs)`` takes a `Pair` for every tensor and returns pairs;
    ``gate`` is called alike and says where the moved network decides as the base does.
    ``batched`` runs it with an axis of inputs in front, ``cotangent`` pulls cotangents back
    through it, ``factors`` finds the gradient of a weight among its arguments.
    """

    difference: Callable[..., Any] | None = None
    gate: Callable[..., Tensor | None] | None = None
    kinked: bool = False
    only_first: bool = False  # of the results, the rule gives the first alone
    batched: Callable[..., Any] | None = None
    cotangent: Callable[..., Any] | None = None
    factors: Callable[..., Any] | None = None


_TABLE: dict[Any, Operation] = {}
_EMPTY = Operation()


def entry(op: Any) -> Operation:
    """Return the entry of an operation, empty where there is none."""
    return _TABLE.get(getattr(op, "overloadpacket", op), _EMPTY)


def operation(op: Any) -> Operation:
    """Return the entry of an operation, to be filled."""
    return _TABLE.setdefault(getattr(op, "overloadpacket", op), Operation())


def exact(*ops: Any) -> Callable[[Callable], Callable]:
    """Decorate the difference rule of some operations."""

    def decorator(rule: Callable) -> Callable:
        for op in ops:
            operation(op).difference = rule
        return rule

    return decorator


def gate(*ops: Any) -> Callable[[Callable], Callable]:
    """Decorate the function that says where some operations decide as at w0."""

    def decorator(rule: Callable) -> Callable:
        for op in ops:
            operation(op).gate = rule
            operation(op).kinked = True
        return rule

    return decorator


_VIEWS = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default}


def executed(op: Any, args: tuple, kwargs: dict) -> Any:
    """Run an operation; what was a view need not be one in another layout in memory."""
    if op in _VIEWS:
        return args[0].reshape(args[1])
    if op is torch.ops.aten.native_batch_norm.default:
        return ordered(op, *args, **kwargs)
    return op(*args, **kwargs)


def is_pair(value: Any) -> bool:
    """Whether ``value`` is a `Pair` (a leaf of arguments)."""
    return isinstance(value, Pair)


def bases(values: Any) -> Any:
    """The same arguments at w0."""
    return over_leaves(lambda v: v.base if is_pair(v) else v, values)


def differences(values: Any) -> Any:
    """The same arguments with the differences of what moves, zeros for what stays."""

    def difference(value: Any) -> Any:
        if not is_pair(value):
            return value
        if value.difference is not None:
            return value.difference.resolve_conj().resolve_neg()  # some views want that
        base = value.base
        floating = base.is_floating_point() or base.is_complex()
        return base.new_zeros(()).expand(base.shape) if floating else base

    return over_leaves(difference, values)


def moves(values: Any) -> bool:
    """Whether anything among the arguments moves."""
    leaves = leaves_of(values)
    return any(is_pair(v) and v.difference is not None for v in leaves)
