"""Cotangents through products, convolutions, pooling, attention and norms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from tangent.machine.products import product
from tangent.operations.batched import aligned, axis, is_many
from tangent.operations.convolution import input_cotangent
from tangent.operations.cotangents import Pull, cotangent, reduced

__all__ = ["layer_normalized"]

aten = torch.ops.aten


@cotangent(aten.add, aten.sub)
def _add(pull: Pull) -> dict[int, Tensor]:
    scale = pull.kwargs.get("alpha", 1) * (1 if pull.op.overloadpacket == aten.add else -1)
    return {
        i: reduced(pull.d if i == 0 or scale == 1 else pull.d * scale, pull.shape(i))
        for i in pull.wanted
    }


def _both(pull: Pull, position: int) -> Tensor:
    """A factor with an axis for the outputs."""
    a = pull.leaves[position]
    return a.t.unsqueeze(1) if is_many(a) else a


def _matrix(pull: Pull, x: int, y: int) -> dict[int, Tensor]:
    found = {}
    d = pull.d
    if (
        d.dim() == 5
        and is_many(pull.leaves[x])
        and is_many(pull.leaves[y])
        and d.shape[1] <= _OFTEN
    ):
        return _matrices(pull, x, y)
    if x in pull.wanted:
        other = _both(pull, y)
        if other.dim() == 2:
            rows = d.flatten(0, -2)
            found[x] = product(rows, other).view(*d.shape[:-1], other.shape[0])
        else:
            found[x] = d @ other.transpose(-1, -2)
    if y in pull.wanted:
        found[y] = _both(pull, x).transpose(-1, -2) @ d
    return found


_OFTEN = 32  # outputs that are gone through one by one, rather than repeat a factor for each


def _matrices(pull: Pull, x: int, y: int) -> dict[int, Tensor]:
    """Of several products of values (b, t, k) and (b, k, s): outputs lie behind the products."""
    n, o, count, t, s = pull.d.shape
    d = pull.d.transpose(1, 2).reshape(n * count, o, t, s)
    left, right = (pull.leaves[i].t.flatten(0, 1) for i in (x, y))
    k = left.shape[2]
    found = {}
    if x in pull.wanted:
        found[x] = torch.bmm(d.reshape(-1, o * t, s), right.transpose(1, 2)).view(-1, o, t, k)
    if y in pull.wanted:
        found[y] = d.new_empty(n * count, o, k, s)
        for a in range(o):
            torch.bmm(left.transpose(1, 2), d[:, a], out=found[y][:, a])
    return {i: c.unflatten(0, (n, count)).transpose(1, 2) for i, c in found.items()}


@cotangent(aten.mm, aten.bmm, fresh=True)
def _product(pull: Pull) -> dict[int, Tensor]:
    return _matrix(pull, 0, 1)


@cotangent(aten.addmm, aten.baddbmm, fresh=True, but=(0,))
def _added_product(pull: Pull) -> dict[int, Tensor] | None:
    kwargs = pull.kwargs
    if kwargs.get("alpha", 1) != 1 or kwargs.get("beta", 1) != 1:
        return None
    found = _matrix(pull, 1, 2)
    if 0 in pull.wanted:
        found[0] = reduced(pull.d, pull.shape(0))
    return found


@cotangent(aten.relu, fresh=True)
def _relu(pull: Pull) -> dict[int, Tensor]:
    mask = (pull.result() > 0).to(pull.d.dtype)
    return {0: pull.d.mul_(mask) if pull.mine else pull.d * mask}


@cotangent(aten._prelu_kernel)
def _prelu(pull: Pull) -> dict[int, Tensor]:
    x, weight = (a.unsqueeze(1) if is_many(b) else a for a, b in _aligned_pairs(pull))
    slopes = {0: torch.where(x > 0, torch.ones_like(x), weight), 1: x.clamp(max=0)}
    return {i: reduced(pull.d * slopes[i], pull.shape(i)) for i in pull.wanted}


def _aligned_pairs(pull: Pull) -> list[tuple[Tensor, Any]]:
    return list(zip(aligned(pull.args), pull.args, strict=True))


@cotangent(aten.convolution, fresh=True)
def _convolution(pull: Pull) -> dict[int, Tensor] | None:
    x, weight, _, stride, padding, dilation, transposed, output_padding, groups = pull.args
    if pull.wanted != [0] or is_many(weight) or not is_many(x):
        return None
    n, o = pull.d.shape[:2]
    merged = pull.d.flatten(0, 2)
    dims = weight.dim() - 2
    if not transposed and dims <= 2:
        g = {
            "input": x.t.flatten(0, 1), "weight": weight, "stride": _tuple(stride, dims),
            "padding": _tuple(padding, dims), "dilation": _tuple(dilation, dims),
            "groups": groups,
        }  # fmt: skip
        back = input_cotangent(g, merged, pull.shared)
    else:
        big = x.t.new_empty(1).expand(len(merged), *x.t.shape[2:])
        back = aten.convolution_backward(
            merged, big, weight, None, stride, padding, dilation, transposed, output_padding,
            groups, [True, False, False],
        )[0]  # fmt: skip
    return {0: back.unflatten(0, (n, o, -1))}


def _tuple(values: Sequence[int], dims: int) -> tuple[int, ...]:
    values = tuple(values)
    return values * dims if len(values) == 1 else values


@cotangent(aten.max_pool2d_with_indices, fresh=True)
def _max_pool(pull: Pull) -> dict[int, Tensor] | None:
    x, window = pull.args[:2]
    if not is_many(x) or x.dims != 4:
        return None
    options = dict(zip(("stride", "padding", "dilation", "ceil"), pull.args[2:], strict=False))
    window = list(_tuple(window, 2))
    step = list(_tuple(options.get("stride") or window, 2))
    padding, dilation = (list(_tuple(_listed(options.get(k, v)), 2)) for k, v in _DEFAULTS)
    n, o = pull.d.shape[:2]
    winners = pull.result(1)
    index = winners.expand(n, o, *winners.shape[2:])
    shape = x.t.shape[1:]
    if window == step and padding == [0, 0] and dilation == [1, 1]:
        # Windows that share no position: every value has one place to go to.
        back = pull.d.new_zeros(n, o, *shape[:2], shape[2] * shape[3])
        back.scatter_(4, index.flatten(4), pull.d.flatten(4))
        return {0: back.unflatten(4, shape[2:])}
    ceil = bool(options.get("ceil", False))
    big = x.t.unsqueeze(1).expand(n, o, *shape).flatten(0, 2)
    back = aten.max_pool2d_with_indices_backward(
        pull.d.flatten(0, 2), big, window, step, padding, dilation, ceil, index.flatten(0, 2)
    )
    return {0: back.unflatten(0, (n, o, -1))}


_DEFAULTS = (("padding", 0), ("dilation", 1))


def _listed(value: Any) -> Sequence[int]:
    return (value,) if isinstance(value, int) else value


@cotangent(
    aten.avg_pool2d, aten._adaptive_avg_pool2d, aten.upsample_bilinear2d, aten.upsample_nearest2d
)
def _linear_map(pull: Pull) -> dict[int, Tensor] | None:
    """Linear, and the same for every member of a merged batch."""
    x = pull.args[0]
    if pull.wanted != [0] or not is_many(x) or x.dims != 4:
        return None
    n, o = pull.d.shape[:2]
    merged = pull.d.flatten(0, 2)
    big = x.t.new_empty(1).expand(len(merged), *x.t.shape[2:])
    rest = pull.args[1:]
    _, back = vjp(lambda v: pull.op(v, *rest, **pull.kwargs), big)
    return {0: back(merged)[0].unflatten(0, (n, o, -1))}


@cotangent(aten._softmax, aten._safe_softmax, fresh=True)
def _softmax(pull: Pull) -> dict[int, Tensor]:
    p = pull.result()
    dim = axis(pull.args[1], p.dim() - 2) + 1
    weighed = pull.d.mul_(p) if pull.mine else pull.d * p
    return {0: weighed.addcmul_(p, weighed.sum(dim, keepdim=True), value=-1)}


@cotangent(aten.native_batch_norm, fresh=True)
def _batch_norm(pull: Pull) -> dict[int, Tensor] | None:
    x, weight, _, mean, variance, training, _, eps = pull.args
    fixed = not any(is_many(a) for a in (weight, mean, variance))
    if training or pull.wanted != [0] or not fixed or not is_many(x):
        return None
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    return {0: pull.d * scale.view(-1, *(1,) * (x.dims - 2))}


def normalized_back(d: Tensor, plain: Tensor, rate: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Cotangent of x where plain = (x - mean) rate, the mean and variance over ``dims``."""
    inner = (d * plain).mean(dims, keepdim=True)
    return (d - d.mean(dims, keepdim=True) - plain * inner) * rate


@cotangent(aten.native_layer_norm, fresh=True)
def _layer_norm(pull: Pull) -> dict[int, Tensor] | None:
    x, shape, weight, _, _ = pull.args
    if pull.wanted != [0] or is_many(weight) or not is_many(x):
        return None
    plain, rate = (t.unsqueeze(1) for t in layer_normalized(pull))
    scale = rate if weight is None else rate * weight
    d = pull.d.mul_(scale) if pull.mine else pull.d * scale
    dims = tuple(range(-len(shape), 0))
    mean, inner = d.mean(dims, keepdim=True), (d * plain).mean(dims, keepdim=True)
    return {0: d.addcmul_(plain, inner, value=-1).sub_(mean)}


def layer_normalized(pull: Pull) -> tuple[Tensor, Tensor]:
    """The normalized values of a layer norm and the rate that made them, once for a call."""
    if "normalized" not in pull.made:
        x, shape, _, _, eps = pull.args
        dims = tuple(range(-len(shape), 0))
        variance, mean = torch.var_mean(x.t, dims, correction=0, keepdim=True)
        rate = (variance + eps).rsqrt()
        pull.made["normalized"] = (x.t - mean).mul_(rate), rate
    return pull.made["normalized"]


@cotangent(aten.native_group_norm, fresh=True)
def _group_norm(pull: Pull) -> dict[int, Tensor] | None:
    x, weight, _, count, _, _, groups, eps = pull.args
    if pull.wanted != [0] or is_many(weight) or not is_many(x):
        return None
    n, o = pull.d.shape[:2]
    grouped = x.t.reshape(n, count, groups, -1)
    variance, mean = torch.var_mean(grouped, -1, correction=0, keepdim=True)
    rate = (variance + eps).rsqrt()
    plain = ((grouped - mean) * rate).unsqueeze(1)
    d = pull.d
    if weight is not None:
        d = d * weight.view(-1, *(1,) * (x.dims - 2))
    d = d.reshape(n, o, count, groups, -1)
    return {0: normalized_back(d, plain, rate.unsqueeze(1), (-1,)).reshape(pull.d.shape)}
