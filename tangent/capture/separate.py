"""Whether a network keeps the inputs of a batch apart, and which operation mixes them if not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tangent.capture.graph import Graph, Value
from tangent.capture.network import captured

__all__ = ["check_separate"]


def check_separate(
    model: nn.Module,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any] | None = None,
    output: Any = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> bool:
    """Compare the first input alone with the first of two.

    Returns
    -------
    bool
        False where there are no two inputs to compare.

    Raises
    ------
    ValueError
        If the network mixes the inputs of a batch; the message names the operation.
    """
    arguments = (tuple(inputs), dict(keywords or {}))
    first = next((t for t in tree_leaves(arguments) if isinstance(t, Tensor)), None)
    if first is None or first.dim() == 0 or len(first) < 2 or first.is_meta:
        return False
    n = len(first)
    graphs = []
    for count in (1, 2):
        args, kwargs = tree_map(lambda t, c=count: _part(t, n, c), arguments)
        try:
            graphs.append(
                captured(model, args, kwargs, output=output, tensors=tensors, keep=True)
            )
        except Exception as error:
            if "more than 1 value per channel" not in str(error):
                return True  # made for batches of one size: nothing to compare
            raise ValueError(
                "batch norm without running statistics mixes the inputs of a batch: it has no "
                "tangent kernel; train it with track_running_stats=True, or take another norm"
            ) from error
    one, two = graphs
    alone, together = one.output.tensor, two.output.tensor
    if alone is None or together is None or _holds(together, alone):
        return True
    raise ValueError(
        f"model mixes the inputs of a batch{_culprit(one, two)}: what it gives for the first input "
        "depends on the second; batch statistics, sums or orders over axis 0 have to leave it"
    )


def _part(value: Any, n: int, count: int) -> Any:
    batched = isinstance(value, Tensor) and value.dim() > 0 and len(value) == n
    return value[:count] if batched else value


def _near(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if not (a.is_floating_point() or a.is_complex()):
        return bool(torch.equal(a, b))
    a, b = a.detach(), b.detach()
    size = b.abs()[b.isfinite()]
    scale = float(size.max()) if size.numel() else 1.0
    tolerance = max(torch.finfo(a.dtype).eps ** 0.5, 1e-6) * max(scale, 1e-30) * 10
    return bool(torch.isclose(a, b, rtol=0, atol=tolerance, equal_nan=True).all())


def _holds(two: Tensor, one: Tensor) -> bool:
    """Whether ``one`` is in ``two``, which has an axis that is twice as long, or is the same."""
    if two.shape == one.shape:
        return _near(two, one)
    if two.numel() != 2 * one.numel():
        return False
    if two.dim() != one.dim():
        return _near(two.reshape(2, -1)[0], one.reshape(-1))
    longer = [i for i in range(one.dim()) if two.shape[i] == 2 * one.shape[i] and one.shape[i]]
    for axis in longer:
        size = one.shape[axis]
        blocks = two.narrow(axis, 0, size)
        strided = two.unflatten(axis, (size, 2)).select(axis + 1, 0)
        if _near(blocks, one) or _near(strided, one):
            return True
    return False


def _culprit(one: Graph, two: Graph) -> str:
    """The first operation whose result for one input is not in its result for two."""
    if [str(c.op) for c in one.calls] != [str(c.op) for c in two.calls]:
        return ""
    for call, other in zip(one.calls, two.calls, strict=True):
        for a, b in zip(call.outputs, other.outputs, strict=True):
            if not (isinstance(a, Value) and isinstance(b, Value) and a.data):
                continue
            if a.tensor is None or b.tensor is None or _holds(b.tensor, a.tensor):
                continue
            return f" in {call}"
    return ""
