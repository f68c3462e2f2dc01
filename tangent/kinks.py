"""Functions with kinks that a network calls, wherever it calls them from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

__all__ = ["Kinks", "kinks_of"]

# Functions with kinks, by name: where they break, for those that act unit by unit ...
_BREAKS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(("relu", "leaky_relu", "rrelu", "prelu", "selu", "abs", "absolute"), (0.0,)),
    "relu6": (0.0, 6.0),
    "hardsigmoid": (-3.0, 3.0),
    "hardswish": (-3.0, 3.0),
}
# ... and those whose breaks are arguments, or that choose among units.
_LIMITS = {"hardtanh", "clamp", "clip", "clamp_min", "clamp_max", "threshold"}
_CHOICES = {
    *(f"max_pool{d}d" for d in (1, 2, 3)),
    *(f"max_pool{d}d_with_indices" for d in (1, 2, 3)),
    *(f"adaptive_max_pool{d}d" for d in (1, 2, 3)),
    *(f"adaptive_max_pool{d}d_with_indices" for d in (1, 2, 3)),
    *("max", "min", "amax", "amin", "maximum", "minimum", "sort", "topk", "median"),
    *("hardshrink", "softshrink", "rnn_relu", "rnn_relu_cell"),
}


class Kinks(TorchFunctionMode):
    """Notes the calls of functions with kinks on what depends on the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.sides: list[Tensor] = []
        """which side of its kinks every unit is on, a tensor a call"""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name in _BREAKS or name in _LIMITS or name in _CHOICES:
            tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
            if any(t.requires_grad for t in tensors):
                self.names.append(name)
                # before the call, which may write into its argument
                if name not in _CHOICES:
                    self.sides.append(_sides(name, tensors[0].detach(), args, kwargs))
        return func(*args, **kwargs)


def _sides(name: str, value: Tensor, args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """Number of breaks below every unit."""
    if name in _BREAKS:
        breaks: list[Any] = list(_BREAKS[name])
    else:
        given = [*args[1:], *(v for k, v in kwargs.items() if k not in ("input", "inplace"))]
        if name == "hardtanh" and not given:
            given = [-1.0, 1.0]
        # threshold(x, at, value) and hardtanh(x, low, high, inplace) have another argument more
        breaks = given[:1] if name == "threshold" else given[:2]
    return sum(((value > b).byte() for b in breaks if b is not None), value.new_zeros(()).byte())


def kinks_of(model: nn.Module, x: Tensor) -> Kinks:
    """Functions with kinks in a forward pass, wherever they are called from."""
    seen = Kinks()
    # what depends on the weights is what wants a gradient
    with torch.enable_grad(), seen:
        model(x)
    return seen
