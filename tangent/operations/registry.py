"""The pair that travels through a network, and the registry of rules that move it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

__all__ = ["Gate", "Pair", "Rule", "gate_for", "register_gate", "register_rule", "rule_for"]


class Pair(NamedTuple):
    """An activation ``base`` of h(w0) and ``difference = alpha * (moved - base)``.

    ``moved`` is the same activation at ``w0 + delta / alpha``. A ``difference`` of None is
    exactly zero: nothing upstream moves (an input, a constant, a frozen weight).
    """

    base: Tensor
    difference: Tensor | None = None

    def moved(self, alpha: float) -> Tensor:
        """Return the activation at the displaced weights (``base`` itself at alpha = inf)."""
        if self.difference is None or math.isinf(alpha):
            return self.base
        return self.base + self.difference / alpha


Rule = Callable[..., Any]
Gate = Callable[..., Tensor | None]
Target = type[nn.Module] | Callable[..., Any] | str

_RULES: dict[Target, Rule] = {}
_GATES: dict[Target, Gate] = {}


def register_rule(*targets: Target) -> Callable[[Rule], Rule]:
    """Decorate a function as the difference rule of some operations.

    Parameters
    ----------
    *targets
        What the traced graph calls: a module class, a function (``torch.relu``) or the name of a
        tensor method (``"relu"``). A later registration replaces an earlier one.

    Returns
    -------
    decorator
        For functions and methods the rule is called as ``rule(alpha, *args, **kwargs)`` with the
        arguments of the operation, tensors that depend on the input or the weights being `Pair`;
        for a module class as ``rule(alpha, module, weights, *args, **kwargs)``, ``weights`` a
        dict of the module's own parameters as `Pair` (None for one that is absent). It returns a
        `Pair` (or a plain value that depends on neither, a shape for example).

    Examples
    --------
    A module that multiplies by two, whatever its weights:

    >>> import torch
    >>> class Twice(torch.nn.Module):
    ...     def forward(self, x):
    ...         return 2 * x
    >>> @register_rule(Twice)
    ... def _(alpha, module, weights, x):
    ...     return Pair(2 * x.base, None if x.difference is None else 2 * x.difference)
    """
    if not targets:
        raise ValueError("register_rule needs at least one target; got none")
    for target in targets:
        if not (callable(target) or isinstance(target, str)):
            raise TypeError(
                f"a target is a module class, a function or a method's name; got {target!r}"
            )

    def decorator(rule: Rule) -> Rule:
        for target in targets:
            _RULES[target] = rule
        return rule

    return decorator


def register_gate(*targets: Target) -> Callable[[Gate], Gate]:
    """Decorate the function that says where a gate (ReLU, max pooling) is stable.

    It is called like the rule of the same target and returns a bool tensor, True where the moved
    network decides as the base does, or None when that cannot be told from one activation.
    """

    def decorator(gate: Gate) -> Gate:
        for target in targets:
            _GATES[target] = gate
        return gate

    return decorator


def gate_for(target: Target) -> Gate | None:
    """Return the stability function of ``target``, or None when it is no gate."""
    return _GATES.get(target)


def rule_for(target: Target) -> Rule | None:
    """Return the rule of ``target``, or None when there is none.

    A module class is looked up exactly, not through its bases: a subclass computes something
    else, or it would not exist.
    """
    try:
        return _RULES.get(target)
    except TypeError:  # unhashable
        return None
