"""Operations of one input run on many: values of what depends on the inputs have an axis in front.

A network is recorded on one input. Values that depend on it are then held as (n, *shape), others
as they are, so that no operation can mix the inputs of a batch, and nobody has to guess which
axis they lie along.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from tangent.operations.arguments import flattened, leaves_of, over_leaves, rebuilt
from tangent.operations.table import entry, operation

__all__ = ["Many", "elementwise", "is_many", "run_batched", "tensors_in"]

aten = torch.ops.aten


class Many:
    """A value with an axis of inputs in front."""

    __slots__ = ("t",)

    def __init__(self, t: Tensor):
        self.t = t

    @property
    def dims(self) -> int:
        """Number of axes of one input's value."""
        return self.t.dim() - 1


def is_many(value: Any) -> bool:
    """Whether ``value`` has an axis of inputs."""
    return type(value) is Many


def run_batched(op: Any, args: tuple, kwargs: dict) -> list[Tensor]:
    """Return an operation's results, with the axis of inputs in front of each."""
    rule = entry(op).batched
    out = None
    if rule is not None:
        out = rule(*args, **kwargs)
    elif elementwise(op):
        out = op(*aligned(args), **kwargs)
    if out is None:
        out = mapped(op, args, kwargs)
    return tensors_in(out)


def tensors_in(result: Any) -> list[Tensor]:
    """The tensors that an operation returned, in their order."""
    if isinstance(result, Tensor):
        return [result]
    return [t for t in leaves_of(result) if isinstance(t, Tensor)]


def elementwise(op: Any) -> bool:
    """Whether an operation acts entry by entry."""
    packet = getattr(op, "overloadpacket", None)
    return torch.Tag.pointwise in getattr(op, "tags", ()) or packet in _ELEMENTWISE


_ELEMENTWISE = {aten.hardswish, aten.hardsigmoid, aten._to_copy}


def aligned(args: tuple) -> tuple:
    """Arguments of an elementwise operation, so that they broadcast behind the axis of inputs."""
    leaves = leaves_of(args)
    dims = max((_dims(a) for a in leaves if is_many(a) or isinstance(a, Tensor)), default=0)

    def plain(a: Any) -> Any:
        if not is_many(a):
            return a
        if a.dims == dims:
            return a.t
        return a.t.reshape(len(a.t), *(1,) * (dims - a.dims), *a.t.shape[1:])

    return over_leaves(plain, args)


def _dims(a: Any) -> int:
    return a.dims if is_many(a) else a.dim()


def mapped(op: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
    """By vmap; input by input where that has no rule."""
    leaves, structure = flattened((args, kwargs))
    many = [i for i, a in enumerate(leaves) if is_many(a)]

    def one(*values: Tensor) -> Any:
        given = list(leaves)
        for i, value in zip(many, values, strict=True):
            given[i] = value
        a, k = rebuilt(given, structure)
        return op(*a, **k)

    tensors = [leaves[i].t for i in many]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return vmap(one)(*tensors)
    except (RuntimeError, ValueError):
        results = [one(*(t[i] for t in tensors)) for i in range(len(tensors[0]))]
        flat = [leaves_of(r) for r in results]
        stacked = [
            torch.stack(column) if isinstance(column[0], Tensor) else column[0]
            for column in zip(*flat, strict=True)
        ]
        return rebuilt(stacked, flattened(results[0])[1])


def batched(*ops: Any) -> Callable[[Callable], Callable]:
    """Decorate what runs some operations on `Many` values; None leaves it to vmap."""

    def decorator(rule: Callable) -> Callable:
        for op in ops:
            operation(op).batched = rule
        return rule

    return decorator


def axis(dim: int, dims: int) -> int:
    """Position of one input's axis behind the axis of inputs."""
    return dim % dims + 1 if dims else 1


@batched(aten.view, aten._unsafe_view, aten.reshape)
def _view(x: Any, size: Any) -> Any:
    return x.t.reshape(len(x.t), *size) if isinstance(size, list | tuple) else None


@batched(aten.clone)
def _clone(x: Any, **kwargs: Any) -> Any:
    return x.t


@batched(aten.t)
def _t(x: Any) -> Any:
    return x.t.transpose(1, 2) if x.dims == 2 else x.t


@batched(aten.transpose)
def _transpose(x: Any, a: int, b: int) -> Any:
    return x.t.transpose(axis(a, x.dims), axis(b, x.dims))


@batched(aten.permute)
def _permute(x: Any, order: Any) -> Any:
    return x.t.permute(0, *(axis(d, x.dims) for d in order))


@batched(aten.unsqueeze)
def _unsqueeze(x: Any, dim: int) -> Any:
    return x.t.unsqueeze(axis(dim, x.dims + 1))


@batched(aten.expand)
def _expand(x: Any, size: Any, **kwargs: Any) -> Any:
    lead = (1,) * (len(size) - x.dims)
    return x.t.reshape(len(x.t), *lead, *x.t.shape[1:]).expand(len(x.t), *size)


@batched(aten.select)
def _select(x: Any, dim: int, index: int) -> Any:
    return x.t.select(axis(dim, x.dims), index)


@batched(aten.slice)
def _slice(x: Any, dim: Any = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    return aten.slice(x.t, axis(dim, x.dims), start, end, step)


@batched(aten.unbind)
def _unbind(x: Any, dim: int = 0) -> Any:
    return x.t.unbind(axis(dim, x.dims))


@batched(aten.split, aten.split_with_sizes, aten.unsafe_split, aten.unsafe_split_with_sizes)
def _split(x: Any, sizes: Any, dim: int = 0) -> Any:
    return x.t.split(sizes, axis(dim, x.dims))


@batched(aten.stack)
def _stack(tensors: Any, dim: int = 0) -> Any:
    n = next(len(a.t) for a in tensors if is_many(a))
    whole = [a.t if is_many(a) else a.expand(n, *a.shape) for a in tensors]
    return torch.stack(whole, axis(dim, whole[0].dim()))


@batched(aten._softmax)
def _softmax(x: Any, dim: int, half: Any = False) -> Any:
    return None if half else x.t.softmax(axis(dim, x.dims))


@batched(aten.cat)
def _cat(tensors: Any, dim: int = 0) -> Any:
    n = next(len(a.t) for a in tensors if is_many(a))
    # torch leaves out tensors of shape (0,), whatever the others' axes
    filled = [a for a in tensors if is_many(a) or a.shape != (0,)]
    tensors = [a for a in filled if not is_many(a) or a.t.shape[1:] != (0,)] or tensors
    whole = [a.t if is_many(a) else a.expand(n, *a.shape) for a in tensors]
    return torch.cat(whole, axis(dim, whole[0].dim() - 1))


@batched(aten.convolution)
def _convolution(x: Any, weight: Any, bias: Any, *options: Any) -> Any:
    if not is_many(x) or is_many(weight) or is_many(bias):
        return None
    n = len(x.t)
    out = aten.convolution(x.t.flatten(0, 1), weight, bias, *options)
    return out.unflatten(0, (n, -1))


def _product(x: Any, y: Any) -> Tensor:
    if is_many(x) and not is_many(y) and y.dim() == 2:
        return (x.t.flatten(0, -2) @ y).unflatten(0, x.t.shape[:-1])
    return torch.matmul(*(a.t if is_many(a) else a for a in (x, y)))


batched(aten.mm, aten.bmm)(_product)


@batched(aten.addmm, aten.baddbmm)
def _added_product(bias: Any, x: Any, y: Any, *, beta: Any = 1, alpha: float = 1) -> Any:
    rows = is_many(x) and not is_many(y) and not is_many(bias) and y.dim() == 2
    if beta == alpha == 1 and rows and bias.dim() == 1:
        return torch.addmm(bias, x.t.flatten(0, -2), y).unflatten(0, x.t.shape[:-1])
    product = _product(x, y)
    if is_many(bias):
        lead = (1,) * (product.dim() - bias.t.dim())
        bias = bias.t.reshape(len(bias.t), *lead, *bias.t.shape[1:])
    return beta * bias + alpha * product


def _merged(*ops: Any) -> None:
    """Operations whose first axis is already one of inputs."""
    for op in ops:

        def rule(x: Any, *args: Any, _op: Any = op, **kwargs: Any) -> Any:
            if not is_many(x) or any(is_many(a) for a in args) or x.t.dim() < 4:
                return None
            n = len(x.t)
            out = _op(x.t.flatten(0, 1), *args, **kwargs)
            return over_leaves(lambda t: t.unflatten(0, (n, -1)), out)

        operation(op).batched = rule


_merged(
    aten.max_pool2d_with_indices,
    aten.avg_pool2d,
    aten._adaptive_avg_pool2d,
    aten.upsample_bilinear2d,
    aten.upsample_nearest2d,
    aten.constant_pad_nd,
)


@batched(aten.native_batch_norm)
def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: Any, momentum: Any, eps: Any
) -> Any:
    if training or not is_many(x) or any(is_many(a) for a in (weight, bias, mean, variance)):
        return None
    merged = x.t.flatten(0, 1)
    out = aten.native_batch_norm(merged, weight, bias, mean, variance, False, momentum, eps)
    return out[0].unflatten(0, (len(x.t), -1)), out[1], out[2]


@batched(aten.native_layer_norm)
def _layer_norm(x: Any, shape: Any, weight: Any, bias: Any, eps: Any) -> Any:
    if not is_many(x) or is_many(weight) or is_many(bias):
        return None
    return aten.native_layer_norm(x.t, shape, weight, bias, eps)


@batched(aten._prelu_kernel)
def _prelu(x: Any, weight: Any) -> Any:
    # torch's own kernel does not broadcast as others do
    x, weight = aligned((x, weight))
    return torch.where(x > 0, x, weight * x)


@batched(aten.embedding)
def _embedding(weight: Any, index: Any, *rest: Any) -> Any:
    if is_many(weight):
        return None
    return aten.embedding(weight, index.t, *rest)


@batched(aten._embedding_bag)
def _embedding_bag(weight: Any, index: Any, offsets: Any, *how: Any) -> Any:
    """All inputs' bags one after the other; only those without a last offset of no bag."""
    by_frequency, mode, sparse, factors, ends, padding = (*how, *BAGS[len(how) :])
    if is_many(weight) or is_many(offsets) or not is_many(index) or ends:
        return None
    n, each = index.t.shape
    shifts = torch.arange(n, device=offsets.device, dtype=offsets.dtype) * each
    if factors is not None:
        factors = (factors.t if is_many(factors) else factors.expand(n, each)).flatten()
    rest = by_frequency, mode, sparse, factors, False, padding
    starts = (shifts[:, None] + offsets).flatten()
    rows, *others = aten._embedding_bag(weight, index.t.flatten(), starts, *rest)
    bag_of, *others = [t.unflatten(0, (n, -1)) if t.numel() else t.expand(n, 0) for t in others]
    bag_of = bag_of - shifts[:, None] // max(1, each) * len(offsets)  # of an input's own
    return [rows.unflatten(0, (n, -1)), bag_of, *others]


BAGS = (False, 0, False, None, False, -1)  # what a bag of embeddings is told where nothing is said
