"""The derivatives of a network in its weights as products, in the norms of the criterion.

Values carry the norm |f|^2 = (1/n) sum_i |f(x_i)|^2 of the function space, so that the kernel
is that of the inputs divided by n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import jvp

from tangent.kernel.products import KernelProduct
from tangent.machine.copies import copied
from tangent.operations.affine import FasterLinear
from tangent.operations.elementary import TwiceBackwards, TwiceForwards
from tangent.operations.pointwise import called


class NormalizedKernel:
    """v -> K v / n for the tangent kernel K of the n inputs, (n k) x (n k), on float64 vectors.

    Columns of a matrix at once spare runs of the network.

    Parameters
    ----------
    model : nn.Module
    x : Tensor of shape (n, ...)
    batch_size : int
    """

    def __init__(self, model: nn.Module, x: Tensor, batch_size: int):
        self.product = KernelProduct(model, x, batch_size=batch_size)
        self.n, self.size = len(x), self.product.rows
        self.like = next(p for p in model.parameters() if p.is_floating_point()).detach()

    def __call__(self, v: Float[Tensor, " q *r"]) -> Float[Tensor, " q *r"]:
        """Return the kernel times ``v``, or times the columns of a matrix."""
        return self.product(v.to(self.like)).double().cpu() / self.n


class SecondDerivative:
    """Products with D^2 h(w0), h the outputs on the inputs divided by sqrt(n).

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    x : Tensor of shape (n, ...)
        The inputs at once.

    Notes
    -----
    ``hessian(f, v)`` differentiates twice backwards, which more operations can do than forward
    mode; ``values(v)`` is the second derivative along a line, forwards twice where all operations
    can do it (``forward``), which takes three fifths of the time, and backwards three times else.
    """

    def __init__(self, model: nn.Module, x: Tensor):
        # A copy: some networks keep what they computed, here from within torch.func.
        self.model, self.x = copied(model), x
        self.names = [name for name, _ in model.named_parameters()]
        self.weights = [p.detach().clone().requires_grad_() for p in model.parameters()]
        self.forward = True

    def _outputs(self, weights: Sequence[Tensor] | None = None) -> Tensor:
        given = self.weights if weights is None else weights
        tensors = dict(zip(self.names, given, strict=True))
        math_paths = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
        with math_paths, TwiceBackwards():
            return called(self.model, tensors, (self.x,)).flatten() / math.sqrt(len(self.x))

    def random(self, generator: torch.Generator | None) -> list[Tensor]:
        """A random direction of unit norm."""
        draw = [torch.randn(w.shape, generator=generator).to(w) for w in self.weights]
        return unit(draw)

    def hessian(self, f: Tensor, v: Sequence[Tensor]) -> list[Tensor]:
        """The Hessian of <f, h> times ``v``."""
        with torch.enable_grad():
            with FasterLinear():
                outputs = self._outputs()
            first = torch.autograd.grad(
                outputs @ f, self.weights, create_graph=True, materialize_grads=True
            )
            along = inner(first, v)
            if not along.requires_grad:
                return [torch.zeros_like(w) for w in self.weights]
            return list(torch.autograd.grad(along, self.weights, materialize_grads=True))

    def values(self, v: Sequence[Tensor]) -> Tensor:
        """D^2 h(v, v), of shape (n k,)."""
        if self.forward:
            try:
                return self._values_forwards(v)
            except RuntimeError:  # an operation without forward mode
                self.forward = False
        return self._values_backwards(v)

    def _values_forwards(self, v: Sequence[Tensor]) -> Tensor:
        at, along = (tuple(w.detach() for w in self.weights),), (tuple(v),)

        def slope(weights: tuple[Tensor, ...]) -> Tensor:
            return jvp(lambda w: self._outputs(w), (weights,), along)[1]

        # without gradients torch takes a SiLU that has no second derivative forwards
        with torch.enable_grad(), TwiceForwards():
            return jvp(slope, at, along)[1].detach()

    def _values_backwards(self, v: Sequence[Tensor]) -> Tensor:
        with torch.enable_grad():
            outputs = self._outputs()
            dual = torch.zeros_like(outputs, requires_grad=True)
            pulled = torch.autograd.grad(
                outputs @ dual, self.weights, create_graph=True, materialize_grads=True
            )
            first = inner(pulled, v)
            if not first.requires_grad:
                return torch.zeros_like(dual)
            second = torch.autograd.grad(
                first, self.weights, create_graph=True, materialize_grads=True
            )
            twice = inner(second, v)
            if not twice.requires_grad:
                return torch.zeros_like(dual)
            (found,) = torch.autograd.grad(twice, dual, materialize_grads=True)
            return found


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product of two displacements."""
    return torch.stack([(s * t).sum() for s, t in zip(a, b, strict=True)]).sum()


def unit(v: Sequence[Tensor]) -> list[Tensor]:
    """A displacement divided by its norm; zeros stay."""
    size = math.sqrt(float(inner(v, v)))
    return [t / size for t in v] if size > 0 else list(v)
