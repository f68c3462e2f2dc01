"""From factors to a block of the kernel: the sum over the parameters, or the share of each."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tangent.kernel.engine.contractions import add_contribution, mirrored
from tangent.kernel.engine.factors import Factor, stacked
from tangent.kernel.engine.passes import Factors
from tangent.kernel.engine.plan import Plan

__all__ = ["shares", "total"]

_SMALL = 1024  # entries of gradients that are contracted with others
_STACKED = 2**24  # bytes of those that are


def total(plan: Plan, left: Factors, right: Factors | None = None) -> Tensor:
    """Sum over the parameters; symmetric where ``right`` is left out."""
    found = _empty(plan, left, right)
    small, others = _together(left)
    if small:
        two = None if right is None else stacked([right[name] for name in small])
        _add(plan, found, stacked([left[name] for name in small]), two)
    for name in others:
        _add(plan, found, left[name], None if right is None else right[name])
    return mirrored(found, plan.problem.full) if right is None else found


def shares(plan: Plan, left: Factors, right: Factors | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, share) of every parameter, zero where it is not used."""
    for name in plan.network.names:
        found = _empty(plan, left, right)
        if name in left:
            _add(plan, found, left[name], None if right is None else right[name])
        yield name, mirrored(found, plan.problem.full) if right is None else found


def _together(factors: Factors) -> tuple[list[str], list[str]]:
    """Names of small gradients, which are contracted in one product, and all other names."""
    small, room = [], _STACKED
    for name, factor in factors.items():
        if factor.order == "dense" and not factor.parts and factor.gradients.shape[2] <= _SMALL:
            room -= factor.bytes
            if room > 0:
                small.append(name)
    small = small if len(small) > 1 else []
    return small, [name for name in factors if name not in small]


def _add(plan: Plan, found: Tensor, left: Factor, right: Factor | None) -> None:
    symmetric = right is None
    other = left if right is None else right
    add_contribution(found, left, other, symmetric=symmetric, full=plan.problem.full)
    left.release()
    other.release()


def _empty(plan: Plan, left: Factors, right: Factors | None) -> Tensor:
    one = next(iter(left.values()))
    two = one if right is None else next(iter(right.values()))
    n1, n2, o = one.inputs, two.inputs, one.outputs
    shape = (n1, o, n2, o) if plan.problem.full else (plan.problem.groups, n1, n2)
    return torch.zeros(shape, dtype=plan.network.summed, device=plan.network.device)
