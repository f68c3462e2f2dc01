"""Cross entropy on a linearized network, to its minimum.

The problem is convex: minimize ``sum_i CE(f_i, y_i) + ridge / 2 * alpha^T K alpha`` over
``f = f_0 + K alpha``. Newton's method needs only products with the kernel, so that it serves a
kernel in memory and a matrix-free one alike. At the minimum ``ridge * alpha = onehot - softmax``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tangent.solve.conjugate import UnconvergedWarning
from tangent.solve.system import check_ridge

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CrossEntropySolution:
    """The minimum of the regularized cross entropy on a linearized network.

    Attributes
    ----------
    coefficients : Tensor of shape (n, k)
        Predictions are the initial output plus the cross kernel times these.
    outputs : Tensor of shape (n, k)
        Logits on the training inputs.
    objective : float
        Sum of cross entropies plus the penalty.
    gradient : float
        Norm of the gradient in the weights, over its value at alpha = 0.
    iterations, products : int
        Newton steps, and kernel products of shape (n, k).
    converged : bool
    """

    coefficients: Float[Tensor, "n k"]
    outputs: Float[Tensor, "n k"]
    objective: float
    gradient: float
    iterations: int
    products: int
    converged: bool


def cross_entropy_solution(
    product: Product,
    labels: Int[Tensor, " n"] | Float[Tensor, "n k"],
    ridge: float,
    *,
    num_classes: int | None = None,
    sample_weight: Float[Tensor, " n"] | None = None,
    initial_output: Float[Tensor, "n k"] | None = None,
    initial: Float[Tensor, "n k"] | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 50,
    dtype: torch.dtype = torch.float64,
) -> CrossEntropySolution:
    """Regularized multinomial logistic regression on the tangent features, by Newton's method.

    Parameters
    ----------
    product : callable
        Returns the kernel times a tensor of shape (n, k): ``lambda v: kernel @ v`` for a kernel
        shared across outputs.
    labels : Tensor of shape (n,), integers, or (n, k), probabilities
    ridge : float
        Positive: without it separable data have no minimum.
    num_classes : int, optional
        For integer labels; the largest label plus one by default.
    sample_weight : Tensor of shape (n,), optional
        Multiplies the cross entropy of each input; a weight of 2 is the input twice.
    initial_output : Tensor of shape (n, k), optional
        The network's outputs at initialization; zero by default.
    initial : Tensor of shape (n, k), optional
        Coefficients to start from, of a neighbouring ridge for example.
    tolerance : float
        On the relative gradient norm.
    max_iterations : int
        Newton steps, each with up to 200 conjugate-gradient iterations inside.

    Returns
    -------
    CrossEntropySolution

    Warns
    -----
    UnconvergedWarning
        If ``max_iterations`` was reached first.
    """
    ridge = check_ridge(ridge)
    if ridge == 0:
        raise ValueError(
            "ridge must be positive for cross entropy: on separable data the minimum is at "
            "infinity; got 0; take a small value, or stop gradient descent early instead"
        )
    target = _probabilities(labels, num_classes, dtype)
    weight = target.new_ones(len(target)) if sample_weight is None else sample_weight.to(target)
    base = torch.zeros_like(target) if initial_output is None else initial_output.to(target)
    alpha = torch.zeros_like(target) if initial is None else initial.to(target)
    moved, products = (product(alpha), 1) if initial is not None else (torch.zeros_like(target), 0)
    problem = _Problem(base, target, weight, ridge)
    g = problem.gradient(torch.zeros_like(alpha), F.softmax(base, 1))
    scale = _norm(g, product(g)) or 1.0
    products += 1
    value = problem.objective(alpha, moved)
    for step in range(max_iterations + 1):
        p = F.softmax(base + moved, dim=1)
        g = problem.gradient(alpha, p)
        image = product(g)
        size = _norm(g, image) / scale
        products += 1
        if not math.isfinite(size):
            raise ValueError(f"product gave NaN or infinite values at Newton step {step}")
        if size <= tolerance or step == max_iterations:
            break
        direction, change, inner = _newton_direction(
            product, p, weight, g, image, ridge, min(0.1, size)
        )
        products += inner
        slope = float((image * direction).sum())
        found = problem.lower(alpha, moved, direction, change, value, slope)
        if found is None:  # rounding: no smaller objective can be told from this one
            break
        alpha, moved, value = found
    converged = size <= tolerance
    if not converged:
        _warn(step, size, tolerance)
    return CrossEntropySolution(alpha, base + moved, value, size, step, products, converged)


def _warn(step: int, size: float, tolerance: float) -> None:
    warnings.warn(
        f"Newton's method stopped after {step} steps with a relative gradient of {size:.3g}, "
        f"above tolerance={tolerance:.3g}; raise max_iterations, ridge or tolerance",
        UnconvergedWarning,
        stacklevel=3,
    )


@dataclass(frozen=True)
class _Problem:
    """The objective as a function of coefficients and the outputs that they move."""

    base: Tensor
    target: Tensor
    weight: Tensor
    ridge: float

    def objective(self, alpha: Tensor, moved: Tensor) -> float:
        loss = F.cross_entropy(self.base + moved, self.target, reduction="none")
        return float(self.weight @ loss + self.ridge / 2 * (alpha * moved).sum())

    def gradient(self, alpha: Tensor, p: Tensor) -> Tensor:
        return self.weight[:, None] * (p - self.target) + self.ridge * alpha

    def lower(
        self,
        alpha: Tensor,
        moved: Tensor,
        direction: Tensor,
        change: Tensor,
        value: float,
        slope: float,
    ) -> tuple[Tensor, Tensor, float] | None:
        """The first of the halved steps that descends enough, and its objective."""
        length = 1.0
        while length >= 1e-8:
            there = alpha + length * direction, moved + length * change
            new = self.objective(*there)
            if new <= value + 1e-4 * length * slope:
                return *there, new
            length /= 2
        return None


def _norm(g: Tensor, image: Tensor) -> float:
    """The norm of ``g`` in the inner product of the kernel, ``image`` the kernel times g."""
    return math.sqrt(max(float((g * image).sum()), 0.0))


def _newton_direction(
    product: Callable[[Tensor], Tensor],
    p: Float[Tensor, "n k"],
    weight: Float[Tensor, " n"],
    g: Float[Tensor, "n k"],
    image: Float[Tensor, "n k"],
    ridge: float,
    tolerance: float,
) -> tuple[Tensor, Tensor, int]:
    """Solve ``(ridge + W K) d = -g``, W the Hessian of the cross entropy in the outputs.

    By conjugate gradients in the inner product of K, in which the operator is symmetric: they
    are those of the weights' Newton system, at one kernel product an iteration. Returns d, K d
    and the products spent.
    """

    def hessian(v: Tensor) -> Tensor:
        v = p * v
        return weight[:, None] * (v - p * v.sum(1, keepdim=True))

    x, moved = torch.zeros_like(g), torch.zeros_like(g)
    r, kr = -g, -image
    d, kd = r, kr
    rho = float((r * kr).sum())
    goal, steps = rho * tolerance**2, 0
    while rho > goal and steps < 200:
        q = ridge * d + hessian(kd)
        curvature = float((kd * q).sum())
        if curvature <= 0:  # rounding: nothing left to gain
            break
        a = rho / curvature
        x, moved = x + a * d, moved + a * kd
        r, kr = r - a * q, kr - a * product(q)
        new = float((r * kr).sum())
        d, kd = r + new / rho * d, kr + new / rho * kd
        rho, steps = new, steps + 1
    return x, moved, steps


def _probabilities(labels: Tensor, num_classes: int | None, dtype: torch.dtype) -> Tensor:
    if labels.is_floating_point():
        if not torch.isfinite(labels).all():
            raise ValueError("labels must be finite; they hold NaN or infinite entries")
        return labels.to(dtype)
    if not len(labels):
        raise ValueError("labels must hold one label at least; got none")
    k = num_classes or int(labels.max()) + 1
    if int(labels.min()) < 0 or int(labels.max()) >= k:
        raise ValueError(
            f"labels must be in 0..{k - 1}; got {int(labels.min())}..{int(labels.max())}"
        )
    return F.one_hot(labels, k).to(dtype)
