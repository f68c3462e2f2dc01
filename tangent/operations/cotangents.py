"""Cotangents of an operation's arguments from those of its results, all outputs at once.

A value of one input of shape s has cotangents of shape (n, o, *s), o the number of them that
travel together; so has a value that is made of weights alone, input by input. Rules get the
operation's arguments as they were (`Many` where there is an axis of inputs), its results, the
cotangents, and which arguments want theirs, by position among the flattened ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from tangent.operations.batched import aligned, axis, elementwise, is_many
from tangent.operations.convolution import input_cotangent
from tangent.operations.table import entry, operation

__all__ = ["Pull", "pulled"]

aten = torch.ops.aten


@dataclass
class Pull:
    """One call on its way back."""

    op: Any
    leaves: list[Any]  # flattened arguments
    structure: Any
    results: list[Any]
    cotangents: list[Tensor | None]  # of the results, (n, o, *shape)
    wanted: list[int]  # positions among the leaves
    shared: dict[Any, Any] = field(default_factory=dict)  # made of weights alone
    mine: bool = False  # whether the cotangent's memory is nobody else's

    @property
    def d(self) -> Tensor:
        """The cotangent of the first result."""
        d = self.cotangents[0]
        assert d is not None
        return d

    @property
    def args(self) -> tuple:
        """Positional arguments as they were given."""
        return tree_unflatten(self.leaves, self.structure)[0]

    @property
    def kwargs(self) -> dict:
        """Keyword arguments as they were given."""
        return tree_unflatten(self.leaves, self.structure)[1]

    @property
    def single(self) -> bool:
        """Whether the first result alone has a cotangent."""
        return self.cotangents[0] is not None and all(c is None for c in self.cotangents[1:])

    @property
    def complex(self) -> bool:
        """Whether complex numbers take part: their conventions are torch's."""
        plain = (a.t if is_many(a) else a for a in (*self.leaves, *self.results))
        return any(isinstance(t, Tensor) and t.is_complex() for t in plain)

    def result(self, position: int = 0) -> Tensor:
        """A result with axes for the inputs and the outputs, (n or 1, 1, *shape)."""
        r = self.results[position]
        return r.t.unsqueeze(1) if is_many(r) else r[None, None]

    def shape(self, position: int) -> tuple[int, ...]:
        """Shape of one input's value of an argument."""
        a = self.leaves[position]
        return tuple(a.t.shape[1:]) if is_many(a) else tuple(a.shape)


Rule = Callable[[Pull], dict[int, Tensor] | None]


def pulled(pull: Pull) -> dict[int, Tensor]:
    """Return the cotangents of the wanted arguments, by their position."""
    if pull.complex:
        return _generic(pull)
    rule = entry(pull.op).cotangent
    if rule is not None and (pull.single or rule in SEVERAL):
        out = rule(pull)
        if out is not None:
            return out
    if elementwise(pull.op) and pull.single:
        return _elementwise(pull)
    return _generic(pull)


def cotangent(*ops: Any, fresh: bool = False) -> Callable[[Rule], Rule]:
    """Decorate the rule of some operations; None leaves a call to the general ones."""

    def decorator(rule: Rule) -> Rule:
        for op in ops:
            operation(op).cotangent = rule
        if fresh:
            FRESH.add(rule)
        return rule

    return decorator


SEVERAL: set[Rule] = set()  # rules that take the cotangents of all results
FRESH: set[Rule] = set()  # rules whose result is always new memory


def reduced(d: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum over what was broadcast: from (n, o, *out) to (n, o, *shape)."""
    extra = d.dim() - 2 - len(shape)
    if extra:
        d = d.sum(dim=tuple(range(2, 2 + extra)))
    wide = [i + 2 for i, size in enumerate(shape) if size == 1 and d.shape[i + 2] != 1]
    return d.sum(dim=wide, keepdim=True) if wide else d


def _elementwise(pull: Pull) -> dict[int, Tensor]:
    """Of any elementwise operation: cotangents times its partial derivatives."""
    args, kwargs = tree_unflatten(pull.leaves, pull.structure)
    plain = list(tree_flatten((aligned(args), kwargs))[0])
    shape = pull.result().squeeze(1).shape
    at = {}
    for i in pull.wanted:
        value = plain[i] if is_many(pull.leaves[i]) else plain[i].expand(shape[1:])
        at[i] = plain[i] = value.expand(shape).detach().requires_grad_()
    with torch.enable_grad():
        given, named = tree_unflatten(plain, pull.structure)
        out = pull.op(*given, **named)
        first = out if isinstance(out, Tensor) else out[0]
        slopes = torch.autograd.grad(
            first, list(at.values()), torch.ones_like(first), allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
    return {
        i: reduced(pull.d * slope.unsqueeze(1), pull.shape(i))
        for i, slope in zip(at, slopes, strict=True)
    }


def _generic(pull: Pull) -> dict[int, Tensor]:
    """By torch.func, input by input and output by output."""
    many = [i for i, a in enumerate(pull.leaves) if is_many(a)]
    positions = sorted({*many, *pull.wanted})
    values = [a.t if is_many(a) else a for a in (pull.leaves[i] for i in positions)]
    in_dims = tuple(0 if i in many else None for i in positions)
    given = [i for i, c in enumerate(pull.cotangents) if c is not None]
    cotangents = tuple(pull.cotangents[i] for i in given)

    def back(cots: tuple, *tensors: Tensor) -> tuple[Tensor, ...]:
        fixed = list(pull.leaves)
        for i, t in zip(positions, tensors, strict=True):
            fixed[i] = t

        def forward(*wanted: Tensor) -> tuple[Tensor, ...]:
            leaves = list(fixed)
            for i, t in zip(pull.wanted, wanted, strict=True):
                leaves[i] = t
            a, k = tree_unflatten(leaves, pull.structure)
            out = [t for t in tree_flatten(pull.op(*a, **k))[0] if isinstance(t, Tensor)]
            return tuple(out[i] for i in given)

        _, pullback = vjp(forward, *(fixed[i] for i in pull.wanted))
        return vmap(pullback)(cots)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = vmap(back, in_dims=(0, *in_dims))(cotangents, *values)
    except (RuntimeError, NotImplementedError, ValueError):
        found = tuple(_one_by_one(pull, positions, many, values, given))
    return dict(zip(pull.wanted, found, strict=True))


def _one_by_one(pull: Pull, positions, many, values, given) -> list[Tensor]:
    """One ordinary backward pass an input and output: right wherever torch's own are."""
    rows: list[list[Tensor]] = []
    n, o = next(c for c in pull.cotangents if c is not None).shape[:2]
    for j in range(n):
        leaves = list(pull.leaves)
        for i, t in zip(positions, values, strict=True):
            leaves[i] = t[j] if i in many else t
        at = []
        for i in pull.wanted:
            leaves[i] = leaves[i].detach().requires_grad_()
            at.append(leaves[i])
        with torch.enable_grad():
            a, k = tree_unflatten(leaves, pull.structure)
            out = [t for t in tree_flatten(pull.op(*a, **k))[0] if isinstance(t, Tensor)]
        per_output = []
        for b in range(o):
            cots = [pull.cotangents[i][j, b] for i in given]  # type: ignore[index]
            per_output.append(
                torch.autograd.grad(
                    [out[i] for i in given], at, cots, retain_graph=True, allow_unused=True,
                    materialize_grads=True,
                )
            )  # fmt: skip
        rows.append([torch.stack(column) for column in zip(*per_output, strict=True)])
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def _where(pull: Pull) -> int:
    return pull.wanted[0]


@cotangent(aten.view, aten._unsafe_view, aten.reshape, aten.unsqueeze, aten.squeeze, aten.clone)
def _reshape(pull: Pull) -> dict[int, Tensor] | None:
    i = _where(pull)
    return {i: pull.d.reshape(*pull.d.shape[:2], *pull.shape(i))}


@cotangent(aten.t)
def _t(pull: Pull) -> dict[int, Tensor]:
    return {_where(pull): pull.d.transpose(2, 3) if pull.d.dim() == 4 else pull.d}


@cotangent(aten.transpose)
def _transpose(pull: Pull) -> dict[int, Tensor]:
    _, a, b = pull.args
    dims = pull.d.dim() - 2
    return {_where(pull): pull.d.transpose(axis(a, dims) + 1, axis(b, dims) + 1)}


@cotangent(aten.permute)
def _permute(pull: Pull) -> dict[int, Tensor]:
    order = pull.args[1]
    dims = len(order)
    back = [0] * dims
    for position, d in enumerate(order):
        back[d % dims] = position + 2
    return {_where(pull): pull.d.permute(0, 1, *back)}


@cotangent(aten.expand)
def _expand(pull: Pull) -> dict[int, Tensor]:
    i = _where(pull)
    return {i: reduced(pull.d, pull.shape(i))}


@cotangent(aten.select, aten.slice)
def _part(pull: Pull) -> dict[int, Tensor]:
    i = _where(pull)
    back = pull.d.new_zeros(*pull.d.shape[:2], *pull.shape(i))
    rest = pull.args[1:]
    dim = rest[0] if rest else 0
    place = axis(dim, len(pull.shape(i))) + 1
    if pull.op.overloadpacket == aten.select:
        back.select(place, rest[1]).copy_(pull.d)
    else:
        aten.slice(back, place, *rest[1:]).copy_(pull.d)
    return {i: back}


@cotangent(aten.split, aten.split_with_sizes, aten.unsafe_split, aten.unsafe_split_with_sizes)
def _parts(pull: Pull) -> dict[int, Tensor]:
    """Side by side again."""
    args = pull.args
    place = axis(args[2] if len(args) > 2 else 0, len(pull.shape(0))) + 1
    return {0: torch.cat(_filled(pull), dim=place)}


@cotangent(aten.unbind)
def _unbind(pull: Pull) -> dict[int, Tensor]:
    args = pull.args
    place = axis(args[1] if len(args) > 1 else 0, len(pull.shape(0))) + 1
    return {0: torch.stack(_filled(pull), dim=place)}


SEVERAL.update((_parts, _unbind))


def _filled(pull: Pull) -> list[Tensor]:
    n, o = next(c for c in pull.cotangents if c is not None).shape[:2]
    return [
        pull.result(i).new_zeros(1).expand(n, o, *pull.result(i).shape[2:]) if c is None else c
        for i, c in enumerate(pull.cotangents)
    ]


@cotangent(aten.cat, aten.stack)
def _together(pull: Pull) -> dict[int, Tensor] | None:
    tensors, *rest = pull.args
    dims = pull.d.dim() - 2
    place = axis(rest[0] if rest else 0, dims) + 1
    if pull.op.overloadpacket == aten.stack:
        return {i: pull.d.select(place, i) for i in pull.wanted}
    shapes = [pull.shape(i) for i in range(len(tensors))]
    if any(len(shape) != dims for shape in shapes):
        return None
    starts = [0]
    for shape in shapes:
        starts.append(starts[-1] + shape[place - 2])
    return {i: pull.d.narrow(place, starts[i], shapes[i][place - 2]) for i in pull.wanted}


@cotangent(aten.mean, aten.sum)
def _mean(pull: Pull) -> dict[int, Tensor] | None:
    i = _where(pull)
    shape = pull.shape(i)
    args = pull.args
    dims = list(args[1]) if len(args) > 1 and args[1] else list(range(len(shape)))
    dims = sorted(d % max(len(shape), 1) for d in dims)
    keep = len(args) > 2 and args[2]
    d = pull.d
    if not keep:
        for position in dims:
            d = d.unsqueeze(position + 2)
    count = 1
    for position in dims:
        count *= shape[position] if shape else 1
    d = d / count if pull.op.overloadpacket == aten.mean else d
    return {i: d.expand(*d.shape[:2], *shape)}


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
    if x in pull.wanted:
        other = _both(pull, y)
        if other.dim() == 2:
            found[x] = d @ other.t()
        else:
            found[x] = d @ other.transpose(-1, -2)
    if y in pull.wanted:
        found[y] = _both(pull, x).transpose(-1, -2) @ d
    return found


@cotangent(aten.mm, aten.bmm, fresh=True)
def _product(pull: Pull) -> dict[int, Tensor]:
    return _matrix(pull, 0, 1)


@cotangent(aten.addmm, aten.baddbmm)
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


@cotangent(aten._softmax, aten._safe_softmax)
def _softmax(pull: Pull) -> dict[int, Tensor]:
    p = pull.result()
    dim = axis(pull.args[1], p.dim() - 2) + 1
    weighed = pull.d * p
    return {0: weighed.sub_(p * weighed.sum(dim, keepdim=True))}


@cotangent(aten.native_batch_norm)
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


@cotangent(aten.native_layer_norm)
def _layer_norm(pull: Pull) -> dict[int, Tensor] | None:
    x, shape, weight, _, eps = pull.args
    if pull.wanted != [0] or is_many(weight) or not is_many(x):
        return None
    dims = tuple(range(-len(shape), 0))
    variance, mean = torch.var_mean(x.t, dims, correction=0, keepdim=True)
    rate = (variance + eps).rsqrt()
    plain = (x.t - mean) * rate
    d = pull.d if weight is None else pull.d * weight
    return {0: normalized_back(d, plain.unsqueeze(1), rate.unsqueeze(1), dims)}


@cotangent(aten.native_group_norm)
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
