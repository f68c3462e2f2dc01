"""Jacobians by ordinary backward passes, where the record of a network cannot be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from tangent.capture import evaluated_copy, picked
from tangent.operations.pointwise import called

__all__ = ["jacobians"]


def jacobians(
    model: nn.Module, params: Mapping[str, Tensor], x: Tensor, tensors: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Yield the Jacobians of input after input: a dict of tensors (1, k, p of the parameter).

    One backward pass an input and output: as right as autograd itself, and slow. Every input goes
    through twice: of one, the backward pass of torch 2.14's batch norm is wrong for some strides.

    Parameters
    ----------
    model : nn.Module
    params : mapping
        The parameters whose gradients are wanted.
    x : Tensor of shape (n, *input)
    tensors : mapping
        All parameters and buffers to run the model with.
    """
    with torch.inference_mode(False), torch.enable_grad():
        twin = evaluated_copy(model, tensors).eval()
        found = dict(twin.named_parameters())
        leaves = {name: found[name].requires_grad_() for name in params}
        for one in x:
            outputs = picked(called(twin, None, (torch.stack([one, one]),))).reshape(2, -1)[0]
            rows: dict[str, list[Tensor]] = {name: [] for name in params}
            for f in outputs:
                if f.requires_grad:  # the network may cut what leads to these parameters
                    f.backward(retain_graph=True)
                for name, leaf in leaves.items():
                    gradient, leaf.grad = leaf.grad, None
                    rows[name].append(
                        leaf.new_zeros(leaf.numel()) if gradient is None else gradient.flatten()
                    )
            yield {name: torch.stack(row).unsqueeze(0) for name, row in rows.items()}
