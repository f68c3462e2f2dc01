"""Rules for max pooling: u = max_j (v_j + alpha (z_j - z_{j*})), j* the base's winner.

z_j - z_{j*} is a difference of neighbours: exact in floating point where they nearly tie, and
harmless where they do not, since such a j cannot win.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tangent.operations.generic import generic_difference
from tangent.operations.registry import Pair
from tangent.operations.table import exact, gate, is_pair, operation

__all__: list[str] = []


def _two(value: Any) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * 2 if len(values) == 1 else values


class _Gathered(torch.autograd.Function):
    """The entries of v at the winners of z, and the gradient back to them."""

    @staticmethod
    def forward(ctx: Any, v: Any, z: Any, winner: Any, options: Any) -> Any:
        ctx.save_for_backward(z, winner)
        ctx.options = options
        if v.is_contiguous(memory_format=torch.channels_last):  # gather and give back that layout
            rows = v.permute(0, 2, 3, 1).flatten(1, 2)
            at = winner.permute(0, 2, 3, 1)
            return rows.gather(1, at.flatten(1, 2)).view(at.shape).permute(0, 3, 1, 2)
        return v.flatten(2).gather(2, winner.flatten(2)).view(winner.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        z, winner = ctx.saved_tensors
        backward = torch.ops.aten.max_pool2d_with_indices_backward
        return backward(grads[0], z, *ctx.options, winner), None, None, None


def _candidates(v: Tensor, z: Tensor, base: Tensor, kernel: tuple[int, int], alpha: float) -> Any:
    """v + alpha (z - its window's maximum), for windows that tile z."""
    tiled = (base.shape[2], kernel[0], base.shape[3], kernel[1])
    deficit = z.reshape(*z.shape[:2], *tiled) - base[:, :, :, None, :, None]
    # Flat again before v comes in: the gradient of v then passes without a copy.
    return torch.add(v, deficit.reshape(z.shape), alpha=alpha)


def _whole_tiles(z: Pair, kernel: tuple[int, int]) -> Pair:
    """Leave out the rows and columns at the border that fill no window."""
    height, width = z.base.shape[2:]
    if height % kernel[0] == width % kernel[1] == 0:
        return z
    rows, columns = height - height % kernel[0], width - width % kernel[1]
    base, v = (None if t is None else t[:, :, :rows, :columns] for t in z)
    assert base is not None
    return Pair(base, v)


def _max_pool2d(
    alpha: float,
    z: Pair,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> tuple[Pair, Tensor | None, Tensor | None]:
    """Return the pooled pair, its base's winners and its own (None when nothing moved)."""
    kernel, padding, dilation = _two(kernel_size), _two(padding), _two(dilation)
    stride = kernel if stride is None or stride == [] else _two(stride)
    options = (kernel, stride, padding, dilation, ceil_mode)
    tiles = kernel == stride and padding == (0, 0) and dilation == (1, 1) and not ceil_mode
    if tiles:
        z = _whole_tiles(z, kernel)
    base, winner = F.max_pool2d(z.base, *options, return_indices=True)
    v = z.difference
    if v is None:
        return Pair(base), None, None
    if math.isinf(alpha):
        return Pair(base, _Gathered.apply(v, z.base, winner, options)), winner, winner
    if tiles:
        candidates = _candidates(v, z.base, base, kernel, alpha)
        pooled, moved = F.max_pool2d(candidates, kernel, return_indices=True)
        return Pair(base, pooled), winner, moved
    # Windows that overlap have several winners to compare with: one copy of each window.
    where = _windows(z.base.shape, options, base.shape, z.base.device)
    outside = where < 0
    where = where.clamp(min=0)
    shape = (*base.shape[:2], *where.shape)
    inputs = (t.flatten(2)[:, :, where.flatten()].view(shape) for t in (z.base, v))
    z_windows, v_windows = inputs
    deficit = (z_windows - base.flatten(2).unsqueeze(-1)).mul_(alpha)
    candidates = (v_windows + deficit).masked_fill(outside, -math.inf)
    pooled, choice = candidates.max(dim=-1)
    moved = where.expand(shape).gather(-1, choice.unsqueeze(-1)).squeeze(-1)
    return Pair(base, pooled.view_as(base)), winner, moved.view_as(base)


def _windows(shape: Any, options: Any, out_shape: Any, device: Any) -> Tensor:
    """Flat input position of every window entry, (windows, entries), -1 outside the input."""
    kernel, stride, padding, dilation, _ = options
    axes = []
    for i in range(2):
        start = torch.arange(out_shape[2 + i], device=device) * stride[i] - padding[i]
        at = start[:, None] + torch.arange(kernel[i], device=device) * dilation[i]
        axes.append(torch.where((at >= 0) & (at < shape[2 + i]), at, -1))
    rows, columns = axes[0][:, None, :, None], axes[1][None, :, None, :]
    flat = torch.where((rows < 0) | (columns < 0), -1, rows * shape[3] + columns)
    return flat.reshape(out_shape[2] * out_shape[3], kernel[0] * kernel[1])


def _stable(pooled: tuple[Pair, Tensor | None, Tensor | None]) -> Tensor | None:
    _, winner, moved = pooled
    return None if winner is None or moved is None else winner == moved


aten = torch.ops.aten


@exact(aten.max_pool2d_with_indices)
def _max_pool_rule(
    alpha: float, x: Any, kernel: Any, stride: Any = (), *rest: Any, _op: Any = None
) -> list[Pair]:
    if x.base.dim() != 4:
        return generic_difference(_op, alpha, (x, kernel, stride, *rest), {})
    stride = list(stride) or None
    pair, winner, _ = _max_pool2d(alpha, x, kernel, stride, *rest)
    assert winner is not None  # something moves
    return [pair, Pair(winner)]


operation(aten.max_pool2d_with_indices).only_first = True


@gate(aten.max_pool2d_with_indices)
def _max_pool_gate(
    alpha: float, x: Any, kernel: Any, stride: Any = (), *rest: Any, _op: Any = None
) -> Tensor | None:
    if x.base.dim() != 4:
        return _changed_indices(alpha, x, kernel, stride, *rest, _op=_op)
    stride = list(stride) or None
    return _stable(_max_pool2d(alpha, x, kernel, stride, *rest))


@gate(
    aten.max_pool3d_with_indices,
    aten.adaptive_max_pool2d,
    aten.adaptive_max_pool3d,
    aten.max,
    aten.min,
    aten.topk,
    aten.sort,
    aten.median,
    aten.argmax,
    aten.argmin,
)
def _changed_indices(
    alpha: float, x: Any, *args: Any, _op: Any = None, **kwargs: Any
) -> Tensor | None:
    """Where the moved operation chooses the entries that the base chooses."""
    out = generic_difference(_op, alpha, (x, *args), kwargs)
    found = [out] if is_pair(out) else out  # a pair is a tuple, too
    chosen = [p for p in found if not _floats(p)]
    if not chosen:
        return None
    index = chosen[0]
    stable = torch.ones_like(index.base, dtype=torch.bool)
    return stable if index.difference is None else index.difference == 0


def _floats(pair: Pair) -> bool:
    return pair.base.is_floating_point()
