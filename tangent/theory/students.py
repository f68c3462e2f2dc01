"""Two-layer ReLU students at a displacement: outputs and gradients, many students at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor


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

    def __post_init__(self) -> None:
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


# Up to this alpha, weights in float32 give outputs as exact as their differences do: losses after
# 1,500 steps of Figure 1(c) are as near to those in float64 (1e-7 at alpha = 1/4; at 1, 2e-6
# beside 3e-8; benchmarks/shallow.py --forms). The output at the start of students that are not
# centred is rounded anyway.
_LARGEST_DIRECT = {True: 0.25, False: 1.0}


def slices_of_one_form(students: Students) -> list[slice]:
    """Ranges of scales in which `students_on` takes one form."""
    direct = _keep_digits(students).all(0).tolist()
    ends = [j for j in range(1, len(direct)) if direct[j] != direct[j - 1]]
    return [slice(i, j) for i, j in pairwise([0, *ends, len(direct)])]


def _keep_digits(students: Students) -> Bool[Tensor, "k s"]:
    return students.alpha <= _LARGEST_DIRECT[students.centred]


def students_on(students: Students, n: int, other: StudentsOn | None = None) -> StudentsOn:
    """The students on ``n`` inputs, in the cheaper form that keeps their digits.

    ``other`` is one whose arrays may be overwritten: fewer of them stay in the cache.
    """
    kind = DirectStudents if bool(_keep_digits(students).all()) else DifferenceStudents
    return kind(students, n, other)


class StudentsOn(ABC):
    """Students on one set of inputs. All large arrays are made once and written in place.

    A ReLU unit without a bias is homogeneous, sum_i r_i relu(w . x_i) = w . sum_i r_i relu'(w .
    x_i) x_i: the gradient of its output weight follows from that of its hidden weights.
    """

    def __init__(self, students: Students, n: int, other: StudentsOn | None = None):
        (k, s), m = students.alpha.shape, students.hidden.shape[1]
        like = students.hidden
        self.shape, self.students = (k, s, m, n), students
        self.inverse = students.alpha.reciprocal()[:, :, None]
        self.inputs: Tensor = like
        self.transposed: Tensor = like
        if other is None or other.shape != self.shape:
            self.moved: Tensor = like.new_empty(k, s, *like.shape[1:])
            self.units: Tensor = like.new_empty(k, s, m, n)
            self.active: Tensor = torch.empty_like(self.units)
        else:
            self.moved, self.units, self.active = other.moved, other.units, other.active

    @abstractmethod
    def on_inputs(self, x: Float[Tensor, "k n d"]) -> Self:
        """Take ``x`` as the inputs: everything that does not change with the displacement."""

    @abstractmethod
    def residual(
        self, u: Displacement, y: Float[Tensor, "k n"], activity: bool = True
    ) -> Float[Tensor, "k s n"]:
        """Outputs minus targets."""

    def gradient(self, u: Displacement, r: Float[Tensor, "k s n"]) -> Displacement:
        """Dh(w)^T r after ``residual`` at the same ``u``, for as many r as are wanted."""
        k, s, m, n = self.shape
        masked = self._masked(r).view(k, s * m, n)
        hidden = torch.bmm(masked, self.inputs).view(k, s, m, -1)
        output = torch.linalg.vecdot(hidden, self._hidden_weights())
        return Displacement(hidden.mul_(self.weights(u)[..., None]), output)

    def weights(self, u: Displacement) -> Float[Tensor, "k s m"]:
        """Output weights a_j at the displacement ``u``."""
        return torch.addcmul(self.students.output[:, None], u.output, self.inverse)

    @abstractmethod
    def _masked(self, r: Float[Tensor, "k s n"]) -> Float[Tensor, "k s m n"]:
        """``r`` where a unit is active."""

    @abstractmethod
    def _hidden_weights(self) -> Float[Tensor, "k s m d"]:
        """The b_j at the displacement that ``residual`` was given."""

    def _take(self, x: Float[Tensor, "k n d"]) -> None:
        self.inputs, self.transposed = x, x.transpose(1, 2).contiguous()

    def _products(self, weights: Tensor) -> Tensor:
        """``weights . x`` of every unit and input."""
        k, s, m, n = self.shape
        torch.bmm(weights.view(k, s * m, -1), self.transposed, out=self.units.view(k, s * m, n))
        return self.units

    def _sum(self, weights: Tensor) -> Float[Tensor, "k s n"]:
        """Units times output weights."""
        k, s, m, n = self.shape
        return torch.bmm(weights.view(k * s, 1, m), self.units.view(k * s, m, n)).view(k, s, n)


class DirectStudents(StudentsOn):
    """Through the weights w0 + u / alpha themselves, for alpha that is not large.

    Outputs come with the rounding of alpha h(w), which differences would save. Centred students
    are compared with themselves at the start in the same arithmetic: exactly zero there.
    """

    def on_inputs(self, x: Float[Tensor, "k n d"]) -> Self:
        """Take other inputs; what was computed on the last ones is overwritten."""
        self._take(x)
        self.start: Tensor | None = None
        if self.students.centred:
            hidden, output = (t[:, None] for t in (self.students.hidden, self.students.output))
            self.start = self._outputs(
                hidden.expand_as(self.moved).contiguous(), output.expand(self.shape[:3])
            )
        return self

    def residual(
        self, u: Displacement, y: Float[Tensor, "k n"], activity: bool = True
    ) -> Float[Tensor, "k s n"]:
        """Return outputs minus targets at a displacement; `gradient` reads what it leaves."""
        hidden = self.students.hidden[:, None]
        torch.addcmul(hidden, u.hidden, self.inverse[..., None], out=self.moved)
        outputs = self._outputs(self.moved, self.weights(u))
        if self.start is not None:
            outputs.sub_(self.start)
        return outputs.sub_(y[:, None])

    def _outputs(self, hidden: Tensor, output: Tensor) -> Float[Tensor, "k s n"]:
        self._products(hidden).relu_()
        return self._sum(output * self.students.alpha[:, :, None])

    def _masked(self, r: Float[Tensor, "k s n"]) -> Float[Tensor, "k s m n"]:
        spread = r[:, :, None, :].expand(self.shape)
        # the derivative of a ReLU at what it let through; its plain form would make the array
        return torch.ops.aten.threshold_backward.grad_input(
            spread, self.units, 0, grad_input=self.active
        )

    def _hidden_weights(self) -> Float[Tensor, "k s m d"]:
        return self.moved


class DifferenceStudents(StudentsOn):
    """Base activations once, differences at every call: exact at every alpha, infinity included.

    With z the pre-activation at w0 and v its difference, relu(z + v) - relu(z) =
    max(v, -z) - max(-z, 0), which loses no digits however small v is; -z is one array for all
    scales of a problem.
    """

    def __init__(self, students: Students, n: int, other: StudentsOn | None = None):
        super().__init__(students, n, other)
        (k, s), m = students.alpha.shape, students.hidden.shape[1]
        finite = students.alpha.isfinite()
        # v is alpha times too large for a linearized student, whose alpha has no inverse
        self.unit = torch.where(finite, students.alpha, 1.0)[:, :, None]
        self.linear = None if bool(finite.all()) else ~finite[:, :, None, None]
        self.start = students.hidden.new_zeros(k, s, n)
        self.base = students.hidden.new_empty(k, m, n)
        self.whole = False

    def on_inputs(self, x: Float[Tensor, "k n d"]) -> Self:
        """Take other inputs; what was computed on the last ones is overwritten."""
        self._take(x)
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

    def residual(
        self, u: Displacement, y: Float[Tensor, "k n"], activity: bool = True
    ) -> Float[Tensor, "k s n"]:
        """Return outputs minus targets at a displacement; `gradient` reads what it leaves."""
        torch.div(u.hidden, self.unit[..., None], out=self.moved)
        self.whole = False  # whether `moved` holds the weights, not their difference alone
        v = self._products(self.moved)
        if activity:
            torch.gt(v, self.kink, out=self.active)
        torch.maximum(v, self.kink, out=v)
        v.sub_(self.above)
        moved = self._sum(self.weights(u).mul_(self.unit))
        return moved.add_(self.start).baddbmm_(u.output, self.base).sub_(y[:, None])

    def _masked(self, r: Float[Tensor, "k s n"]) -> Float[Tensor, "k s m n"]:
        return torch.mul(self.active, r[:, :, None, :], out=self.units)

    def _hidden_weights(self) -> Float[Tensor, "k s m d"]:
        if not self.whole:
            if self.linear is not None:  # their weights are those at the start
                self.moved.masked_fill_(self.linear, 0.0)
            self.moved.add_(self.students.hidden[:, None])
            self.whole = True
        return self.moved
