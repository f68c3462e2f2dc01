"""Lipschitz constants of a model and of its derivative on a ball of weights.

Exact where the operator norm does not change over the ball or grows towards its sphere in a known
way; else found by search, a lower estimate sharpened by ascent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp

from tangent.laziness.curvature import WeightFunction, directions, top_pair, top_singular, unit
from tangent.operations.elementary import twice_differentiable

__all__ = ["derivative_lipschitz", "lipschitz"]

_Height = Callable[[Tensor], tuple[float, Tensor]]
"""A number at a point, and its gradient there."""


def _in_ball(
    w0: Tensor, radius: float, samples: int, generator: torch.Generator | None
) -> list[Tensor]:
    """The centre and uniform random points of the ball."""
    points = [w0]
    for _ in range(samples):
        step = torch.randn(w0.shape, generator=generator, dtype=w0.dtype)
        share = float(torch.rand(1, generator=generator, dtype=w0.dtype)) ** (1 / w0.numel())
        points.append(w0 + (radius * share * step / step.norm()).to(w0.device))
    return points


def _climbed(
    height: _Height,
    w0: Tensor,
    radius: float,
    point: Tensor,
    *,
    steps: int = 50,
    tolerance: float = 1e-9,
) -> float:
    """Height reached from ``point`` by ascent inside the ball around w0.

    Every step goes towards the point of the ball where the linearized height is largest (Frank
    and Wolfe), as far as the height grows: all the way for a convex one, whose maximum is on the
    sphere.
    """
    value, gradient = height(point)
    for _ in range(steps):
        size = float(gradient.norm())
        if 2 * radius * size <= tolerance * value:
            break
        towards = w0 + radius * gradient / size - point
        share = 1.0
        while share > 1e-4:
            reached, next_gradient = height(point + share * towards)
            if reached > value * (1 + tolerance):
                break
            share /= 2
        else:
            break
        point, value, gradient = point + share * towards, reached, next_gradient
    return value


def _highest(
    height: _Height, w0: Tensor, radius: float, points: list[Tensor], ascents: int
) -> float:
    """Largest height at the points, and by ascent from the best of them."""
    if not radius >= 0:
        raise ValueError(f"radius must be at least 0; got {radius!r}")
    found = sorted(((height(w)[0], i) for i, w in enumerate(points)), reverse=True)
    climbed = [_climbed(height, w0, radius, points[i]) for _, i in found[:ascents]]
    return max([found[0][0], *climbed])


def lipschitz(
    h: WeightFunction,
    w0: Float[Tensor, " p"],
    radius: float,
    *,
    samples: int = 20,
    ascents: int = 5,
    generator: torch.Generator | None = None,
) -> float:
    """Lipschitz constant of h on the ball of ``radius`` around w0: the largest |Dh| there.

    Exact for models linear in their weights; a lower estimate otherwise, sharpened by ascent
    inside the ball. ``|Dh(w0)| + radius * Lip(Dh)`` is an upper one, for a Lip(Dh) that is exact
    or an upper one itself (`second_derivative_bound` for quadratic models).

    Parameters
    ----------
    h : callable
    w0 : Tensor of shape (p,)
    radius : float
    samples : int
        Random points of the ball, beside its centre.
    ascents : int
        From the best of these points.
    generator : torch.Generator, optional
    """

    h = twice_differentiable(h)

    def height(w: Tensor) -> tuple[float, Tensor]:
        norm, v = top_singular(h, w, generator=generator)
        f = unit(jvp(h, (w,), (v,))[1].detach())
        # the singular vectors' own change does not count, to first order
        return norm, grad(lambda weights: f @ jvp(h, (weights,), (v,))[1])(w).detach()

    return _highest(height, w0, radius, _in_ball(w0, radius, samples, generator), ascents)


def derivative_lipschitz(
    h: WeightFunction,
    w0: Float[Tensor, " p"],
    radius: float,
    *,
    samples: int = 20,
    starts: int = 8,
    ascents: int = 5,
    generator: torch.Generator | None = None,
) -> float:
    """Lipschitz constant of Dh on the ball of ``radius`` around w0: the largest |D^2 h| there.

    Exact for small quadratic models of one output. A lower estimate otherwise, sharpened by
    ascent inside the ball; for quadratic models it is that of `second_derivative_norm`, since
    D^2 h does not change.

    Parameters
    ----------
    h : callable
    w0 : Tensor of shape (p,)
    radius : float
    samples, ascents
        As in `lipschitz`.
    starts : int
        Of `second_derivative_norm`, at every point.
    generator : torch.Generator, optional
    """

    h = twice_differentiable(h)

    def height(w: Tensor) -> tuple[float, Tensor]:
        norm, v, other = top_pair(h, w, first, second_start, 300, 1e-9)

        def second(weights: Tensor) -> Tensor:
            return jvp(lambda a: jvp(h, (a,), (v,))[1], (weights,), (other,))[1]

        f = unit(second(w).detach())
        return norm, grad(lambda weights: f @ second(weights))(w).detach()

    # the same at every point: a height must not change between two looks
    first, second_start = directions(starts, w0, generator)
    return _highest(height, w0, radius, _in_ball(w0, radius, samples, generator), ascents)
