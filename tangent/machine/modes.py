"""torch's modes around a public call, which must make no difference to its answer.

``torch.no_grad`` and ``torch.inference_mode`` are the caller's, for what the caller computes. Our
functions differentiate inside, and what an estimator keeps has to be of use outside: within them
gradients are on, and tensors are ordinary ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from tangent.machine.copies import copied

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def ordinary() -> Iterator[None]:
    """Gradients on, inference mode off, whatever the caller's modes are."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def ordinary_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Return ``function``, made to run within `ordinary`."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with ordinary():
            return function(*args, **kwargs)

    return wrapped


def ordinary_tensor(x: Tensor) -> Tensor:
    """Return ``x``, or a copy of it where it was made in inference mode (autograd refuses it)."""
    return x.clone() if x.is_inference() else x


def check_network(model: object) -> None:
    """Refuse what is no module, and modules whose weights do not exist yet."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be an nn.Module; got {type(model).__name__}; a function of weights has "
            "none to look at: put it into the forward of a module"
        )
    for name, p in model.named_parameters():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"parameter {name!r} has no shape yet; call the model once before it is looked at"
            )


def ordinary_network(model: nn.Module) -> nn.Module:
    """Return ``model``, or a copy of it where some of its tensors were made in inference mode."""
    check_network(model)
    tensors = [*model.parameters(), *model.buffers()]
    return copied(model) if any(t.is_inference() for t in tensors) else model
