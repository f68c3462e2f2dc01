"""Operator norms of the first two derivatives of a model, and the laziness number kappa.

A model is here a function of its weights alone, ``h : R^p -> R^q`` with the inputs fixed
(`weight_function`); its values carry the norm of the function space, the root of the mean over
the inputs of ``|f(x_i)|**2``.

What is exact: `derivative_norm` and `derivative_rank` of a derivative that fits in memory, and
`second_derivative_norm` of a small model with one output. Any other |D^2 h|, and the suprema on a
ball (`lipschitz`, `derivative_lipschitz`), are found by search and are lower estimates.
`second_derivative_bound` is an upper one: where the two meet, as they do for the quadratic model
``X (w+**2 - w-**2)``, the number is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap

__all__ = [
    "Curvature",
    "WeightFunction",
    "curvature",
    "derivative",
    "derivative_lipschitz",
    "derivative_norm",
    "derivative_rank",
    "lipschitz",
    "second_derivative_bound",
    "second_derivative_norm",
    "weight_function",
]

WeightFunction = Callable[[Float[Tensor, " p"]], Float[Tensor, " q"]]

_ENTRIES = 4_000_000  # of a derivative held whole

_Height = Callable[[Tensor], tuple[float, Tensor]]
"""A number at a point, and its gradient there."""


@dataclass(frozen=True)
class Curvature:
    """The numbers of equation (1) of Chizat et al. 2019.

    Attributes
    ----------
    distance : float
        |h(w0) - y|.
    first : float
        |Dh(w0)|.
    second : float
        |D^2 h(w0)|: largest |D^2 h(v, v')| over unit v, v'.
    """

    distance: float
    first: float
    second: float

    @property
    def kappa(self) -> float:
        """Laziness number distance * second / first**2: lazy if much smaller than 1."""
        return self.distance * self.second / self.first**2

    def scaled(self, alpha: float, distance: float) -> Curvature:
        """The numbers of ``alpha * h``; ``distance`` is |alpha h(w0) - y|.

        With h(w0) = 0 the distance is unchanged and kappa is divided by alpha.
        """
        return Curvature(distance, alpha * self.first, alpha * self.second)

    def stretched(self, factor: float, degree: float, distance: float) -> Curvature:
        """The numbers at ``factor * w0`` of a model homogeneous of the given degree.

        ``distance`` is |factor**degree h(w0) - y|. With h(w0) = 0, kappa is divided by
        ``factor**degree``.
        """
        first = factor ** (degree - 1) * self.first
        return Curvature(distance, first, factor ** (degree - 2) * self.second)


@torch.no_grad()
def weight_function(
    model: nn.Module, x: Float[Tensor, n * shape], *, centred: bool = False
) -> tuple[WeightFunction, Float[Tensor, " p"]]:
    """Outputs of ``model`` on ``x`` as a function of its weights in one vector.

    The outputs are divided by sqrt(n), so that Euclidean norms are norms in the function space.

    Parameters
    ----------
    model : nn.Module
        Left as found.
    x : Tensor of shape (n, *shape)
    centred : bool
        Subtract the outputs at the present weights.

    Returns
    -------
    h : callable
        From weights of shape (p,) to outputs of shape (n k,).
    w0 : Tensor of shape (p,)
        The present weights, in the order of ``model.parameters()``.
    """
    names, values = zip(*model.named_parameters(), strict=True)
    shapes, sizes = [p.shape for p in values], [p.numel() for p in values]
    w0 = torch.cat([p.detach().flatten() for p in values])
    scale = 1 / math.sqrt(len(x))

    def outputs(w: Tensor) -> Tensor:
        parts = (v.view(s) for v, s in zip(w.split(sizes), shapes, strict=True))
        return scale * functional_call(model, dict(zip(names, parts, strict=True)), (x,)).flatten()

    if not centred:
        return outputs, w0
    start = outputs(w0)
    return lambda w: outputs(w) - start, w0


def derivative(h: WeightFunction, w: Float[Tensor, " p"]) -> Float[Tensor, "q p"]:
    """Dh(w), whole."""
    return jacrev(h)(w)


def derivative_norm(
    h: WeightFunction,
    w: Float[Tensor, " p"],
    *,
    iterations: int = 200,
    tolerance: float = 1e-10,
    generator: torch.Generator | None = None,
) -> float:
    """Largest singular value of Dh(w): exact for a small model, by power iteration otherwise.

    Power iteration never exceeds the largest singular value, and stops at ``tolerance``.
    """
    return _top_singular(h, w, iterations, tolerance, generator)[0]


def _top_singular(
    h: WeightFunction,
    w: Tensor,
    iterations: int = 200,
    tolerance: float = 1e-10,
    generator: torch.Generator | None = None,
) -> tuple[float, Tensor]:
    """Largest singular value of Dh(w) and its direction in the weights."""
    if h(w).numel() * w.numel() <= _ENTRIES:
        _, values, right = torch.linalg.svd(derivative(h, w), full_matrices=False)
        return float(values[0]), right[0]
    v = torch.randn(w.shape, generator=generator, dtype=w.dtype).to(w.device)
    _, pull = vjp(h, w)
    norm = 0.0
    for _ in range(iterations):
        v = pull(jvp(h, (w,), (v / v.norm(),))[1])[0]
        before, norm = norm, math.sqrt(float(v.norm()))
        if abs(norm - before) <= tolerance * norm:
            break
    return norm, v / v.norm().clamp(min=torch.finfo(v.dtype).tiny)


def derivative_rank(h: WeightFunction, w: Float[Tensor, " p"], *, tolerance: float = 1e-9) -> int:
    """Rank of Dh(w): singular values above ``tolerance`` times the largest."""
    values = torch.linalg.svdvals(derivative(h, w))
    return int((values > tolerance * values[0]).sum())


def _second_derivative(
    h: WeightFunction, w: Tensor
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]:
    """Batched D^2 h(v, v') and Hess<f, h> v, from the whole D^2 h where that is small."""
    p = w.numel()
    if h(w).numel() * p * p <= _ENTRIES:
        whole = hessian(h)(w).detach()
        return (
            lambda v, other: torch.einsum("qab,sa,sb->sq", whole, v, other),
            lambda v, f: torch.einsum("qab,sq,sa->sb", whole, f, v),
        )

    def along(v: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda weights: jvp(h, (weights,), (v,))[1]

    return (
        vmap(lambda v, other: jvp(along(v), (w,), (other,))[1]),
        vmap(lambda v, f: vjp(along(v), w)[1](f)[0]),
    )


def _unit(t: Tensor) -> Tensor:
    return t / t.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(t.dtype).tiny)


def _top_pair(
    h: WeightFunction, w: Tensor, v: Tensor, other: Tensor, iterations: int, tolerance: float
) -> tuple[float, Tensor, Tensor]:
    """Largest |D^2 h(w)(v, v')| that alternating power iteration finds from rows v and v'."""
    if h(w).numel() == 1 and w.numel() ** 2 <= _ENTRIES:
        values, vectors = torch.linalg.eigh(hessian(h)(w).detach().view(w.numel(), w.numel()))
        top = int(values.abs().argmax())
        return float(values[top].abs()), vectors[:, top], vectors[:, top]
    second, pulled = _second_derivative(h, w)
    norms = second(v, other).norm(dim=-1)
    best = 0.0
    for _ in range(iterations):
        for _ in range(2):
            v, other = _unit(pulled(other, _unit(second(v, other)))), v
        norms = second(v, other).norm(dim=-1)
        before, best = best, float(norms.max())
        if abs(best - before) <= tolerance * best:
            break
    top = int(norms.argmax())
    return best, v[top], other[top]


def second_derivative_norm(
    h: WeightFunction,
    w: Float[Tensor, " p"],
    *,
    starts: int = 8,
    iterations: int = 300,
    tolerance: float = 1e-9,
    generator: torch.Generator | None = None,
) -> float:
    """Largest |D^2 h(w)(v, v')| over unit v and v': exact for a small model of one output.

    There it is the Hessian's largest eigenvalue in size. Otherwise by alternating power
    iteration: for f the direction of D^2 h(v, v'), v is replaced by that of ``Hess<f, h> v'`` and
    then v' by that of ``Hess<f, h> v``. The value never falls, but may end at a local maximum: the
    best of several starts is returned, a lower estimate. Zero for models linear in their weights,
    and without meaning at a kink of ReLU.

    Parameters
    ----------
    h : callable
    w : Tensor of shape (p,)
    starts : int
        Random starts, run together.
    iterations : int
    tolerance : float
        Relative change of the value at which the iteration stops.
    generator : torch.Generator, optional
    """
    v, other = _directions(starts, w, generator)
    return _top_pair(h, w, v, other, iterations, tolerance)[0]


def _directions(starts: int, w: Tensor, generator: torch.Generator | None) -> Tensor:
    draw = torch.randn(2, starts, w.numel(), generator=generator, dtype=w.dtype)
    return _unit(draw.to(w.device))


def second_derivative_bound(h: WeightFunction, w: Float[Tensor, " p"]) -> float:
    """Upper bound on |D^2 h(w)|: it as a matrix, from p to q p or from p**2 to q.

    The smaller of the two largest singular values. Holds D^2 h whole, q p**2 numbers: for small
    models.
    """
    whole = hessian(h)(w).detach()
    q, p, _ = whole.shape
    matrices = whole.permute(1, 0, 2).reshape(p, q * p), whole.reshape(q, p * p)
    return min(float(torch.linalg.matrix_norm(m, ord=2)) for m in matrices)


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

    def height(w: Tensor) -> tuple[float, Tensor]:
        norm, v = _top_singular(h, w, generator=generator)
        f = _unit(jvp(h, (w,), (v,))[1].detach())
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

    def height(w: Tensor) -> tuple[float, Tensor]:
        norm, v, other = _top_pair(h, w, first, second_start, 300, 1e-9)

        def second(weights: Tensor) -> Tensor:
            return jvp(lambda a: jvp(h, (a,), (v,))[1], (weights,), (other,))[1]

        f = _unit(second(w).detach())
        return norm, grad(lambda weights: f @ second(weights))(w).detach()

    # the same at every point: a height must not change between two looks
    first, second_start = _directions(starts, w0, generator)
    return _highest(height, w0, radius, _in_ball(w0, radius, samples, generator), ascents)


def curvature(
    h: WeightFunction,
    w0: Float[Tensor, " p"],
    y: Float[Tensor, " q"],
    *,
    starts: int = 8,
    tolerance: float = 1e-9,
    generator: torch.Generator | None = None,
) -> Curvature:
    """Distance to the target and norms of the derivatives at w0, hence kappa.

    Parameters
    ----------
    h : callable
    w0 : Tensor of shape (p,)
    y : Tensor of shape (q,)
        Target, in the norm of h's values: divided by sqrt(n) for `weight_function`.
    starts, tolerance
        Of `second_derivative_norm`.
    generator : torch.Generator, optional

    Notes
    -----
    Source: Chizat et al. 2019, equation (1). kappa does not depend on the norm chosen on the
    function space, as long as it is one norm.
    """
    return Curvature(
        float((h(w0) - y).norm()),
        derivative_norm(h, w0, generator=generator),
        second_derivative_norm(h, w0, starts=starts, tolerance=tolerance, generator=generator),
    )
