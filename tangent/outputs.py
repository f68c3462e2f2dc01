"""What a network returns for a batch, checked before anything is computed with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tangent.engine.functional import evaluating
from tangent.pointwise import called

__all__ = ["output_count", "output_shape"]


def output_shape(model: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Shape of the outputs for two inputs (the first of ``x`` twice), the model in evaluation mode.

    Raises
    ------
    TypeError
        If the model returns something else than a tensor.
    ValueError
        If the tensor has not one row for each input.
    """
    with torch.no_grad(), evaluating(model):
        output = called(model, None, (torch.cat([x[:1], x[:1]]),))
    if not isinstance(output, Tensor):
        raise TypeError(
            f"model must return one tensor; got {_described(output)}; wrap it in a module whose "
            "forward returns the tensor you mean"
        )
    if output.ndim == 0 or len(output) != 2:
        raise ValueError(
            "model must return one row of outputs for each input; for 2 inputs it returned shape "
            f"{tuple(output.shape)}; keep the batch as the first axis"
        )
    return tuple(output.shape)


def output_count(model: nn.Module, x: Tensor) -> int:
    """Number of outputs for one input, several axes flattened; raises as `output_shape`."""
    return int(torch.Size(output_shape(model, x)[1:]).numel())


def _described(output: object) -> str:
    kind = type(output).__name__
    if isinstance(output, dict):
        return f"{kind} with keys {', '.join(map(repr, output))}"
    return kind
