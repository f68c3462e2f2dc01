"""A network's record run on a batch, and cotangents carried back through it to the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tangent.capture import Call, Graph, Value, captured
from tangent.capture.rewrite import pooled_before_relu
from tangent.operations import families  # noqa: F401  (fills the table)
from tangent.operations.batched import Many, run_batched, tensors_in
from tangent.operations.cotangents import Pull, makes_new_memory, pulled
from tangent.operations.factors import factors_of
from tangent.operations.partial import dense, merged, on_its_part, viewed, views, widened
from tangent.operations.pieces import Piece, as_rows
from tangent.operations.table import executed

__all__ = ["Record", "Run"]

aten = torch.ops.aten

# Of weights alone: what only moves their entries to other places.
_MOVED = {
    aten.t, aten.transpose, aten.permute, aten.view, aten._unsafe_view, aten.reshape,
    aten.unsqueeze, aten.squeeze, aten.clone, aten.select, aten.slice, aten.alias,
}  # fmt: skip


@dataclass
class Weight:
    """A value that is ``scale`` times a parameter's entries, moved to other places by ``steps``."""

    name: str
    scale: float
    shape: torch.Size  # of the parameter
    steps: tuple[Call, ...] = ()

    @property
    def turned(self) -> bool:
        """Whether it is the transposed parameter."""
        if len(self.steps) != 1:
            return False
        (call,) = self.steps
        packet = call.op.overloadpacket
        swapped = packet == aten.transpose and {d % 2 for d in call.args[1:3]} == {0, 1}
        return len(self.shape) == 2 and (packet == aten.t or swapped)

    def order(self, device: torch.device) -> Tensor:
        """In the value's shape, positions in the flattened parameter."""
        order = torch.arange(self.shape.numel(), device=device).reshape(self.shape)
        for call in self.steps:
            order = executed(call.op, (order, *call.args[1:]), call.kwargs)
        return order


@dataclass
class Run:
    """The values of one batch, and the plan of the way back."""

    record: Record
    values: dict[Value, Any]
    n: int

    @property
    def output(self) -> Tensor:
        """(n, *output of one input)."""
        found = self.values[self.record.graph.output]
        return found.t if isinstance(found, Many) else found.expand(self.n, *found.shape)


@dataclass
class Record:
    """What a network does to one input, for any number of them.

    Parameters
    ----------
    model : nn.Module
    tensors : mapping of str to Tensor
        Parameters and buffers to run it with.
    names : sequence of str
        The parameters whose gradients are wanted.
    example : Tensor of shape (1, *input)
    """

    model: nn.Module
    tensors: Mapping[str, Tensor]
    names: list[str]
    example: Tensor
    shared: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = captured(self.model, (self.example,), tensors=self.tensors, custom=False)
        self.suspect, self.network = graph.suspect, graph.network
        self.largest, self.outputs = graph.largest, graph.outputs
        self.graph: Graph = pooled_before_relu(graph)
        self.constant: dict[Value, Any] = {
            value: self.tensors[name] for name, value in self.graph.weights.items()
        }
        self.found: dict[Value, Weight | None] = {}
        self.orders: dict[tuple[Value, bool], Tensor | None] = {}
        self.live = self._live(set(self.names))
        self._plan()

    @property
    def reads(self) -> bool:
        """Whether the record is of its example only."""
        return self.graph.reads

    def _live(self, names: set[str]) -> set[Value]:
        live = {v for name, v in self.graph.weights.items() if name in names}
        for call in self.graph.calls:
            if any(v in live for v in call.inputs):
                smooth = (v for v in call.outputs if v is not None)
                live.update(smooth)
        return live

    def _plan(self) -> None:
        """Which parameters every call on data takes, directly or through others."""
        roots: dict[Value, set[str]] = {
            v: {n} for n, v in self.graph.weights.items() if v in self.live
        }
        self.taken: dict[int, set[str]] = {}
        self.indirect: set[str] = set()
        for call in self.graph.calls:
            made = set().union(*(roots.get(v, set()) for v in call.inputs))
            outputs = [v for v in call.outputs if v is not None]
            if not any(v.data for v in outputs):
                roots.update(dict.fromkeys(outputs, made))
                continue
            self.taken[id(call)] = made
            for v in call.inputs:
                if roots.get(v) and self._weight(v) is None:
                    self.indirect |= roots[v]
        self.forms: dict[str, list[Value]] = {name: [] for name in self.names}
        for v, weight in self.found.items():
            if weight is not None:
                self.forms[weight.name].append(v)

    # Forward

    @torch.no_grad()
    def run(self, x: Tensor) -> Run:
        """Run the record on inputs (n, *input)."""
        values: dict[Value, Any] = dict(self.constant)
        values[self.graph.inputs[0]] = Many(x.unsqueeze(1))
        for call in self.graph.calls:
            self._forward(call, values)
        return Run(self, values, len(x))

    def _forward(self, call: Call, values: dict[Value, Any]) -> None:
        args, kwargs = _filled(call.args, values), _filled(call.kwargs, values)
        outputs = [v for v in call.outputs if v is not None]
        if any(v.data for v in call.inputs):
            results: list[Any] = [Many(t) for t in run_batched(call.op, args, kwargs)]
        elif outputs and outputs[0] in self.constant:
            return
        else:
            results = tensors_in(call.op(*args, **kwargs))
            self.constant.update(zip(outputs, results, strict=True))
        values.update(zip(outputs, results, strict=True))

    # Back

    @torch.no_grad()
    def back(
        self, run: Run, seeds: Tensor, visit: Callable[[str, Piece], None],
        done: Callable[[str], None] = lambda name: None,
    ) -> None:  # fmt: skip
        """Carry ``seeds`` (n, o, *output) back; every gradient found goes to ``visit``.

        ``done(name)`` says that a parameter has had all of its pieces.
        """
        carried: dict[Value, Any] = {self.graph.output: seeds}
        own: set[Value] = set()
        left = Counter(name for names in self.taken.values() for name in names)
        for call in reversed(self.graph.calls):
            outputs = [v for v in call.outputs if v is not None]
            received = [carried.pop(v, None) for v in outputs]
            mine = len(outputs) == 1 and outputs[0] in own
            if any(r is not None for r in received) and any(v in self.live for v in call.inputs):
                self._pull(call, run, received, mine, carried, own, visit)
            for name in self.taken.get(id(call), ()):
                left[name] -= 1
                direct = left[name] == 0 and name not in self.indirect
                # What some operation gave without factors comes last of all.
                if direct and not any(v in carried for v in self.forms[name]):
                    done(name)
        for name, value in self.graph.weights.items():
            if value in carried and value in self.live:
                visit(name, Piece(gradient=as_rows(dense(carried.pop(value)))))

    def _pull(
        self,
        call: Call,
        run: Run,
        received: list[Any],
        mine: bool,
        carried: dict[Value, Any],
        own: set[Value],
        visit: Callable[[str, Piece], None],
    ) -> None:
        leaves, structure = call.flattened()
        where = [i for i, a in enumerate(leaves) if isinstance(a, Value) and a in self.live]
        where = [i for i in where if _smooth(run.values[leaves[i]])]
        if not where:
            return
        given = [_given(a, run.values) for a in leaves]
        results = [run.values[v] for v in call.outputs if v is not None]
        shared = self.shared if self._lasting(leaves) else {}
        pull = Pull(call.op, given, structure, results, received, where, shared, mine)
        if (part := viewed(pull)) is not None:
            _carry(leaves[0], part, carried, own, False)
            return
        pull, spans = on_its_part(pull)
        for i, piece in self._pieces(pull, leaves).items():
            pull.wanted.remove(i)
            visit(*piece)
        if not pull.wanted:
            return
        found = pulled(pull)
        fresh = len(found) == 1 and (makes_new_memory(pull) or (pull.mine and views(pull.op)))
        for i, d in found.items():
            share = widened(d, spans[i], _shape(given[i])) if i in spans else d
            _carry(leaves[i], share, carried, own, fresh)

    def _lasting(self, leaves: list[Any]) -> bool:
        return all(not isinstance(a, Value) or a.data or a in self.constant for a in leaves)

    def _pieces(self, pull: Pull, leaves: list[Any]) -> dict[int, tuple[str, Piece]]:
        """Gradients of what is a parameter up to the order of its entries and a factor."""
        if all(leaves[i].data for i in pull.wanted):
            return {}
        weights = {i: self._weight(leaves[i]) for i in pull.wanted if not leaves[i].data}
        if not any(weights.values()):
            return {}
        found = {}
        for i, piece in factors_of(pull).items():
            weight = weights.get(i)
            if weight is not None:
                piece.name, piece.scale = weight.name, weight.scale
                piece.size = weight.shape.numel()
                piece.order = self._order(piece, weight, leaves[i])
                found[i] = (weight.name, piece)
        return found

    def _order(self, piece: Piece, weight: Weight, value: Value) -> Tensor | None:
        """Places of the piece's gradient in the parameter; None where it is as it is."""
        matrix = piece.patches is not None and piece.patches.kind == "tokens" and not piece.turned
        if weight.turned if matrix else not weight.steps:
            return None
        key = (value, matrix)
        if key not in self.orders:
            order = weight.order(self.tensors[weight.name].device)
            if matrix:  # (k, c) of a matrix on the right is found as (c, k)
                order = (order.squeeze(0) if order.dim() == 3 else order).t()
            flat = order.flatten()
            same = len(flat) == piece.size and bool((flat.diff() == 1).all())
            self.orders[key] = None if same else flat
        return self.orders[key]

    def _weight(self, value: Value) -> Weight | None:
        """The parameter that a value is, up to the places of its entries and a factor."""
        if value not in self.found:
            self.found[value] = self._resolved(value)
        return self.found[value]

    def _resolved(self, value: Value) -> Weight | None:
        if value.kind == "weight":
            if value.name not in self.names:
                return None
            return Weight(value.name, 1.0, self.tensors[value.name].shape)
        call = value.call
        if value.data or call is None or len(call.outputs) != 1:
            return None
        packet = getattr(call.op, "overloadpacket", None)
        first = call.args[0]
        if packet in (aten.mul, aten.div) and isinstance(first, Value):
            inner = self._weight(first) if not first.data else None
            factor = _number(call.args[1])
            if inner is None or factor is None:
                return None
            scale = inner.scale * factor if packet == aten.mul else inner.scale / factor
            return Weight(inner.name, scale, inner.shape, inner.steps)
        if packet not in _MOVED or not isinstance(first, Value) or first.data:
            return None
        inner = self._weight(first)
        if inner is None or len(call.inputs) != 1:
            return None
        return Weight(inner.name, inner.scale, inner.shape, (*inner.steps, call))


def _carry(value: Value, d: Any, carried: dict[Value, Any], own: set[Value], fresh: bool) -> None:
    """Add to what a value has got; ``fresh`` where ``d`` is memory of nobody else's."""
    before = carried.get(value)
    if before is None:
        carried[value] = d
    elif fresh and isinstance(d, Tensor):
        carried[value] = merged(d, before, True)
    else:
        carried[value] = merged(before, d, value in own)
    if fresh or before is not None:
        own.add(value)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.t.shape[1:] if isinstance(value, Many) else value.shape)


def _number(value: Any) -> float | None:
    if isinstance(value, Value):
        small = value.tensor is not None and value.tensor.numel() == 1
        return float(value.tensor) if small else None  # type: ignore[arg-type]
    return float(value) if isinstance(value, int | float) else None


def _filled(argument: Any, values: dict[Value, Any]) -> Any:
    """Arguments of a call with what its values are."""
    kind = type(argument)
    if kind is Value:
        return _given(argument, values)
    if kind is tuple or kind is list:
        return kind(_filled(a, values) for a in argument)
    if kind is dict:
        return {key: _filled(a, values) for key, a in argument.items()}
    return argument


def _given(argument: Any, values: dict[Value, Any]) -> Any:
    if not isinstance(argument, Value):
        return argument
    return argument.tensor if argument.tensor is not None else values[argument]


def _smooth(value: Any) -> bool:
    t = value.t if isinstance(value, Many) else value
    return t.is_floating_point() or t.is_complex()
