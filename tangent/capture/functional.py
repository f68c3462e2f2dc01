"""A network as a function of its parameters, read in evaluation mode and left as found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tangent.operations.pointwise import called

__all__ = [
    "check_inputs",
    "evaluating",
    "first_weight",
    "fixed_whole_numbers",
    "model_outputs",
    "selected_parameters",
]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode and restore the mode of every module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def first_weight(model: nn.Module) -> Tensor | None:
    """The first real parameter, whose dtype and device are the network's; None without any."""
    return next((p for p in model.parameters() if p.is_floating_point()), None)


def fixed_whole_numbers(model: nn.Module) -> nn.Module:
    """The same network, parameters of whole numbers made buffers: they have no gradient."""
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            if not _moves(p):
                delattr(module, name)
                module.register_buffer(name, p.detach())
    return model


def selected_parameters(
    model: nn.Module, parameters: str | Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Detached parameters by name, in the order of ``model.named_parameters()``.

    Parameters
    ----------
    model : nn.Module
    parameters : sequence of str, optional
        Names of parameters, or of modules for all parameters below them, or patterns of such
        names with ``*`` and ``?`` (``"*.lora_*"``); one may stand alone. All by default, whatever
        their ``requires_grad``, but whole numbers and those without entries. A parameter that
        occurs under several names is listed under its first.

    Raises
    ------
    ValueError
        If the model has no parameters, a name matches none, or one that is meant is complex.
    """
    found = {n: p.detach() for n, p in model.named_parameters() if _moves(p) and p.numel()}
    if not found:
        raise ValueError("model must have parameters; it has none, so it has no tangent kernel")
    if parameters is None:
        return _real(found)
    if isinstance(parameters, str):
        parameters = [parameters]
    if not len(parameters):
        raise ValueError(
            "parameters must name at least one parameter or module; got none; leave it out for "
            "all parameters"
        )
    for wanted in parameters:
        if not any(_matches(name, wanted) for name in found):
            raise ValueError(
                "parameters must be names of parameters or modules of the model, or patterns "
                f"that some match; got {wanted!r}; "
                f"there are {', '.join(found)}"
            )
    return _real({n: p for n, p in found.items() if any(_matches(n, w) for w in parameters)})


def _moves(p: Tensor) -> bool:
    """Whether a parameter can have a gradient; whole numbers have none."""
    return p.is_floating_point() or p.is_complex()


def _real(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, p in parameters.items():
        if p.is_complex():
            raise ValueError(
                f"parameters must be real; {name!r} is {p.dtype}; keep its real and imaginary "
                "parts in one real parameter and call torch.view_as_complex in forward, or name "
                "the others with parameters="
            )
    return parameters


def _matches(name: str, wanted: str) -> bool:
    return fnmatchcase(name, wanted) or fnmatchcase(name, f"{wanted}.*")


def check_inputs(model: nn.Module, x: Tensor, name: str = "x") -> Tensor:
    """Return ``x`` on the device of the weights, and in their dtype where it is floating.

    Raises
    ------
    TypeError
        If ``x`` is not a tensor.
    ValueError
        If it has no first axis for the inputs, no inputs, or NaN or infinite values.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor; got {type(x).__name__}; use torch.as_tensor")
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"{name} must have at least one input along axis 0; got {tuple(x.shape)}")
    weight = first_weight(model)
    x = x.clone() if x.is_inference() else x
    if x.is_floating_point():
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} must be finite; it has NaN or infinite values")
        return x.detach().to(weight) if weight is not None else x.detach()
    return x if weight is None else x.to(weight.device)


def model_outputs(
    model: nn.Module, parameters: dict[str, Tensor], x: Tensor
) -> Float[Tensor, "n k"]:
    """Outputs at the given parameters, flattened to one row an input."""
    return called(model, parameters, (x,)).reshape(len(x), -1)
