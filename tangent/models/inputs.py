"""Differences by torch's own derivatives: the slow ways that ask nothing of the operations.

They serve networks that no rule follows, and inputs that are to have gradients: difference
propagation is differentiable in the displacements alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from tangent.capture import picked
from tangent.machine.copies import copied
from tangent.operations.elementary import twice_differentiable
from tangent.operations.registry import Pair

Given = tuple[tuple[Any, ...], dict[str, Any]]


def difference_of(
    network: nn.Module, output: Any, given: Given, delta: dict[str, Tensor], alpha: float
) -> Pair:
    """The network's output and its scaled difference, differentiable in inputs and displacements.

    At infinity by two backward passes, in the network's own dtype; else by the subtraction, in
    float64.
    """
    if math.isinf(alpha):
        return _linearized(network, output, given, delta)
    return subtracted(network, output, given, delta, alpha)


def subtracted(
    network: nn.Module, output: Any, given: Given, delta: dict[str, Tensor], alpha: float
) -> Pair:
    """``alpha (h(w0 + delta/alpha) - h(w0))`` in float64, returned in the network's dtype."""
    dtype = next(network.parameters()).dtype
    network = copied(network).double().eval()
    args, kwargs = tree_map(_doubled, given)
    weights = dict(network.named_parameters())
    moved = {n: weights[n] + d.double() / alpha for n, d in delta.items()}
    with torch.enable_grad():  # which a network may need within
        before = picked(network(*args, **kwargs), output)
        after = picked(functional_call(network, moved, args, kwargs), output)
    return Pair(before.to(dtype), (alpha * (after - before)).to(dtype))


def _linearized(network: nn.Module, output: Any, given: Given, delta: dict[str, Tensor]) -> Pair:
    network = copied(network).eval()
    weights = {
        name: p.detach().requires_grad_(name in delta) for name, p in network.named_parameters()
    }
    args, kwargs = given

    @twice_differentiable  # thrice backwards torch is wrong about layer norm, for one
    def run() -> Tensor:
        return picked(functional_call(network, weights, args, kwargs), output)

    with torch.enable_grad():
        out = run()
        seed = torch.zeros_like(out, requires_grad=True)
        moving = [weights[name] for name in delta]
        pulled = torch.autograd.grad(out, moving, seed, create_graph=True, materialize_grads=True)
        pairs = zip(pulled, delta.values(), strict=True)
        along = torch.stack([(g * d).sum() for g, d in pairs if g.requires_grad] or [seed.sum()])
        (u,) = torch.autograd.grad(along.sum(), seed, create_graph=True)
    return Pair(out, u)


def _doubled(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if floating else value
