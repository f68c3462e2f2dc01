"""Operations with kinks that a network calls, wherever it calls them from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tangent.capture import Call, Value, captured
from tangent.capture.graph import operation_name
from tangent.operations import families  # noqa: F401  (fills the table)
from tangent.operations.activations import breaks_of
from tangent.operations.table import entry

__all__ = ["Kinks", "kinks_of"]


@dataclass
class Kinks:
    """The operations with kinks on what depends on the weights, in the order of the calls."""

    names: list[str] = field(default_factory=list)
    sides: list[Tensor] = field(default_factory=list)
    """which side of its kinks every unit is on, a tensor for each call that acts unit by unit"""


def kinks_of(model: nn.Module, x: Tensor) -> Kinks:
    """Operations with kinks in a forward pass in evaluation mode."""
    found = Kinks()
    for call in captured(model, (x,), custom=False, keep=True).calls:
        if not (entry(call.op).kinked and any(v.weights for v in call.inputs)):
            continue
        found.names.append(_spoken(call))
        breaks = breaks_of(call.op, call.args[1:], call.kwargs)
        first = call.args[0]
        if breaks is not None and isinstance(first, Value) and first.tensor is not None:
            found.sides.append(_sides(first.tensor, breaks))
    return found


def _spoken(call: Call) -> str:
    name = operation_name(call.op).split(".")[-1].strip("_")
    return name.removesuffix("_with_indices").removesuffix("_kernel")


def _sides(value: Tensor, breaks: tuple[Any, ...]) -> Tensor:
    """Number of breaks below every unit."""
    return sum(((value > b).byte() for b in breaks), torch.zeros_like(value, dtype=torch.uint8))
