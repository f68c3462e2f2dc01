"""The record of one run of a network: which operations it called, on what, in which order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tangent.operations.arguments import flattened, leaves_of

__all__ = ["Call", "Custom", "Graph", "Value"]


@dataclass(eq=False, slots=True)
class Value:
    """A tensor of the record: an input, a weight, a constant, or what a call returned.

    ``data`` says whether it depends on the inputs, ``weights`` whether it depends on parameters
    or buffers; a value that depends on neither is a constant, kept in ``tensor``.
    """

    kind: str  # "input", "weight", "buffer", "constant" or "call"
    data: bool = False
    weights: bool = False
    name: str = ""  # of a weight or a buffer
    tensor: Tensor | None = None
    call: Call | None = None
    mask: bool = False  # whether it is of booleans
    random: bool = False  # whether it was drawn


@dataclass(frozen=True)
class Custom:
    """An operation with a rule of the user's own: a module, a function or a method."""

    target: Any
    function: Any  # what computes it
    module: Any = None  # of the network that was run
    weights: tuple[tuple[str, Value | None], ...] = ()


@dataclass(eq=False, slots=True)
class Call:
    """One operation, with `Value` in place of every tensor among its arguments."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Value | None]  # one for every tensor it returned
    name: str  # of the module that called it
    module: str = ""  # class of that module
    leaf: bool = False  # whether that module has no modules inside
    inputs: list[Value] = field(default_factory=list)
    flat: tuple[list[Any], Any] | None = None

    def flattened(self) -> tuple[list[Any], Any]:
        """Its arguments, positional and by name, as leaves and their structure."""
        if self.flat is None:
            self.flat = flattened((self.args, self.kwargs))
        return self.flat

    def __str__(self) -> str:
        where = f" in {self.name} ({self.module})" if self.name else ""
        return f"{operation_name(self.op)}{where}"


def operation_name(op: Any) -> str:
    """Return the name of an operation as users know it."""
    if isinstance(op, Custom):
        return getattr(op.target, "__name__", str(op.target))
    packet = getattr(op, "overloadpacket", None)
    return str(packet) if packet is not None else getattr(op, "__name__", str(op))


@dataclass(eq=False)
class Graph:
    """The calls that lead from inputs and weights to the output, in order."""

    calls: list[Call]
    inputs: list[Value]
    weights: dict[str, Value]  # parameters and buffers, by name
    output: Value
    reads: bool = False
    """Whether the network looked at values that depend on the inputs: it may take another way
    for others, so that this record is of these inputs only."""
    read: list[Value] = field(default_factory=list)  # those values
    suspect: bool = False
    """Whether gradients were cut or made otherwise somewhere: autograd may not agree."""
    network: Any = None  # the copy that was run
    largest: int = 1  # numbers of the largest value that depends on the inputs
    outputs: int = 1  # numbers of the output
    last_use: dict[int, list[Value]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.calls = _needed(self.calls, [self.output, *self.read])
        self.last_use = last_uses(self.calls, self.output)


def _needed(calls: list[Call], outputs: list[Value]) -> list[Call]:
    wanted = {id(v) for v in outputs}
    kept = []
    for call in reversed(calls):
        if any(v is not None and id(v) in wanted for v in call.outputs):
            kept.append(call)
            wanted.update(id(v) for v in call.inputs)
    return kept[::-1]


def last_uses(calls: Iterable[Call], output: Value) -> dict[int, list[Value]]:
    """The values that each call (by its position) is the last to read."""
    last: dict[Value, int] = {}
    for position, call in enumerate(calls):
        for value in (*call.inputs, *(v for v in call.outputs if v is not None)):
            last[value] = position
    uses: dict[int, list[Value]] = {}
    for value, position in last.items():
        if value is not output and value.kind == "call":
            uses.setdefault(position, []).append(value)
    return uses


def values_in(arguments: Any) -> list[Value]:
    """The values among the arguments of a call."""
    return [a for a in leaves_of(arguments) if isinstance(a, Value)]


def geometry(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies in its storage, and as what it is read."""
    return (
        tuple(tensor.shape),
        tuple(tensor.stride()),
        tensor.storage_offset(),
        (tensor.dtype, tensor.is_conj(), tensor.is_neg()),
    )


def as_real(where: tuple) -> tuple[Any, ...]:
    """Where the real numbers of complex ones lie, the last axis theirs."""
    shape, stride, offset, (dtype, _, _) = where
    real = torch.empty((), dtype=dtype, device="meta").real.dtype
    steps = (*(2 * step for step in stride), 1)
    return (*shape, 2), steps, 2 * offset, (real, False, False)


def whole(tensor: Tensor, where: tuple) -> Tensor:
    """The memory of a tensor as it is read elsewhere."""
    plain = tensor.detach()
    plain = plain.conj() if plain.is_conj() else plain
    plain = plain._neg_view() if plain.is_neg() else plain
    dtype = where[3][0]
    if dtype == plain.dtype:
        return torch.as_strided(plain, *where[:3])
    if dtype.is_complex:
        return torch.view_as_complex(torch.as_strided(plain, *as_real(where)[:3]))
    return torch.as_strided(torch.view_as_real(plain), *where[:3])


def storage_id(tensor: Tensor) -> int:
    """Identity of a tensor's memory while it lives."""
    return tensor.untyped_storage()._cdata


def positions(shape: tuple, stride: tuple, offset: int, device: torch.device) -> Tensor:
    """Positions in the storage of a tensor's entries, in its shape."""
    where = torch.full(shape, offset, dtype=torch.int64, device=device)
    for axis, (size, step) in enumerate(zip(shape, stride, strict=True)):
        line = torch.arange(size, device=device) * step
        where = where + line.view(-1, *(1,) * (len(shape) - axis - 1))
    return where


def apart(one: tuple, two: tuple, root: tuple) -> bool:
    """Whether two views of a storage have no entry in common, as far as can be said at once."""
    boxes = [_box(view, root) for view in (one, two)]
    if boxes[0] is None or boxes[1] is None:
        return False
    return any(a + n <= b or b + m <= a for (a, n), (b, m) in zip(boxes[0], boxes[1], strict=True))


def _box(view: tuple, root: tuple) -> list[tuple[int, int]] | None:
    """First position and length along every axis of the root; None for other views."""
    shape, stride, offset, dtype = view
    whole, steps, start, kind = root
    if stride != steps or dtype != kind or min(steps, default=1) < 1:
        return None
    offset -= start
    found = {}
    for axis in sorted(range(len(steps)), key=lambda i: -steps[i]):
        first, offset = divmod(offset, steps[axis])
        if first + shape[axis] > whole[axis]:
            return None
        found[axis] = (first, shape[axis])
    return None if offset else [found[axis] for axis in range(len(steps))]
