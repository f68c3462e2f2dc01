"""Whether the record of a forward pass can be believed."""

from __future__ import annotations

import torch
from torch import Tensor

from tangent.capture import evaluated_copy, picked
from tangent.kernel.engine.plan import Network
from tangent.operations.pieces import Piece
from tangent.operations.pointwise import called

__all__ = ["mistaken", "tolerated"]

# Of a gradient: more than rounding, and a ReLU that falls the other way, make of it. Whoever is
# distrusted wrongly gets the right numbers, later.
_TOLERATED = {torch.float64: 1e-5, torch.float32: 1e-3}


def tolerated(dtype: torch.dtype) -> float:
    """How far two ways to a gradient may be apart, relative to it."""
    return _TOLERATED.get(dtype, 0.1)


def mistaken(network: Network, pieces: dict[str, list[Piece]], x: Tensor) -> frozenset[str]:
    """Names of parameters whose pieces do not give the gradient that autograd gives.

    The record cannot see everything: a branch without gradients, a custom backward pass. One
    combination of the outputs at two inputs is compared; an ordinary backward pass finds all. One
    input goes through twice: of one, that of torch 2.14's batch norm is wrong for some strides.

    Parameters
    ----------
    network : Network
    pieces : dict
        Of a batch whose first inputs are ``x``.
    x : Tensor of shape (1 or 2, *input)
    """
    outputs = network.outputs
    with torch.inference_mode(False), torch.enable_grad():
        twin = evaluated_copy(network.model, network.tensors).eval()
        own = dict(twin.named_parameters())
        leaves = {name: own[name].requires_grad_() for name in network.names}
        both = torch.cat([x, x]) if len(x) == 1 else x.clone()
        output = picked(called(twin, None, (both,))).reshape(len(both), -1)[: len(x)]
        weights = torch.cos(torch.arange(1 if network.single else output.shape[1]) + 1.0).to(output)
        if outputs == "pseudo":
            value = output.sum() / output.shape[1] ** 0.5 * weights[0]
        elif isinstance(outputs, int):
            value = output[:, outputs].sum() * weights[0]
        else:
            value = (output @ weights).sum()
        if value.requires_grad:
            value.backward()  # not torch.autograd.grad, which reentrant checkpoints refuse
    tolerance = tolerated(output.dtype)
    wrong = set()
    for name, leaf in leaves.items():
        gradient = (torch.zeros_like(leaf) if leaf.grad is None else leaf.grad).flatten()
        found = torch.zeros_like(gradient)
        for use in pieces.get(name, []):
            part = use.first(len(x)).dense(weights).sum(0).flatten()
            found = found + part if part.shape == found.shape else part.new_full((), torch.nan)
        if not (found - gradient).norm() <= tolerance * gradient.norm():
            wrong.add(name)
    return frozenset(wrong)
