"""Jacobians by torch.func, for the parameters that the backward rules do not know."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from tangent.engine.functional import evaluating, one_input

__all__ = ["jacobian_batches"]

_BUDGET = 2**28  # bytes of Jacobian held at once where batch_size is not given


def jacobian_batches(
    model: nn.Module,
    params: dict[str, Tensor],
    x: Tensor,
    batch_size: int | None = None,
    *,
    tensors: dict[str, Tensor] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Yield the Jacobians of consecutive batches: a dict of tensors (b, k, p of the parameter).

    ``torch.func.vmap`` of ``jacrev``: exact for every model that torch.func can trace.
    ``tensors`` are all parameters and buffers to run the model with, its own by default.
    """
    frozen = {n: p.detach() for n, p in (tensors or dict(model.named_parameters())).items()}
    frozen = {name: p for name, p in frozen.items() if name not in params}
    outputs = one_input(model)

    def selected(chosen: dict[str, Tensor], x_one: Tensor) -> Tensor:
        return outputs({**chosen, **frozen}, x_one)

    with evaluating(model):
        if batch_size is None:
            with torch.no_grad():
                k = outputs({**params, **frozen}, x[0]).numel()
            one = k * sum(p.numel() * p.element_size() for p in params.values())
            batch_size = max(1, _BUDGET // max(1, one))
        for part in x.split(batch_size):
            with warnings.catch_warnings():
                # An operation without a batching rule is slow, not wrong.
                warnings.filterwarnings("ignore", message=".*performance drop.*")
                jacobians = vmap(jacrev(selected), in_dims=(None, 0))(params, part)
            yield {name: j.detach().flatten(start_dim=2) for name, j in jacobians.items()}
