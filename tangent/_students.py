"""Two-layer ReLU students at a displacement: outputs and gradients, many students at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Displacement", "Students", "StudentsOn"]


@dataclass(frozen=True)
class Students:
    """Two-layer students at initialization.

    Attributes
    ----------
    hidden : Tensor of shape (k, m, d)
        The b_j of every problem, shared by its scales.
    output : Tensor of shape (k, m)
        The a_j.
    alpha : Tensor of shape (k, s)
        Factor before the sum, one a student. Infinity is the linearized student.
    centred : bool
        Whether the output at initialization is subtracted. A doubled initialization has the
        output zero; saying so here keeps it exactly zero, where a sum leaves rounding that alpha
        multiplies.
    """

    hidden: Float[Tensor, "k m d"]
    output: Float[Tensor, "k m"]
    alpha: Float[Tensor, "k s"]
    centred: bool = True

    def __post_init__(self):
        if not bool((self.alpha > 0).all()):
            raise ValueError(f"alpha must be positive; got a smallest of {self.alpha.min():g}")
        if self.hidden.shape[0] != self.alpha.shape[0]:
            raise ValueError(
                "alpha must have a row a problem; got "
                f"{self.alpha.shape[0]} rows for {self.hidden.shape[0]} problems"
            )
        if not self.centred and not bool(self.alpha.isfinite().all()):
            raise ValueError("alpha = inf has no output at initialization; set centred=True")


@dataclass(frozen=True)
class Displacement:
    """Scaled displacement ``alpha * (w - w0)`` of the weights of every student."""

    hidden: Float[Tensor, "k s m d"]
    output: Float[Tensor, "k s m"]


class StudentsOn:
    """The students on one set of inputs: base activations once, differences at every call.

    With z the pre-activation at w0 and v its difference, relu(z + v) - relu(z) =
    max(v, -z) - max(-z, 0), which loses no digits however small v is. All large arrays are made
    once and written in place; -z is one array for all scales of a problem. ``other`` is one whose
    arrays may be overwritten: fewer of them stay in the cache.
    """

    def __init__(self, students: Students, n: int, other: StudentsOn | None = None):
        (k, s), m = students.alpha.shape, students.hidden.shape[1]
        like, finite = students.hidden, students.alpha.isfinite()
        self.shape, self.students, self.finite = (k, s, m, n), students, finite
        self.inverse = students.alpha.reciprocal()[:, :, None]
        # v is alpha times too large for a linearized student, whose alpha has no inverse
        self.unit = torch.where(finite, students.alpha, 1.0)[:, :, None]
        self.linear = None if bool(finite.all()) else ~finite[:, :, None, None]
        self.start = like.new_zeros(k, s, n)
        self.base = like.new_empty(k, m, n)
        self.scaled: Tensor = like.new_empty(k, s, *like.shape[1:])
        self.difference: Tensor = like.new_empty(k, s, m, n)
        self.active = torch.empty_like(self.difference)
        if other is not None and other.shape == self.shape:
            self.scaled, self.difference, self.active = other.scaled, other.difference, other.active

    def see(self, x: Float[Tensor, "k n d"]) -> StudentsOn:
        """Take ``x`` as the inputs: everything that does not change with the displacement."""
        self.inputs, self.transposed = x, x.transpose(1, 2).contiguous()
        z = torch.bmm(self.students.hidden, self.transposed, out=self.base)
        self.kink = z.neg()[:, None]
        if self.linear is not None:
            largest = torch.finfo(z.dtype).max / 4  # stands for infinity without its inf - inf
            self.kink = torch.where(self.linear, self.kink.sign() * largest, self.kink)
        self.above = self.kink.clamp(min=0)
        z.clamp_(min=0)
        if not self.students.centred:
            at_start = torch.bmm(self.students.output[:, None], z)
            self.start = self.students.alpha[:, :, None] * at_start
        return self

    def weights(self, u: Displacement) -> Float[Tensor, "k s m"]:
        """Output weights a_j at the displacement ``u``."""
        return torch.addcmul(self.students.output[:, None], u.output, self.inverse)

    def residual(
        self, u: Displacement, y: Float[Tensor, "k n"], activity: bool = True
    ) -> Float[Tensor, "k s n"]:
        """Outputs minus targets."""
        k, s, m, n = self.shape
        v = self.difference
        torch.div(u.hidden, self.unit[..., None], out=self.scaled)
        torch.bmm(self.scaled.view(k, s * m, -1), self.transposed, out=v.view(k, s * m, n))
        if activity:
            torch.gt(v, self.kink, out=self.active)
        torch.maximum(v, self.kink, out=v)
        v.sub_(self.above)
        weights = self.weights(u).mul_(self.unit)
        moved = torch.bmm(weights.view(k * s, 1, m), v.view(k * s, m, n)).view(k, s, n)
        return moved.add_(self.start).baddbmm_(u.output, self.base).sub_(y[:, None])

    def gradient(self, u: Displacement, r: Float[Tensor, "k s n"]) -> Displacement:
        """Dh(w)^T r after ``residual`` at the same ``u``; overwrites the activity."""
        k, s, m, n = self.shape
        # the other way round, a matrix times a column, takes ten times as long on a CPU
        columns = self.difference.view(k * s, m, n).transpose(1, 2)
        moved = torch.bmm(r.view(k * s, 1, n), columns).view(k, s, m)
        if self.linear is not None:
            moved.mul_(self.finite[:, :, None])
        output = moved.baddbmm_(r, self.base.transpose(1, 2))
        masked = self.active.mul_(r[:, :, None, :]).view(k, s * m, n)
        hidden = torch.bmm(masked, self.inputs).view(k, s, m, -1)
        return Displacement(hidden.mul_(self.weights(u)[..., None]), output)
