"""Rules for activations that are smooth or made of smooth ones (`smooth`)."""

from __future__ import annotations

from typing import Any

import torch

from tangent.operations import smooth
from tangent.operations.arithmetic import multilinear
from tangent.operations.generic import generic_difference
from tangent.operations.registry import Pair
from tangent.operations.relu import bent, negative_part
from tangent.operations.table import exact, operation

aten = torch.ops.aten


_SAVING = 20.0  # thresholds from which on softplus is the identity up to 2e-9


def _softplus(z: Pair, alpha: float, beta: float) -> Pair:
    # softplus_beta(z) = softplus(beta z) / beta; the threshold only saves torch an exponential.
    scaled = Pair(beta * z.base, None if z.difference is None else beta * z.difference)
    out = smooth.softplus_one(scaled, alpha)
    return Pair(out.base / beta, None if out.difference is None else out.difference / beta)


def _register(rule: Any, *ops: Any) -> None:
    def exact_rule(alpha: float, z: Pair, *, _op: Any = None) -> Any:
        if z.base.is_complex():
            return generic_difference(_op, alpha, (z,), {})
        return rule(z, alpha)

    for op in ops:
        operation(op).difference = exact_rule


_register(smooth.tanh, aten.tanh)
_register(smooth.sigmoid, aten.sigmoid)
_register(smooth.silu, aten.silu)
_register(smooth.erf, aten.erf, aten.special_erf)
_register(smooth.exp, aten.exp)
_register(smooth.sin, aten.sin)
_register(smooth.cos, aten.cos)


@exact(aten.gelu)
def _gelu_rule(alpha: float, z: Pair, *, approximate: str = "none", _op: Any = None) -> Pair:
    return (smooth.gelu_tanh if approximate == "tanh" else smooth.gelu)(z, alpha)


@exact(aten.softplus)
def _softplus_rule(
    alpha: float, z: Pair, beta: Any = 1.0, threshold: Any = 20.0, *, _op: Any = None
) -> Pair:
    if threshold < _SAVING:  # where it is a jump, and no longer a saving
        return generic_difference(_op, alpha, (z, beta, threshold), {})
    return Pair(_op(z.base, beta, threshold), _softplus(z, alpha, beta).difference)


@exact(aten.log_sigmoid_forward)
def _log_sigmoid(alpha: float, z: Pair, *, _op: Any = None) -> list[Pair]:
    base, buffer = _op(z.base)
    assert z.difference is not None
    falling: Any = smooth.softplus_one(Pair(-z.base, -z.difference), alpha).difference
    return [Pair(base, -falling), Pair(buffer)]


@exact(aten.mish)
def _mish(alpha: float, z: Pair, *, _op: Any = None) -> Pair:
    product = multilinear(torch.mul, alpha, z, smooth.tanh(smooth.softplus_one(z, alpha), alpha))
    return Pair(_op(z.base), product.difference)


@exact(aten.elu)
def _elu(
    alpha: float,
    z: Pair,
    rate: Any = 1.0,
    scale: Any = 1.0,
    input_scale: Any = 1.0,
    *,
    _op: Any = None,
) -> Pair:
    below = negative_part(z, alpha)
    below = smooth.exp(Pair(below.base * input_scale, below.difference * input_scale), alpha)
    v = scale * (bent(z, alpha) + rate * below.difference)
    return Pair(_op(z.base, rate, scale, input_scale), v)


@exact(aten.celu)
def _celu(alpha: float, z: Pair, rate: Any = 1.0, *, _op: Any = None) -> Pair:
    below = negative_part(z, alpha)
    below = smooth.exp(Pair(below.base / rate, below.difference / rate), alpha)
    return Pair(_op(z.base, rate), bent(z, alpha) + rate * below.difference)


@exact(aten.glu)
def _glu(alpha: float, z: Pair, dim: int = -1, *, _op: Any = None) -> Pair:
    assert z.difference is not None
    halves = zip(z.base.chunk(2, dim), z.difference.chunk(2, dim), strict=True)
    a, b = (Pair(*half) for half in halves)
    return multilinear(torch.mul, alpha, a, smooth.sigmoid(b, alpha))
