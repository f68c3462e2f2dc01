"""What operations write into, or leave lazy, and the operations that return it instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tangent.capture.graph import operation_name
from tangent.operations.arguments import leaves_of, over_leaves
from tangent.operations.writing import copied, filled

__all__ = ["functional", "materialized", "written_by"]

aten = torch.ops.aten


def written_by(func: Any, args: tuple, kwargs: dict) -> list[Tensor]:
    """The arguments that a call writes into."""
    schema = func._schema
    if not schema.is_mutable:
        return []
    found = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            found += [t for t in leaves_of(value) if isinstance(t, Tensor)]
    return found


def functional(func: Any) -> Callable[..., Any]:
    """The operation that returns what ``func`` writes."""
    if func in _WRITES:
        return _WRITES[func]
    namespace, name = func._schema.name.split("::")
    if name.endswith("_"):
        packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
        names = [] if packet is None else packet.overloads()
        overloads = [
            getattr(packet, n) for n in sorted(names, key=lambda n: n != func._overloadname)
        ]
        alike = (o for o in overloads if _types(o) == _types(func))
        return next(alike, None) or _Cloned(func)
    return _Cloned(func)


def _types(func: Any) -> list[str]:
    """Types of the arguments; overloads of one name may differ in them (those of ``pow``)."""
    return [str(argument.type) for argument in func._schema.arguments]


def materialized(given: Tensor, result: Tensor) -> Any:
    """What a clone does to a conjugate or negative that is lazy; called again it would not."""
    if given.is_conj() and not result.is_conj():
        return aten.resolve_conj.default
    return aten.resolve_neg.default if given.is_neg() and not result.is_neg() else None


_WRITES: dict[Any, Callable[..., Any]] = {
    aten.copy_.default: copied,
    aten.fill_.Scalar: filled,
    aten.fill_.Tensor: filled,
    aten.zero_.default: filled,
}


class _Cloned:
    """An operation in place, on a copy."""

    def __init__(self, func: Any):
        self.func, self.__name__ = func, operation_name(func)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        written = {id(t) for t in written_by(self.func, args, kwargs)}
        args, kwargs = over_leaves(
            lambda a: a.clone() if isinstance(a, Tensor) and id(a) in written else a,
            (args, kwargs),
        )
        return self.func(*args, **kwargs)
