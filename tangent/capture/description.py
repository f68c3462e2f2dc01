"""What a network calls, operation by operation, and how each is moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from tangent.capture.graph import Call, Custom, Graph, operation_name
from tangent.capture.network import captured, unwrapped
from tangent.operations import families  # noqa: F401  (fills the table)
from tangent.operations.table import entry

__all__ = ["Description", "OperationUse", "describe"]


@dataclass(frozen=True)
class OperationUse:
    """One operation that a network calls, at one or more places."""

    operation: str
    modules: tuple[str, ...]
    """names of the modules that call it; empty for the network itself"""
    calls: int
    difference: str
    """"exact" (a rule of its own), "generic" (that one call in float64), "own" (a user's rule),
    or "fixed" (nothing that moves goes into it)"""
    kinked: bool
    factors: bool
    """whether gradients of its weights are kept as factors, not one by one"""


@dataclass(frozen=True)
class Description:
    """The operations of a network for inputs of one shape."""

    operations: tuple[OperationUse, ...]
    reads: bool
    """whether it looks at values of its inputs: it is then looked at anew for every batch"""

    @property
    def generic(self) -> tuple[str, ...]:
        """Operations without an exact difference rule."""
        return tuple(u.operation for u in self.operations if u.difference == "generic")

    def __str__(self) -> str:
        rows = [("operation", "calls", "difference", "kinks", "weights", "called by")]
        for u in self.operations:
            kinks, factors = ("yes" if v else "" for v in (u.kinked, u.factors))
            where = ", ".join(u.modules[:3]) + (", ..." if len(u.modules) > 3 else "")
            rows.append((u.operation, str(u.calls), u.difference, kinks, factors, where))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[5]]).rstrip()
            for row in rows
        ]
        if self.reads:
            lines.append("The network reads values of its inputs: it is looked at for every batch.")
        return "\n".join(lines)


def describe(model: nn.Module, *inputs: Any, output: Any = None, **keywords: Any) -> Description:
    """Return what a network calls and how every operation is moved.

    Parameters
    ----------
    model : nn.Module
        Looked at in evaluation mode, and left as found.
    *inputs, **keywords
        Its arguments.
    output : str, int, callable or sequence of such, optional
        Which of its outputs counts.
    """
    graph = captured(unwrapped(model), inputs, keywords, output=output)
    return Description(tuple(_uses(graph)), graph.reads)


def _uses(graph: Graph) -> list[OperationUse]:
    groups: dict[tuple[str, str], list[Call]] = {}
    for call in graph.calls:
        groups.setdefault((operation_name(call.op), _difference(call)), []).append(call)
    found = []
    for (name, difference), calls in groups.items():
        known = entry(calls[0].op)
        modules = tuple(dict.fromkeys(c.name for c in calls if c.name))
        found.append(
            OperationUse(
                name, modules, len(calls), difference, known.kinked, known.factors is not None
            )
        )
    return found


def _difference(call: Call) -> str:
    if isinstance(call.op, Custom):
        return "own"
    if not any(v.weights for v in call.inputs):
        return "fixed"
    return "exact" if entry(call.op).difference is not None else "generic"
