"""Differences of operations without a rule of their own: of that one call, in float64.

At alpha up to 1e9 the subtraction alpha (f(x + u/alpha) - f(x)) of one operation keeps at least
seven digits in float64, whatever its kinks; beyond, and at infinity, the derivative is as near.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tangent.operations.arguments import flattened, leaves_of, rebuilt
from tangent.operations.once import Once, kind_of, mixture
from tangent.operations.registry import Pair
from tangent.operations.table import is_pair

__all__ = ["OtherWay", "generic_difference"]

_LARGEST = 1e9
Pushing = Callable[[Any, tuple, tuple], tuple[Tensor, ...]]
_WAYS: Once[Pushing] = Once()
_WIDE = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
}


class OtherWay(Exception):
    """The moved network takes another way than the base: what it reads or leaves out differs."""


def generic_difference(op: Callable[..., Any], alpha: float, args: tuple, kwargs: dict) -> Any:
    """Return the pairs of any operation's results, in the structure of the results."""
    leaves, structure = flattened((args, kwargs))
    moving = [i for i, v in enumerate(leaves) if is_pair(v) and v.difference is not None]

    def call(values: list[Any]) -> Any:
        given, named = rebuilt(values, structure)
        return op(*given, **named)

    plain = [v.base if is_pair(v) else v for v in leaves]
    base = call(plain)
    if alpha > _LARGEST:
        moved = _derivative(op, call, plain, leaves, moving, base)
    else:
        moved = _divided(call, leaves, moving, base, alpha)
    out, shape = flattened(base)
    return rebuilt(
        [Pair(b, d) if isinstance(b, Tensor) else b for b, d in zip(out, moved, strict=True)],
        shape,
    )


def _divided(call: Any, leaves: list, moving: list[int], base: Any, alpha: float) -> list:
    wide = [_wide(v.base) if is_pair(v) else v for v in leaves]
    shifted = list(wide)
    for i in moving:
        shifted[i] = _moved(leaves[i], alpha)
    wide, shifted = ([_dtype(a) for a in values] for values in (wide, shifted))
    with torch.no_grad():
        before = leaves_of(call(wide))
    after = leaves_of(call(shifted))
    out: list[Tensor | None] = []
    for b, w, a in zip(leaves_of(base), before, after, strict=True):
        if not isinstance(b, Tensor):
            out.append(None)
        elif _smooth(b):
            out.append((alpha * _away(a, w)).to(b.dtype))
        else:  # an index or a decision that may fall otherwise
            step = alpha * (a.to(torch.float64) - w.to(torch.float64))
            out.append(step if bool(step.any()) else None)
    return out


def _away(after: Tensor, before: Tensor) -> Tensor:
    """The difference, zero between infinities that are the same (what a mask leaves out)."""
    infinite = before.isinf() | after.isinf()
    if not bool(infinite.any()):
        return after - before
    if bool((infinite & (after != before)).any()):
        raise OtherWay
    return torch.where(infinite, 0.0, after - before)


def _smooth(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def _wide(t: Tensor) -> Tensor:
    return t.to(_WIDE.get(t.dtype, t.dtype))


def _dtype(value: Any) -> Any:
    return _WIDE.get(value, value) if isinstance(value, torch.dtype) else value


def _moved(pair: Pair, alpha: float) -> Tensor:
    assert pair.difference is not None
    if _smooth(pair.base):
        return _wide(pair.base) + _wide(pair.difference) / alpha
    moved = pair.base.to(torch.float64) + pair.difference.to(torch.float64) / alpha
    return moved.round().to(pair.base.dtype)


def _derivative(
    op: Any, call: Any, plain: list, leaves: list, moving: list[int], base: Any
) -> list:
    at = [i for i in moving if _smooth(leaves[i].base)]
    floating = [isinstance(t, Tensor) and _smooth(t) for t in leaves_of(base)]
    if not at or not any(floating):
        return [None] * len(floating)

    def outputs(*values: Tensor) -> tuple[Tensor, ...]:
        given = list(plain)
        for i, value in zip(at, values, strict=True):
            given[i] = value
        found = leaves_of(call(given))
        return tuple(t for t, keep in zip(found, floating, strict=True) if keep)

    primals = tuple(plain[i] for i in at)
    tangents = tuple(leaves[i].difference.to(leaves[i].base.dtype) for i in at)
    tangents = tuple(
        u.expand_as(p) if u.shape != p.shape else u for u, p in zip(tangents, primals, strict=True)
    )
    key = op, tuple(at), tuple(kind_of(a) for a in plain)
    way = _WAYS.of(key, lambda: _right_way(outputs, primals))
    found = iter(way(outputs, primals, tangents))
    return [next(found) if keep else None for keep in floating]


def _right_way(outputs: Any, primals: tuple) -> Pushing:
    """How this call is pushed forward rightly: torch's formula, two backward passes, a difference.

    torch has a wrong formula for some (products by index, in 2.14), none for others.
    """
    with torch.enable_grad():
        at = tuple(p.detach().requires_grad_() for p in primals)
        out = outputs(*at)
    if not all(o.requires_grad for o in out):
        return _central
    tangents = tuple(mixture(p) for p in primals)
    for way in (_by_formula, _by_two_backward_passes):
        try:
            if _adjoint(at, out, tangents, way(outputs, primals, tangents)):
                return way
        except RuntimeError:
            continue
    return _central


def _by_formula(outputs: Any, primals: tuple, tangents: tuple) -> tuple[Tensor, ...]:
    return torch.func.jvp(outputs, primals, tangents)[1]


@torch.no_grad()
def _adjoint(at: tuple, out: tuple, tangents: tuple, found: tuple) -> bool:
    """Whether the forward derivative and the backward pass are of one Jacobian, in a mixture."""
    mixtures = tuple(mixture(o) for o in out)
    back = torch.autograd.grad(
        out, at, mixtures, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    products = [(m, f, 1) for m, f in zip(mixtures, found, strict=True)]
    products += [(b, u, -1) for b, u in zip(back, tangents, strict=True)]
    away = size = torch.zeros((), device=out[0].device)
    for a, b, sign in products:
        away = away + sign * ((a.conj() * b).real if a.is_complex() else a * b).sum()
        size = size + a.norm() * b.norm()
    return bool(away.abs() <= max(torch.finfo(o.dtype).eps for o in out) ** 0.5 * size)


def _central(
    outputs: Any, primals: tuple, tangents: tuple, step: float = 1e-6
) -> tuple[Tensor, ...]:
    """Central difference in float64, for what torch differentiates once at most."""
    sides = [
        outputs(*(_wide(p) + sign * _wide(u) for p, u in zip(primals, tangents, strict=True)))
        for sign in (step, -step)
    ]
    return tuple(((a - b) / (2 * step)).to(primals[0].dtype) for a, b in zip(*sides, strict=True))


def _by_two_backward_passes(outputs: Any, primals: tuple, tangents: tuple) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        at = tuple(p.detach().requires_grad_() for p in primals)
        out = outputs(*at)
        live = tuple(o for o in out if o.requires_grad)
        seeds = tuple(torch.zeros_like(o, requires_grad=True) for o in live)
        back = torch.autograd.grad(
            live, at, seeds, create_graph=True, allow_unused=True, materialize_grads=True
        )
        found = iter(
            torch.autograd.grad(
                back, seeds, tangents, create_graph=True, allow_unused=True, materialize_grads=True
            )
        )
        return tuple(next(found) if o.requires_grad else torch.zeros_like(o) for o in out)
