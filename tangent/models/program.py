"""A record of a network, run on pairs: the rules of its operations, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from tangent.capture import Call, Custom, Graph, Value
from tangent.capture.rewrite import folded_products, gate_names, pooled_before_relu
from tangent.operations import families  # noqa: F401  (fills the table)
from tangent.operations.affine import plain_call
from tangent.operations.arguments import leaves_of, over_leaves
from tangent.operations.generic import OtherWay, generic_difference
from tangent.operations.registry import Pair, gate_for, rule_for
from tangent.operations.table import bases, entry, executed, is_pair, moves

GateObserver = Callable[[str, Tensor], None]


class _Way(NamedTuple):
    """One run: the values so far, the scale, and who watches the gates."""

    values: dict[Value, Pair]
    alpha: float
    on_gate: GateObserver | None


class Program:
    """A record, ready to be run on pairs."""

    def __init__(self, graph: Graph):
        self.graph = graph = folded_products(graph)
        self.names = gate_names(graph.calls)
        self.fast = pooled_before_relu(graph)
        self.read = {id(v) for v in graph.read}
        used = {id(v) for c in graph.calls for v in c.inputs} | {id(graph.output)}
        self.only_first = {
            id(c)
            for c in (*graph.calls, *self.fast.calls)
            if not any(v is not None and id(v) in used for v in c.outputs[1:])
        }

    def run(
        self,
        inputs: list[Tensor],
        weights: dict[str, Tensor],
        delta: dict[str, Tensor],
        alpha: float,
        on_gate: GateObserver | None,
    ) -> Pair:
        """Return the network's output as a pair, from its inputs, weights and displacements."""
        # Whoever watches the gates sees them in the network's own order.
        graph = self.fast if on_gate is None else self.graph
        values: dict[Value, Pair] = {}
        for value, t in zip(graph.inputs, inputs, strict=True):
            values[value] = Pair(t)
        for name, value in graph.weights.items():
            values[value] = Pair(weights[name], delta.get(name))

        way = _Way(values, alpha, on_gate)
        for position, call in enumerate(graph.calls):
            self._step(call, way)
            for value in graph.last_use.get(position, ()):
                values.pop(value, None)
        return values[graph.output]

    def plain(self, inputs: list[Tensor], weights: dict[str, Tensor]) -> Tensor:
        """Run the network itself, to be differentiated by autograd."""
        graph = self.fast
        values: dict[Value, Tensor] = dict(zip(graph.inputs, inputs, strict=True))
        values.update({value: weights[name] for name, value in graph.weights.items()})
        for position, call in enumerate(graph.calls):
            args, kwargs = over_leaves(
                lambda a: (
                    a if not isinstance(a, Value) else values[a] if a.tensor is None else a.tensor
                ),
                (call.args, call.kwargs),
            )
            out = plain_call(call.op, args, kwargs)
            for value, t in zip(call.outputs, _tensors(out), strict=True):
                if value is not None:
                    values[value] = t
            for value in graph.last_use.get(position, ()):
                values.pop(value, None)
        return values[graph.output]

    def _step(self, call: Call, way: _Way) -> None:
        values = way.values

        def given(argument: Any) -> Any:
            if not isinstance(argument, Value):
                return argument
            return Pair(argument.tensor) if argument.tensor is not None else values[argument]

        args, kwargs = over_leaves(given, (call.args, call.kwargs))
        try:
            results = self._called(call, args, kwargs, way)
        except ValueError as error:
            raise ValueError(f"{call}: {error}") from error
        for value, result in zip(call.outputs, results, strict=True):
            if value is not None:
                values[value] = result
                if id(value) in self.read and not math.isinf(way.alpha) and _turns(result):
                    raise OtherWay

    def _called(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], way: _Way
    ) -> list[Pair]:
        alpha, on_gate = way.alpha, way.on_gate
        if isinstance(call.op, Custom):
            return _custom(call, call.op, args, kwargs, way)
        if not moves((args, kwargs)):
            out = executed(call.op, bases(args), bases(kwargs))
            return [Pair(t) for t in _tensors(out)]
        found = entry(call.op)
        if on_gate is not None and found.gate is not None:
            stable = found.gate(alpha, *args, **kwargs, _op=call.op)
            if stable is not None:
                on_gate(self.names[id(call)], stable)
        if found.difference is None or (found.only_first and id(call) not in self.only_first):
            out = generic_difference(call.op, alpha, args, kwargs)
        else:
            out = found.difference(alpha, *args, **kwargs, _op=call.op)
        return [p for p in leaves_of(out) if is_pair(p)]


def _tensors(out: Any) -> list[Tensor]:
    return [t for t in leaves_of(out) if isinstance(t, Tensor)]


def _turns(pair: Pair) -> bool:
    v = pair.difference
    return v is not None and bool((v != 0).any())


def _custom(
    call: Call,
    custom: Custom,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    way: _Way,
) -> list[Pair]:
    alpha, on_gate = way.alpha, way.on_gate
    if custom.module is not None:
        own = {name: None if v is None else way.values[v] for name, v in custom.weights}
        args = (custom.module, own, *args)
    gate = None if on_gate is None else gate_for(custom.target)
    if gate is not None and on_gate is not None:
        stable = gate(alpha, *args, **kwargs)
        if stable is not None:
            on_gate(call.name, stable)
    rule = rule_for(custom.target)
    assert rule is not None
    out = rule(alpha, *args, **kwargs)
    return [
        p if is_pair(p) else Pair(p) for p in leaves_of(out) if is_pair(p) or isinstance(p, Tensor)
    ]
