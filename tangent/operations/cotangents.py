"""Cotangents of an operation's arguments from those of its results, all outputs at once.

A value of one input of shape s has cotangents of shape (n, o, *s), o the number of them that
travel together; so has a value that is made of weights alone, input by input. Rules get the
operation's arguments as they were (`Many` where there is an axis of inputs), its results, the
cotangents, and which arguments want theirs, by position among the flattened ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from tangent.operations.arguments import leaves_of, rebuilt
from tangent.operations.batched import Many, aligned, elementwise, is_many
from tangent.operations.once import Once, kind_of, mixture
from tangent.operations.table import entry, operation

__all__ = ["SEVERAL", "Pull", "Rule", "cotangent", "makes_new_memory", "pulled", "reduced"]

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
    made: dict[str, Any] = field(default_factory=dict)  # by one rule, for another

    @property
    def d(self) -> Tensor:
        """The cotangent of the first result."""
        d = self.cotangents[0]
        assert d is not None
        return d

    @property
    def args(self) -> tuple:
        """Positional arguments as they were given."""
        return self._given()[0]

    @property
    def kwargs(self) -> dict:
        """Keyword arguments as they were given."""
        return self._given()[1]

    def _given(self) -> tuple[tuple, dict]:
        if "given" not in self.made:
            self.made["given"] = rebuilt(self.leaves, self.structure)
        return self.made["given"]

    @property
    def single(self) -> bool:
        """Whether the first result alone has a cotangent."""
        return self.cotangents[0] is not None and all(c is None for c in self.cotangents[1:])

    @property
    def complex(self) -> bool:
        """Whether complex numbers take part: their conventions are torch's."""
        for a in (*self.leaves, *self.results):
            t = a.t if type(a) is Many else a
            if isinstance(t, Tensor) and t.is_complex():
                return True
        return False

    def result(self, position: int = 0) -> Tensor:
        """A result with axes for the inputs and the outputs, (n or 1, 1, *shape)."""
        r = self.results[position]
        return r.t.unsqueeze(1) if is_many(r) else r[None, None]

    def shape(self, position: int) -> tuple[int, ...]:
        """Shape of one input's value of an argument."""
        a = self.leaves[position]
        return tuple(a.t.shape[1:]) if is_many(a) else tuple(a.shape)


Rule = Callable[[Pull], dict[int, Tensor] | None]


def pulled(pull: Pull) -> dict[int, Any]:
    """Return the cotangents of the wanted arguments, by their position, each in its dtype."""
    found = _pulled(pull)
    for i, d in found.items():
        argument = pull.leaves[i]
        dtype = (argument.t if type(argument) is Many else argument).dtype
        # Where numbers of two precisions have met; what is partly zero is of its argument's own.
        if isinstance(d, Tensor) and d.dtype != dtype and dtype.is_floating_point:
            found[i] = d.to(dtype)
    return found


def _pulled(pull: Pull) -> dict[int, Any]:
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


def makes_new_memory(pull: Pull) -> bool:
    """Whether the cotangent that `pulled` finds of one argument is always new memory."""
    rule = entry(pull.op).cotangent
    if pull.complex or rule is None:
        return elementwise(pull.op) and not pull.complex
    return rule in FRESH and FRESH[rule].isdisjoint(pull.wanted)


def cotangent(*ops: Any, fresh: bool = False, but: tuple[int, ...] = ()) -> Callable[[Rule], Rule]:
    """Decorate the rule of some operations; None leaves a call to the general ones.

    ``fresh`` says that what it finds is always new memory, ``but`` of which arguments it is not.
    """

    def decorator(rule: Rule) -> Rule:
        for op in ops:
            operation(op).cotangent = rule
        if fresh:
            FRESH[rule] = frozenset(but)
        return rule

    return decorator


SEVERAL: set[Rule] = set()  # rules that take the cotangents of all results
FRESH: dict[Rule, frozenset[int]] = {}


def reduced(d: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum over what was broadcast: from (n, o, *out) to (n, o, *shape)."""
    extra = d.dim() - 2 - len(shape)
    if extra:
        d = d.sum(dim=tuple(range(2, 2 + extra)))
    wide = [i + 2 for i, size in enumerate(shape) if size == 1 and d.shape[i + 2] != 1]
    return d.sum(dim=wide, keepdim=True) if wide else d


def _elementwise(pull: Pull) -> dict[int, Tensor]:
    """Of any elementwise operation: cotangents times its partial derivatives."""
    args, kwargs = rebuilt(pull.leaves, pull.structure)
    plain = list(leaves_of((aligned(args), kwargs)))
    shape = pull.result().squeeze(1).shape
    at = {}
    for i in pull.wanted:
        value = plain[i] if is_many(pull.leaves[i]) else plain[i].expand(shape[1:])
        at[i] = plain[i] = value.expand(shape).detach().requires_grad_()
    with torch.enable_grad():
        given, named = rebuilt(plain, pull.structure)
        out = pull.op(*given, **named)
        first = out if isinstance(out, Tensor) else out[0]
        slopes = torch.autograd.grad(
            first, list(at.values()), torch.ones_like(first), allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
    alike = pull.shape(pull.wanted[0]) == pull.d.shape[2:] and slopes[0].dtype == pull.d.dtype
    if pull.mine and len(at) == 1 and alike:
        return {pull.wanted[0]: pull.d.mul_(slopes[0].unsqueeze(1))}
    return {
        i: reduced(pull.d * slope.unsqueeze(1), pull.shape(i))
        for i, slope in zip(at, slopes, strict=True)
    }


@dataclass
class _Call:
    """A call to be differentiated by torch: its values of many inputs, its cotangents."""

    pull: Pull
    many: list[int]
    given: list[int]

    @staticmethod
    def of(pull: Pull) -> _Call:
        """The call whose cotangents ``pull`` asks for."""
        many = [i for i, a in enumerate(pull.leaves) if is_many(a)]
        given = [i for i, c in enumerate(pull.cotangents) if c is not None]
        return _Call(pull, many, given)

    @property
    def cotangents(self) -> tuple[Tensor, ...]:
        """Those of the results that have one, each (n, o, *shape)."""
        return tuple(self.pull.cotangents[i] for i in self.given)  # type: ignore[misc]

    def results(self, leaves: list[Any]) -> tuple[Tensor, ...]:
        """Of the call on other arguments, those that have a cotangent."""
        args, kwargs = rebuilt(leaves, self.pull.structure)
        out = [t for t in leaves_of(self.pull.op(*args, **kwargs)) if isinstance(t, Tensor)]
        return tuple(out[i] for i in self.given)

    def key(self) -> Any:
        """What torch's way of differentiating it may depend on."""
        kinds = tuple(kind_of(a.t if is_many(a) else a) for a in self.pull.leaves)
        which = tuple(self.many), tuple(self.pull.wanted), tuple(self.given)
        return self.pull.op, kinds, which, self.cotangents[0].shape[:2]


_RIGHT: Once[bool] = Once()  # whether batched derivatives are those of one input


def _generic(pull: Pull) -> dict[int, Tensor]:
    """By torch.func for all inputs and outputs at once, where that is right; one by one."""
    call = _Call.of(pull)
    found = _batched(call) if _RIGHT.of(call.key(), partial(_agree, call)) else None
    if found is None:
        found = _one_by_one(call)
    return dict(zip(pull.wanted, found, strict=True))


def _batched(call: _Call) -> tuple[Tensor, ...] | None:
    """By torch.func; None where torch cannot batch the operation or its derivative."""
    pull, many = call.pull, call.many
    positions = sorted({*many, *pull.wanted})
    values = [a.t if is_many(a) else a for a in (pull.leaves[i] for i in positions)]

    def back(cots: tuple, *tensors: Tensor) -> tuple[Tensor, ...]:
        fixed = list(pull.leaves)
        for i, t in zip(positions, tensors, strict=True):
            fixed[i] = t

        def forward(*wanted: Tensor) -> tuple[Tensor, ...]:
            leaves = list(fixed)
            for i, t in zip(pull.wanted, wanted, strict=True):
                leaves[i] = t
            return call.results(leaves)

        _, pullback = vjp(forward, *(fixed[i] for i in pull.wanted))
        return vmap(pullback)(cots)

    in_dims = (0, *(0 if i in many else None for i in positions))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return vmap(back, in_dims=in_dims)(call.cotangents, *values)
    except (RuntimeError, ValueError):
        return None


def _agree(call: _Call) -> bool:
    """Whether torch can batch this, and the last input's own backward passes say the same.

    torch's batching rules are wrong for some: of the determinant and of distances, in 2.14.
    """
    trial = [None if c is None else mixture(c) for c in call.pull.cotangents]
    call = _Call.of(replace(call.pull, cotangents=trial))
    found = _batched(call)
    if found is None:
        return False
    back = _backward(call, -1)
    for b in (0, call.cotangents[0].shape[1] - 1):
        for f, right in zip(found, back([c[-1, b] for c in call.cotangents]), strict=True):
            tolerance = torch.finfo(right.dtype).eps ** 0.5
            if not (f[-1, b] - right).norm() <= tolerance * right.norm():
                return False
    return True


def _backward(call: _Call, j: int) -> Callable[[list[Tensor]], tuple[Tensor, ...]]:
    """An ordinary backward pass of one input's call."""
    pull = call.pull
    leaves = [a.t[j] if is_many(a) else a for a in pull.leaves]
    for i in pull.wanted:
        leaves[i] = leaves[i].detach().requires_grad_()
    with torch.enable_grad():
        out = call.results(leaves)
    live = [t.requires_grad for t in out]
    ends = [t for t, lives in zip(out, live, strict=True) if lives]
    at = [leaves[i] for i in pull.wanted]

    def back(cots: list[Tensor]) -> tuple[Tensor, ...]:
        if not ends:
            return tuple(torch.zeros_like(t) for t in at)
        seeds = [c for c, lives in zip(cots, live, strict=True) if lives]
        return torch.autograd.grad(
            ends, at, seeds, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    return back


def _one_by_one(call: _Call) -> tuple[Tensor, ...]:
    """One ordinary backward pass an input and output: right wherever torch's own are."""
    n, o = call.cotangents[0].shape[:2]
    rows = []
    for j in range(n):
        back = _backward(call, j)
        per_output = [back([c[j, b] for c in call.cotangents]) for b in range(o)]
        rows.append([torch.stack(column) for column in zip(*per_output, strict=True)])
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))
