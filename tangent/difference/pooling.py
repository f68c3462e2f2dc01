"""Rules for max pooling: u = max_j (v_j + alpha (z_j - z_{j*})), j* the base's winner.

z_j - z_{j*} is a difference of neighbours: exact in floating point where they nearly tie, and
harmless where they do not, since such a j cannot win.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tangent.difference.pair import Pair, register_gate, register_rule

__all__: list[str] = []


def _two(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _max_pool2d(
    alpha: float, z: Pair, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False
) -> tuple[Pair, Tensor | None]:
    """Return the pooled pair and where the winner stayed the base's (None when nothing moved)."""
    if z.base.dim() != 4:
        raise ValueError(f"max pooling takes (n, c, h, w); got shape {tuple(z.base.shape)}")
    kernel, padding, dilation = _two(kernel_size), _two(padding), _two(dilation)
    stride = kernel if stride is None or stride == [] else _two(stride)
    options = (kernel, stride, padding, dilation, ceil_mode)
    base, winner = F.max_pool2d(z.base, *options, return_indices=True)
    v = z.difference
    if v is None:
        return Pair(base), None
    if math.isinf(alpha):
        pooled = v.flatten(2).gather(2, winner.flatten(2)).view_as(base)
        return Pair(base, pooled), torch.ones_like(winner, dtype=torch.bool)
    tiles = kernel == stride and padding == (0, 0) and dilation == (1, 1) and not ceil_mode
    if tiles:
        best = _spread(base, kernel, z.base.shape[-2:])
        deficit = torch.sub(z.base, best).mul_(alpha)
        pooled, moved = F.max_pool2d(v + deficit, *options, return_indices=True)
        return Pair(base, pooled), moved == winner
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
    return Pair(base, pooled.view_as(base)), moved.view_as(base) == winner


def _spread(base: Tensor, kernel: tuple[int, int], size: torch.Size) -> Tensor:
    """Each window's maximum at every position of the window; borders no window covers get any."""
    spread = base.repeat_interleave(kernel[0], 2).repeat_interleave(kernel[1], 3)
    rest = (size[1] - spread.shape[3], size[0] - spread.shape[2])
    return F.pad(spread, (0, rest[0], 0, rest[1])) if any(rest) else spread


def _windows(shape, options, out_shape, device) -> Tensor:
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


@register_gate(nn.MaxPool2d)
def _max_pool2d_module_gate(alpha, module, weights, x) -> Tensor | None:
    options = (module.kernel_size, module.stride, module.padding, module.dilation)
    return _max_pool2d(alpha, x, *options, module.ceil_mode)[1]


@register_gate(F.max_pool2d, torch.max_pool2d)
def _max_pool2d_function_gate(alpha, input, *args, **kwargs) -> Tensor | None:
    return _max_pool2d(alpha, input, *args, **kwargs)[1]


@register_rule(nn.MaxPool2d)
def _max_pool2d_module(alpha, module, weights, x) -> Pair:
    if module.return_indices:
        raise ValueError("return_indices=True is not supported; leave it False")
    options = (module.kernel_size, module.stride, module.padding, module.dilation)
    return _max_pool2d(alpha, x, *options, module.ceil_mode)[0]


@register_rule(F.max_pool2d, torch.max_pool2d)
def _max_pool2d_function(
    alpha, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, **kwargs
) -> Pair:
    if kwargs.get("return_indices"):
        raise ValueError("return_indices=True is not supported; leave it False")
    return _max_pool2d(alpha, input, kernel_size, stride, padding, dilation, ceil_mode)[0]


@register_rule(nn.AdaptiveMaxPool2d)
def _adaptive_max_pool2d_module(alpha, module, weights, x) -> Pair:
    return _adaptive_max_pool2d(alpha, x, module.output_size)


@register_rule(F.adaptive_max_pool2d)
def _adaptive_max_pool2d(alpha, input, output_size, return_indices=False) -> Pair:
    size = tuple(input.base.shape[-2:])
    out = tuple(s if o is None else o for s, o in zip(size, _two(output_size), strict=True))
    if any(s % o for s, o in zip(size, out, strict=True)):
        raise ValueError(
            f"adaptive max pooling needs an output size that divides the input; got {size} to "
            f"{out}; take nn.MaxPool2d with a kernel and stride of your choice"
        )
    kernel = tuple(s // o for s, o in zip(size, out, strict=True))
    return _max_pool2d(alpha, input, kernel)[0]
