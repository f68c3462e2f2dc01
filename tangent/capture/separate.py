"""Whether a network keeps the inputs of a batch apart, and which operation mixes them if not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tangent.capture.network import captured, evaluated_copy, picked
from tangent.operations.pointwise import called

__all__ = ["check_separate", "gives_rows", "kept_apart"]


_APART = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Identity, nn.Sequential, nn.MaxPool2d,
    nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU,
    nn.SiLU, nn.Softplus, nn.ELU, nn.GroupNorm, nn.LayerNorm, nn.Dropout, nn.Dropout2d,
)  # fmt: skip


_OF_ROWS = {
    nn.Linear, nn.Identity, nn.Sequential, nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.GELU,
    nn.SiLU, nn.Softplus, nn.ELU, nn.LayerNorm, nn.Dropout,
}  # fmt: skip


def gives_rows(model: nn.Module, x: Tensor) -> bool:
    """Whether a network is known to give a row of outputs for every row: a plain perceptron."""
    return x.ndim == 2 and kept_apart(model) and all(type(m) in _OF_ROWS for m in model.modules())


def kept_apart(model: nn.Module) -> bool:
    """Whether a network is known not to mix inputs: layers of torch and of `tangent.nets` alone.

    The others are checked (`check_separate`).
    """
    return all(_layer_apart(m) for m in model.modules())


def _layer_apart(m: nn.Module) -> bool:
    if m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__:
        return False
    if type(m).__module__.startswith("tangent.nets") or type(m) in _APART:
        return True
    if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        return type(m).__module__.startswith("torch.") and m.running_mean is not None
    return type(m) is nn.Flatten and m.start_dim >= 1


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
    if kept_apart(model):
        return True
    arguments = (tuple(inputs), dict(keywords or {}))
    first = next((t for t in tree_leaves(arguments) if isinstance(t, Tensor)), None)
    if first is None or first.dim() == 0 or len(first) < 2 or first.is_meta:
        return False
    n = len(first)
    twin = evaluated_copy(model, tensors).eval()
    found = []
    for rows in (slice(0, 2), slice(0, 1), slice(1, 2)):
        args, kwargs = tree_map(lambda t, r=rows: _part(t, n, r), arguments)
        try:
            with torch.inference_mode(False), torch.enable_grad():
                found.append(picked(called(twin, None, args, kwargs), output))
        except Exception as error:
            if "more than 1 value per channel" in str(error):
                captured(model, args, kwargs)  # which says it for the right reason
            return True  # made for batches of one size: nothing to compare
    both, *single = found
    if all(_holds(both, one, i) for i, one in enumerate(single)):
        return True
    raise ValueError(
        f"model mixes the inputs of a batch{_culprit(model, arguments, n, output, tensors)}: what "
        "it gives for one input depends on another; batch statistics, sums or orders over axis 0 "
        "have to leave it"
    )


def _part(value: Any, n: int, rows: slice) -> Any:
    batched = isinstance(value, Tensor) and value.dim() > 0 and len(value) == n
    value = value[rows] if batched else value
    return value.clone() if isinstance(value, Tensor) else value


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


def _holds(two: Tensor, one: Tensor, which: int) -> bool:
    """Whether ``one`` is in ``two``, which has an axis that is twice as long, or is the same."""
    if two.shape == one.shape and len(one.shape) and one.shape[0] != 1:
        return _near(two, one)
    if two.numel() != 2 * one.numel():
        return _near(two, one)
    if two.dim() != one.dim():
        return _near(two.reshape(2, -1)[which], one.reshape(-1))
    longer = [i for i in range(one.dim()) if two.shape[i] == 2 * one.shape[i] and one.shape[i]]
    for axis in longer:
        size = one.shape[axis]
        blocks = two.narrow(axis, which * size, size)
        strided = two.unflatten(axis, (size, 2)).select(axis + 1, which)
        if _near(blocks, one) or _near(strided, one):
            return True
    return False


def _culprit(
    model: nn.Module, arguments: Any, n: int, output: Any, tensors: Mapping[str, Tensor] | None
) -> str:
    """The first operation whose result for one input is not in its result for two."""
    graphs = []
    for rows in (slice(0, 2), slice(0, 1), slice(1, 2)):
        args, kwargs = tree_map(lambda t, r=rows: _part(t, n, r), arguments)
        graphs.append(captured(model, args, kwargs, output=output, tensors=tensors, keep=True))
    both, *single = graphs
    for which, one in enumerate(single):
        if [str(c.op) for c in one.calls] != [str(c.op) for c in both.calls]:
            continue
        for call, other in zip(one.calls, both.calls, strict=True):
            for a, b in zip(call.outputs, other.outputs, strict=True):
                if a is None or b is None or a.tensor is None or b.tensor is None or not a.data:
                    continue
                if not _holds(b.tensor, a.tensor, which):
                    return f" in {call}"
    return ""
