"""What a network returns for a batch, checked before anything is computed with it."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from tangent.capture import evaluated_copy, picked, unwrapped
from tangent.operations.pointwise import called

__all__ = ["output_count", "output_shape"]


def output_shape(model: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Shape of the outputs for two inputs (the first of ``x`` twice), the model in evaluation mode.

    Raises
    ------
    TypeError
        If the model returns several tensors, none of them named logits, or none.
    ValueError
        If the tensor has not one row for each input.
    """
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        # of reentrant checkpoints, which expect to be differentiated
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
        twin = evaluated_copy(unwrapped(model)).train().eval()
        output = picked(called(twin, None, (torch.cat([x[:1], x[:1]]),)))
    if output.ndim == 0 or len(output) != 2:
        raise ValueError(
            "model must return one row of outputs for each input; for 2 inputs it returned shape "
            f"{tuple(output.shape)}; keep the batch as the first axis"
        )
    return tuple(output.shape)


def output_count(model: nn.Module, x: Tensor) -> int:
    """Number of outputs for one input, several axes flattened; raises as `output_shape`."""
    return int(torch.Size(output_shape(model, x)[1:]).numel())
