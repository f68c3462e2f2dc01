"""Differences by torch's own derivatives: the slow ways that ask nothing of the operations.

They serve networks that no rule follows, and inputs that are to have gradients: difference
propagation is differentiable in the displacements alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.utils._pytree import tree_leaves, tree_map

from tangent.capture import picked
from tangent.machine.copies import copied
from tangent.operations.elementary import twice_differentiable
from tangent.operations.registry import Pair

Given = tuple[tuple[Any, ...], dict[str, Any]]


def difference_of(
    network: nn.Module, output: Any, given: Given, delta: dict[str, Tensor], alpha: float
) -> Pair:
    """The network's output and its scaled difference, differentiable in inputs and displacements.

    At infinity by two backward passes, within transforms of `torch.func` by forward mode, in the
    network's own dtype; else by the subtraction, in float64.
    """
    if not math.isinf(alpha):
        return subtracted(network, output, given, delta, alpha)
    if transformed([*tree_leaves(given), *delta.values()]):
        return _pushed(network, output, given, delta)
    return _linearized(network, output, given, delta)


def transformed(values: Iterable[Any]) -> bool:
    """Whether some of the values are tensors within a transform of `torch.func`."""
    is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # torch has no public word for it
    return any(isinstance(value, Tensor) and is_wrapped(value) for value in values)


def subtracted(
    network: nn.Module, output: Any, given: Given, delta: dict[str, Tensor], alpha: float
) -> Pair:
    """``alpha (h(w0 + delta/alpha) - h(w0))`` in float64, returned in the network's dtype."""
    dtype = next(network.parameters()).dtype
    network = _twin(network)
    args, kwargs = tree_map(_doubled, given)
    at = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    at = {name: _doubled(t) for name, t in at.items()}
    moved = {**at, **{name: at[name] + d.double() / alpha for name, d in delta.items()}}

    @twice_differentiable
    def run(tensors: dict[str, Tensor]) -> Tensor:
        return picked(functional_call(network, tensors, args, kwargs), output)

    with torch.enable_grad():  # which a network may need within
        before, after = run(at), run(moved)
    return Pair(before.to(dtype), (alpha * (after - before)).to(dtype))


def _linearized(network: nn.Module, output: Any, given: Given, delta: dict[str, Tensor]) -> Pair:
    network = _twin(network)
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
        along = [(g * d).sum() for g, d in zip(pulled, delta.values(), strict=True)]
        total = torch.stack(along).sum() + 0 * seed.sum()  # some outputs are moved by none
        (u,) = torch.autograd.grad(total, seed, create_graph=True)
    return Pair(out, u)


def _pushed(network: nn.Module, output: Any, given: Given, delta: dict[str, Tensor]) -> Pair:
    network = _twin(network)
    own = dict(network.named_parameters())
    args, kwargs = given

    @twice_differentiable
    def run(*weights: Tensor) -> Tensor:
        moved = dict(zip(delta, weights, strict=True))
        return picked(functional_call(network, moved, args, kwargs), output)

    return Pair(*jvp(run, tuple(own[name] for name in delta), tuple(delta.values())))


def _twin(network: nn.Module) -> nn.Module:
    """A copy, for networks that keep what they computed; within a transform of its weights, none.

    Tied weights are one, and functional calls move them together.
    """
    if transformed(network.parameters()):
        return network
    return copied(network).eval()


def _doubled(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if floating else value
