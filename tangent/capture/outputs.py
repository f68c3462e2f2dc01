"""What a network returns for a batch, checked before anything is computed with it."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from tangent.capture import evaluated_copy, picked, unwrapped
from tangent.operations.pointwise import called

__all__ = ["output_count", "output_shape", "outputs_of_two"]


def output_shape(model: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Shape of the outputs for two inputs (the first of ``x`` twice), the model in evaluation mode.

    Raises
    ------
    TypeError
        If the model returns several tensors, none of them named logits, or none.
    ValueError
        If the tensor has not one row for each input.
    """
    twin = evaluated_copy(unwrapped(model)).train().eval()
    return tuple(outputs_of_two(twin, x[:1]).shape)


def outputs_of_two(network: nn.Module, x: Tensor) -> Tensor:
    """What a network gives for the first two inputs of ``x``, or for its only one twice.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, run as it is.
    x : Tensor of shape (n, *input)

    Raises
    ------
    TypeError, ValueError
        As `output_shape`.
    """
    two = x[:2].clone() if len(x) > 1 else torch.cat([x[:1], x[:1]])
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings():
        # of reentrant checkpoints, which expect to be differentiated
        warnings.filterwarnings("ignore", message="None of the inputs have requires_grad")
        output = picked(called(network, None, (two,)))
    if output.ndim == 0 or len(output) != 2:
        raise ValueError(
            "model must return one row of outputs for each input; for 2 inputs it returned shape "
            f"{tuple(output.shape)}; keep the batch as the first axis"
        )
    if output.is_complex():
        raise ValueError(
            f"model must return real numbers; it returned {output.dtype}; return "
            "torch.view_as_real of them"
        )
    return output.detach()


def output_count(model: nn.Module, x: Tensor) -> int:
    """Number of outputs for one input, several axes flattened; raises as `output_shape`."""
    return int(torch.Size(output_shape(model, x)[1:]).numel())
