"""A record of other calls that cost less and compute the same.

Max pooling commutes with ReLU, which does not decrease: pooled first, ReLU has a quarter of the
units to look at. The recorded order is kept for whoever wants to watch every ReLU. A linear layer
that torch made into products with as many copies of its weights is one product.
"""

from __future__ import annotations

import torch

from tangent.capture.graph import Call, Graph, Value, operation_name

__all__ = ["folded_products", "gate_names", "pooled_before_relu"]

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


def folded_products(graph: Graph) -> Graph:
    """Return a record where a batch of matrices times one matrix, repeated, is one product.

    That is what linear layers make of inputs that do not lie in order: their gradient would be
    that of all copies of the weights.
    """
    calls: list[Call] = []
    for call in graph.calls:
        calls += _folded(call) or [call]
    if len(calls) == len(graph.calls):
        return graph
    return Graph(
        calls, graph.inputs, graph.weights, graph.output, graph.reads, graph.read, graph.suspect
    )


def _folded(call: Call) -> list[Call] | None:
    """The calls in place of a product with a repeated matrix; None where it is another."""
    if call.op is not aten.bmm.default or call.kwargs:
        return None
    x, repeated = call.args
    matrix = _repeated(repeated)
    shape = _viewed(x)
    if matrix is None or shape is None:
        return None
    out = call.outputs[0]
    assert isinstance(x, Value)
    assert out is not None
    b, rows, p = shape
    columns = repeated.call.args[1][2]
    flat = Value("call", x.data, x.weights)
    product = Value("call", out.data, out.weights)
    steps = [
        Call(aten.view.default, (x, [b * rows, p]), {}, [flat], call.name),
        Call(aten.mm.default, (flat, matrix), {}, [product], call.name),
        Call(aten.view.default, (product, [b, rows, columns]), {}, [out], call.name),
    ]
    for step, read in zip(steps, ([x], [flat, matrix], [product]), strict=True):
        step.inputs = read
    return steps


def _repeated(value: Value) -> Value | None:
    """The transposed matrix that a value repeats along a new first axis."""
    view = value.call
    if view is None or view.op is not aten.view.default:
        return None
    expand = view.args[0].call
    if expand is None or expand.op is not aten.expand.default or len(expand.args[1]) != 3:
        return None
    source = expand.args[0]
    two_axes = source.call is not None and source.call.op is aten.t.default
    return source if two_axes and list(view.args[1]) == list(expand.args[1]) else None


def _viewed(value: Value) -> list[int] | None:
    """The three sizes of a value, where a view says them."""
    view = value.call
    if view is None or view.op is not aten.view.default or len(view.args[1]) != 3:
        return None
    sizes = list(view.args[1])
    return sizes if all(isinstance(s, int) and s > 0 for s in sizes) else None


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
