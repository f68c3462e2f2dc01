"""Strided convolutions with a window of one position, as products with the subsampled input.

A 1x1 convolution with stride s reads every s-th position and no other: it is the convolution of
the subsampled input with stride 1, exactly, and cheaper. torch 2.14.1 (oneDNN 3.12) makes it a
duty: on CPUs with AVX2 only, the backward pass of the strided one with channels last and few
channels writes beyond its memory (``free(): invalid next size``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from tangent.operations.prelu import elementary_prelu
from tangent.operations.single import ordered_norm

__all__ = ["Differentiable", "SubsampledPointwise", "called", "subsampled"]

_NORMS = (torch.batch_norm, F.batch_norm, torch.instance_norm, F.instance_norm)
_CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


def subsampled(
    x: Tensor, weight: Tensor, stride: int | Sequence[int], padding: object, window_dims: int
) -> Tensor | None:
    """The positions of ``x`` that the convolution reads, where its window is one position.

    Parameters
    ----------
    x : Tensor of shape (n, c, *positions) or (c, *positions)
    weight : Tensor of shape (o, c / groups, *window)
    stride, padding
        As torch's convolutions take them.
    window_dims : int
        Number of axes of positions.

    Returns
    -------
    Tensor or None
        A view of ``x`` for the convolution with stride 1; None where the convolution is of
        another kind.
    """
    strides = (stride,) * window_dims if isinstance(stride, int) else tuple(stride)
    if len(strides) == 1:
        strides *= window_dims
    if all(s == 1 for s in strides) or any(size != 1 for size in weight.shape[-window_dims:]):
        return None
    if isinstance(padding, Sequence) and not isinstance(padding, str):
        unpadded = all(p == 0 for p in padding)
    else:
        unpadded = padding in (0, "valid")
    if not unpadded:
        return None
    for axis, step in enumerate(strides, start=x.ndim - window_dims):
        x = x[(slice(None),) * axis + (slice(None, None, step),)]
    return x


class SubsampledPointwise(TorchFunctionMode):
    """Within it, a strided convolution with a window of one position is made of its subsample."""

    ways: ClassVar[dict[Any, Callable[..., Any]]] = {}  # what is led around: way(func, *args)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        way = self.ways.get(func)
        if way is not None:
            return way(func, *args, **(kwargs or {}))
        return func(*args, **kwargs) if kwargs else func(*args)


def _without_stride(  # named as torch's convolutions name them
    func: Any, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: Any = 1,
) -> Any:  # fmt: skip
    part = subsampled(input, weight, stride, padding, _CONVOLUTIONS[func])
    if part is None:
        return func(input, weight, bias, stride, padding, dilation, groups)
    return func(part, weight, bias, 1, 0, 1, groups)


SubsampledPointwise.ways = dict.fromkeys(_CONVOLUTIONS, _without_stride)


class Differentiable(SubsampledPointwise):
    """Within it, what torch differentiates wrongly or not at all is computed in another way."""

    ways: ClassVar = {
        **SubsampledPointwise.ways,
        **dict.fromkeys((torch.prelu, Tensor.prelu), elementary_prelu),
        **dict.fromkeys(_NORMS, ordered_norm),
    }


def called(
    model: nn.Module,
    tensors: Mapping[str, Tensor] | None,
    args: tuple[object, ...],
    kwargs: Mapping[str, object] | None = None,
) -> Tensor:
    """The model's output with other parameters and buffers, to be differentiated safely.

    Parameters
    ----------
    model : nn.Module
    tensors : mapping of str to Tensor, or None
        As `torch.func.functional_call` takes them; None leaves the model's own.
    args, kwargs
        The model's arguments.
    """
    with Differentiable():
        if tensors is None:
            return model(*args, **(kwargs or {}))
        return functional_call(model, dict(tensors), args, dict(kwargs or {}))
