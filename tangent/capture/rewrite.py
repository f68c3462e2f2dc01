"""A record in an order that costs less and computes the same.

Max pooling commutes with ReLU, which does not decrease: pooled first, ReLU has a quarter of the
units to look at. The recorded order is kept for whoever wants to watch every ReLU.
"""

from __future__ import annotations

import torch

from tangent.capture.graph import Call, Graph, Value, operation_name

__all__ = ["gate_names", "pooled_before_relu"]

aten = torch.ops.aten


def pooled_before_relu(graph: Graph) -> Graph:
    """Return a record where ReLU follows the max pooling that it came before.

    Only where nothing else reads the ReLU, nor the pooling's positions.
    """
    readers: dict[Value, list[Call]] = {}
    for call in graph.calls:
        for value in call.inputs:
            readers.setdefault(value, []).append(call)
    calls: dict[int, Call] = {id(call): call for call in graph.calls}
    for call in graph.calls:
        if call.op is not aten.relu.default:
            continue
        (out,) = call.outputs
        after = readers.get(out, []) if out is not None else []
        if out is None or out is graph.output or len(after) != 1:
            continue
        pool = after[0]
        if pool.op is not aten.max_pool2d_with_indices.default or _read(pool, readers):
            continue
        before, pooled = call.args[0], Value("call", out.data, out.weights)
        first = Call(
            pool.op, (before, *pool.args[1:]), pool.kwargs, [pooled, pool.outputs[1]], pool.name
        )
        second = Call(call.op, (pooled,), {}, [pool.outputs[0]], call.name)
        first.inputs, second.inputs = [before], [pooled]
        calls[id(call)], calls[id(pool)] = first, second
    ordered = [calls[id(call)] for call in graph.calls]
    return Graph(
        ordered, graph.inputs, graph.weights, graph.output, graph.reads, graph.read, graph.suspect
    )


def _read(pool: Call, readers: dict[Value, list[Call]]) -> bool:
    positions = pool.outputs[1]
    return positions is not None and positions in readers


def gate_names(calls: list[Call]) -> dict[int, str]:
    """Names of the operations, by identity: of their module, and numbered from its second on."""
    taken: dict[str, int] = {}
    names = {}
    for call in calls:
        name = call.name
        if not name or not call.leaf:
            name = f"{name}.{operation_name(call.op).split('.')[-1]}".lstrip(".")
        count = taken[name] = taken.get(name, -1) + 1
        names[id(call)] = f"{name}_{count}" if count else name
    return names
