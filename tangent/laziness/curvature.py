"""Operator norms of the first two derivatives of a model, and the laziness number kappa.

A model is here a function of its weights alone, ``h : R^p -> R^q`` with the inputs fixed
(`weight_function`); its values carry the norm of the function space, the root of the mean over
the inputs of ``|f(x_i)|**2``.

What is exact: `derivative_norm` and `derivative_rank` of a derivative that fits in memory, and
`second_derivative_norm` of a small model with one output. Any other |D^2 h|, and the suprema on a
ball (`tangent.laziness.lipschitz`), are found by search and are lower estimates.
`second_derivative_bound` is an upper one: where the two meet, as they do for the quadratic model
``X (w+**2 - w-**2)``, the number is exact. Models are differentiated as
`tangent.operations.elementary.twice_differentiable`: torch's own second derivative forwards is
wrong for layer norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import hessian, jacrev, jvp, vjp, vmap

from tangent.operations.elementary import twice_differentiable
from tangent.operations.once import mixture
from tangent.operations.pointwise import called

__all__ = [
    "Curvature",
    "WeightFunction",
    "curvature",
    "derivative",
    "derivative_norm",
    "derivative_rank",
    "second_derivative_bound",
    "second_derivative_norm",
    "weight_function",
]

WeightFunction = Callable[[Float[Tensor, " p"]], Float[Tensor, " q"]]

_ENTRIES = 4_000_000  # of a derivative held whole


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
    model: nn.Module, x: Float[Tensor, " n *shape"], *, centred: bool = False
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

    @twice_differentiable
    def outputs(w: Tensor) -> Tensor:
        parts = (v.view(s) for v, s in zip(w.split(sizes), shapes, strict=True))
        return scale * called(model, dict(zip(names, parts, strict=True)), (x,)).flatten()

    if not centred:
        return outputs, w0
    start = outputs(w0)
    return lambda w: outputs(w) - start, w0


def derivative(h: WeightFunction, w: Float[Tensor, " p"]) -> Float[Tensor, "q p"]:
    """Dh(w), whole: of all outputs at once where torch has that right, or one by one."""
    whole = jacrev(h)(w)
    values, back = vjp(h, w)
    trial = mixture(values)
    (right,) = back(trial)
    if (trial @ whole - right).norm() <= torch.finfo(w.dtype).eps ** 0.5 * right.norm():
        return whole
    return torch.stack([back(row)[0] for row in torch.eye(len(values)).to(values)])


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
    return top_singular(h, w, iterations, tolerance, generator)[0]


def top_singular(
    h: WeightFunction,
    w: Tensor,
    iterations: int = 200,
    tolerance: float = 1e-10,
    generator: torch.Generator | None = None,
) -> tuple[float, Tensor]:
    """Largest singular value of Dh(w) and its direction in the weights."""
    h = twice_differentiable(h)
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
    h, p = twice_differentiable(h), w.numel()
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
        vmap(lambda v, f: jvp(lambda weights: vjp(h, weights)[1](f)[0], (w,), (v,))[1]),
    )


def unit(t: Tensor) -> Tensor:
    return t / t.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(t.dtype).tiny)


def top_pair(
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
            v, other = unit(pulled(other, unit(second(v, other)))), v
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
    v, other = directions(starts, w, generator)
    return top_pair(h, w, v, other, iterations, tolerance)[0]


def directions(starts: int, w: Tensor, generator: torch.Generator | None) -> Tensor:
    draw = torch.randn(2, starts, w.numel(), generator=generator, dtype=w.dtype)
    return unit(draw.to(w.device))


def second_derivative_bound(h: WeightFunction, w: Float[Tensor, " p"]) -> float:
    """Upper bound on |D^2 h(w)|: it as a matrix, from p to q p or from p**2 to q.

    The smaller of the two largest singular values. Holds D^2 h whole, q p**2 numbers: for small
    models.
    """
    whole = hessian(h)(w).detach()
    q, p, _ = whole.shape
    matrices = whole.permute(1, 0, 2).reshape(p, q * p), whole.reshape(q, p * p)
    return min(float(torch.linalg.matrix_norm(m, ord=2)) for m in matrices)


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
