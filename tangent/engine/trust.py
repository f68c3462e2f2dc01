"""Whether the record of a forward pass can be believed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tangent.engine.functional import evaluating
from tangent.engine.pieces import Piece
from tangent.pointwise import called

__all__ = ["faithful", "mistaken"]


def faithful(model: nn.Module) -> bool:
    """Whether every module is torch's own or one of `tangent.nets`, without hooks.

    The record of such a network is known to be right; that of others is checked (`mistaken`).
    """
    known = ("torch.nn.modules.", "tangent.nets")
    return all(
        type(m).__module__.startswith(known) and not m._forward_hooks and not m._forward_pre_hooks
        for m in model.modules()
    )


def mistaken(
    model: nn.Module,
    tensors: dict[str, Tensor],
    names: Sequence[str],
    pieces: dict[str, list[Piece]],
    x: Tensor,
    outputs: str | int,
) -> set[str]:
    """Names of parameters whose pieces do not give the gradient that autograd gives.

    The record cannot see everything: a branch without gradients, a custom backward pass, a batch
    that is transposed before it is merged. One combination of the outputs at one input is
    compared; one ordinary backward pass finds all of them.

    Parameters
    ----------
    model, tensors, names
        The network, its parameters and buffers, and the parameters to look at.
    pieces : dict
        Of a batch whose first input is ``x``.
    x : Tensor of shape (1, *input)
    outputs : str or int
        Which cotangents the pieces were made from.
    """
    leaves = {name: tensors[name].detach().requires_grad_() for name in names}
    with torch.enable_grad(), evaluating(model):
        # Twice: torch 2.14.1's backward pass of batch norm is wrong for one input of some strides.
        output = called(model, {**tensors, **leaves}, (torch.cat([x, x]),))[0].flatten()
        single = outputs == "pseudo" or isinstance(outputs, int)
        weights = torch.cos(torch.arange(1 if single else len(output)) + 1.0).to(output)
        if outputs == "pseudo":
            value = output.sum() / len(output) ** 0.5 * weights[0]
        elif isinstance(outputs, int):
            value = output[outputs] * weights[0]
        else:
            value = output @ weights
        expected = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    # A mistake is of the order of the gradient; a ReLU that falls the other way is not.
    tolerance = 0.01 if torch.finfo(output.dtype).bits >= 32 else 0.1
    wrong = set()
    for name, gradient in zip(leaves, expected, strict=True):
        gradient = torch.zeros_like(leaves[name]) if gradient is None else gradient
        gradient = gradient.detach().flatten()
        found = torch.zeros_like(gradient)
        for use in pieces.get(name, []):
            part = use.first().dense(weights).flatten()
            found = found + part if part.shape == found.shape else part.new_full((), torch.nan)
        if not (found - gradient).norm() <= tolerance * gradient.norm():
            wrong.add(name)
    return wrong
