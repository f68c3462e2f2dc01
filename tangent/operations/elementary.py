"""Operations that torch differentiates once alone, or twice and wrongly, made of others.

torch 2.14.1 has no derivative of the gradient of ``embedding_bag`` and ``hardsigmoid``, and a wrong
one of ``_weight_norm``. Twice forwards, or backwards through forwards, it is silently wrong about
what normalizes by the statistics of its input (layer, instance and batch norm: their mean and
variance count as constants), about some of linear algebra and, once forwards already, about
products by index, and has none of ``glu`` and distances, whose gradients of many outputs at once
are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from tangent.operations.algebra import ALGEBRA

__all__ = ["TwiceBackwards", "TwiceForwards", "twice_differentiable"]


def _bags(
    input: Tensor, weight: Tensor, offsets: Tensor | None = None, max_norm: float | None = None,
    norm_type: float = 2, scale_grad_by_freq: bool = False, mode: str = "mean",
    sparse: bool = False, per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False, padding_idx: int | None = None,
) -> Tensor | None:  # fmt: skip
    """Rows that are looked up and summed, averaged or compared, where bags have equal lengths."""
    plain = offsets is None and max_norm is None and padding_idx is None
    if input.ndim != 2 or not plain or scale_grad_by_freq:
        return None
    rows = F.embedding(input, weight)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    if mode == "max":
        return rows.amax(1)
    return rows.mean(1) if mode == "mean" else rows.sum(1)


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor | None:
    return None if inplace else (input / 6 + 0.5).clamp(0, 1)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    axes = [axis for axis in range(v.ndim) if axis != dim % v.ndim]
    return v * (g / v.square().sum(axes, keepdim=True).sqrt())


def _normalized(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()


def _layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, cudnn_enable: bool = True,
) -> Tensor:  # fmt: skip
    out = _normalized(input, tuple(range(-len(normalized_shape), 0)), eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def _by_channel(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (-1, *[1] * (x.ndim - 2))
    x = x if weight is None else x * weight.reshape(shape)
    return x if bias is None else x + bias.reshape(shape)


def _instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5, cudnn_enabled: bool = True,
) -> Tensor | None:  # fmt: skip
    if not use_input_stats or running_mean is not None:
        return None
    return _by_channel(_normalized(input, tuple(range(2, input.ndim)), eps), weight, bias)


def _batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor | None:  # fmt: skip
    """By the statistics of the batch; running ones are no function of the input."""
    if not training or running_mean is not None:
        return None
    axes = (0, *range(2, input.ndim))
    return _by_channel(_normalized(input, axes, eps), weight, bias)


def _batch_norm_of_torch(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, training: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Tensor | None:  # fmt: skip
    return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _instance_norm_of_torch(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, use_input_stats: bool, momentum: float, eps: float,
    cudnn_enabled: bool,
) -> Tensor | None:  # fmt: skip
    return _instance_norm(
        input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    )


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    return value * torch.sigmoid(gate)


def _distances(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def _scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor | None:  # fmt: skip
    """Products by index, each of a row of the values it is made of: rows times values numbers."""
    if reduce != "prod" or not input.ndim or src.shape != index.shape:
        return None
    dim %= input.ndim
    reached = tuple(slice(n if i != dim else None) for i, n in enumerate(index.shape))
    part, whole = input[reached], input.clone()
    rows = torch.arange(part.shape[dim], device=index.device)
    goes = index.movedim(dim, -1).unsqueeze(-2) == rows.unsqueeze(-1)
    made = torch.where(goes, src.movedim(dim, -1).unsqueeze(-2), 1).prod(-1).movedim(-1, dim)
    if include_self:
        whole[reached] = part * made
    else:
        whole[reached] = torch.where(goes.any(-1).movedim(-1, dim), made, part)
    return whole


def _scatter_reduce_in_place(input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    made = _scatter_reduce(input.clone(), *args, **kwargs)
    return None if made is None else input.copy_(made)


Made = Callable[..., "Tensor | None"]

_BACKWARDS: dict[Any, Made] = {
    F.embedding_bag: _bags,
    F.hardsigmoid: _hardsigmoid,
    torch._weight_norm: _weight_norm,
}
_FORWARDS: dict[Any, Made] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.instance_norm: _instance_norm,
    torch.instance_norm: _instance_norm_of_torch,
    F.batch_norm: _batch_norm,
    torch.batch_norm: _batch_norm_of_torch,
    F.glu: _glu,
    torch.cdist: _distances,
    torch.scatter_reduce: _scatter_reduce,
    torch.Tensor.scatter_reduce: _scatter_reduce,
    torch.Tensor.scatter_reduce_: _scatter_reduce_in_place,
    **ALGEBRA,
}


class _Elementary(TorchFunctionMode):
    table: dict[Any, Made]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.table:
            found = self.table[func](*args, **kwargs)
            if found is not None:
                return found
        return func(*args, **kwargs)


class TwiceBackwards(_Elementary):
    """Within it, gradients have gradients: bags of embeddings, hardsigmoid, weight norm."""

    table = _BACKWARDS


class TwiceForwards(_Elementary):
    """Within it, ``jvp`` may stand within ``jvp``: norms, GLU, distances, algebra, products."""

    table = _FORWARDS


def twice_differentiable(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same function, to be differentiated twice in whatever order.

    Attention takes the path that torch differentiates, which holds its weights.
    """

    def of_elementary_operations(*args: Any) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH), TwiceBackwards(), TwiceForwards():
            return function(*args)

    return of_elementary_operations
