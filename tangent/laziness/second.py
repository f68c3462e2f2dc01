"""|D^2 h(w0)|, the largest |D^2 h(v, v)| over unit directions, by products."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tangent.laziness.operators import SecondDerivative, inner, unit

_AGREE = 1e-3  # of <v, Hess<f, h> v> with |D^2 h(v, v)|, f its direction, over |Hess<f, h> v|


@dataclass(frozen=True)
class SecondNorm:
    """A lower estimate of |D^2 h(w0)| and how far the search still moved.

    Attributes
    ----------
    value : float
    last_change : float
        Relative change in the last iteration of the best start: a hint, no bound.
    spread : float
        Largest over smallest value of the starts, less one: of different local maxima.
    """

    value: float
    last_change: float
    spread: float


def second_norm(
    model: nn.Module,
    x: Tensor,
    *,
    starts: int = 2,
    iterations: int = 6,
    generator: torch.Generator | None = None,
) -> SecondNorm:
    """Search for the largest |D^2 h(w0)(v, v)| over unit v.

    For a symmetric bilinear map the supremum over pairs is attained with both directions equal
    (for the best f, |<f, D^2 h(v, v')>| is largest at an eigenvector of a symmetric matrix). In
    turns f becomes the direction of D^2 h(v, v) and v that of the Hessian of <f, h> times v. The
    value is a lower estimate; zero for a network that is linear in its weights.

    Parameters
    ----------
    model : nn.Module
    x : Tensor of shape (n, ...)
    starts, iterations : int
    generator : torch.Generator, optional
        A CPU generator, for the starts.

    Notes
    -----
    An iteration costs about three training steps on ``x`` at once. At a kink of ReLU there is no
    second derivative: what is found is that of the smooth pieces.
    """
    second = SecondDerivative(model, x)
    found, changes = [], []
    for _ in range(starts):
        v, best, change = second.random(generator), 0.0, float("inf")
        for _ in range(iterations):
            values = second.values(v)
            size = float(values.norm())
            change = abs(size - best) / size if size > 0 else 0.0
            best = max(best, size)
            if size == 0 or change < 1e-4:
                break
            pulled = second.hessian(values / size, v)
            gap = abs(float(inner(pulled, v)) - size)
            if second.forward and gap > _AGREE * math.sqrt(float(inner(pulled, pulled))):
                second.forward = False  # an operation's two derivatives disagree: backwards alone
                values = second.values(v)
                best = size = float(values.norm())
                if size == 0:
                    break
                pulled = second.hessian(values / size, v)
            v = unit(pulled)
        found.append(best)
        changes.append(change)
    top = max(range(starts), key=found.__getitem__)
    low = min(found)
    spread = found[top] / low - 1 if low > 0 else 0.0
    return SecondNorm(found[top], changes[top], spread)
