"""Centring of the tangent features: the constant direction eliminated in closed form.

The largest eigenvalue of a tangent kernel belongs to a nearly constant function, and it alone
sets the largest stable step. Subtracting from every feature its mean over the training inputs
removes it; an unpenalized constant, the mean of the targets, takes its place. The kernel of the
centred features is ``H K H`` with ``H = I - 1 1^T / n`` (Schoelkopf, Smola & Mueller 1998).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vjp

from tangent.engine.functional import evaluating, model_outputs
from tangent.modes import ordinary_mode, ordinary_network, ordinary_tensor
from tangent.outputs import output_shape

__all__ = ["CentredModel", "KernelCentring", "centred_product", "mean_tangent_features"]


@dataclass(frozen=True)
class KernelCentring:
    """Means of a training kernel, from which any kernel with those inputs is centred.

    Attributes
    ----------
    row_means : Tensor of shape (n,), or (k, n, k) for a full kernel
        Mean of the kernel over its first inputs, with the weights of the fit.
    weights : Tensor of shape (n,)
        Sum to 1.
    """

    row_means: Tensor
    weights: Tensor

    @classmethod
    def fit(cls, kernel: Tensor, weights: Tensor | None = None) -> KernelCentring:
        """Return the centring of a training kernel of shape (n, n) or (n, k, n, k).

        ``weights`` of shape (n,), all equal by default, weigh the inputs in the mean.
        """
        n = len(kernel)
        w = kernel.new_ones(n) if weights is None else weights.to(kernel)
        w = w / w.sum()
        return cls(torch.tensordot(w, kernel, dims=1), w)

    def train(self, kernel: Tensor) -> Tensor:
        """Return the centred training kernel."""
        return self.cross(kernel)

    def cross(self, kernel: Tensor) -> Tensor:
        """Return the centred kernel of new inputs (first axis) with the training inputs."""
        if kernel.ndim == 2:
            mean = self.row_means @ self.weights
            return kernel - (kernel @ self.weights)[:, None] - self.row_means + mean
        own = torch.einsum("iajb,j->iab", kernel, self.weights)
        mean = torch.einsum("ajb,j->ab", self.row_means, self.weights)
        return kernel - own[:, :, None, :] - self.row_means + mean[:, None, :]

    def diagonal(self, diagonal: Tensor, cross: Tensor) -> Tensor:
        """Return the centred prior variances of new inputs, for a shared kernel.

        ``diagonal`` of shape (n_new,) is the kernel of each new input with itself, ``cross`` of
        shape (n_new, n) its kernel with the training inputs; neither is centred.
        """
        return diagonal - 2 * cross @ self.weights + self.row_means @ self.weights


def centred_product(product: Callable[[Tensor], Tensor], n: int) -> Callable[[Tensor], Tensor]:
    """Return the matrix-free product with the centred kernel, from that with the kernel.

    Parameters
    ----------
    product : callable
        Takes and returns tensors whose first axis splits into ``n`` inputs: (n, r), or
        (n * k, r) for a full kernel.
    n : int
        Inputs.
    """

    def centre(v: Tensor) -> Tensor:
        parts = v.reshape(n, -1, *v.shape[1:])
        return (parts - parts.mean(dim=0)).reshape(v.shape)

    return lambda v: centre(product(centre(v)))


@ordinary_mode
def mean_tangent_features(
    model: nn.Module, batches: Iterable[Tensor], *, dtype: torch.dtype | None = None
) -> list[Float[Tensor, " k *parameter"]]:
    """Mean over the inputs of every output's gradient, one tensor a parameter.

    Parameters
    ----------
    model : nn.Module
        Read at its present weights and left as found. Parameters with ``requires_grad=False``
        stay where they are, as in `tangent.linearize`, and have no features.
    batches : iterable of Tensor of shape (b, *image)
        The training inputs, in parts that fit in memory.
    dtype : torch.dtype, optional
        Of the sums; that of the weights by default.

    Returns
    -------
    list of Tensor of shape (k, *parameter.shape)
        In the order of the trainable ``model.parameters()``. k times the memory of the model.

    Notes
    -----
    One forward and k backward passes over the inputs: the mean needs no gradient of one input.
    """
    model = ordinary_network(model)
    params = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not params:
        raise ValueError("model has no parameter with requires_grad=True: nothing can move")
    sums: list[Tensor] | None = None
    count = 0
    for x in batches:
        x = ordinary_tensor(x)
        output_shape(model, x)
        with evaluating(model):
            outputs, pullback = vjp(lambda p, x=x: model_outputs(model, p, x), params)
        k = outputs.shape[1]
        rows = []
        for a in range(k):
            cotangent = torch.zeros_like(outputs)
            cotangent[:, a] = 1
            rows.append(list(pullback(cotangent)[0].values()))
        parts = [
            torch.stack(column).to(dtype or column[0].dtype) for column in zip(*rows, strict=True)
        ]
        sums = parts if sums is None else [s + p for s, p in zip(sums, parts, strict=True)]
        count += len(x)
    if sums is None:
        raise ValueError("batches must hold at least one batch of inputs; got none")
    if not all(s.isfinite().all() for s in sums):
        raise ValueError(
            "the tangent features must be finite; their sum is not: check the inputs for NaN, "
            "scale them down, or pass dtype=torch.float64"
        )
    return [s / count for s in sums]


class CentredModel(nn.Module):
    """A linearized network with the mean of its training outputs subtracted, for SGD.

    ``forward(x)`` is ``linear(x) - m . delta + constant``: delta are the parameters of
    ``linear``, m the mean tangent features, and ``constant`` a buffer, the mean of the targets.
    For a network linear in its parameters that is the exact elimination of the constant; at
    finite alpha it is its leading order.

    Parameters
    ----------
    linear : nn.Module
        With the displacement as its trainable parameters, ``tangent.linearize(model)``; those with
        ``requires_grad=False`` are constants.
    means : list of Tensor of shape (k, *parameter.shape)
        From `mean_tangent_features` of the network that was linearized, in the order of
        the trainable ``linear.parameters()``.
    constant : Tensor of shape (k,), optional
        Zero by default.
    """

    def __init__(self, linear: nn.Module, means: list[Tensor], constant: Tensor | None = None):
        super().__init__()
        self.linear = linear
        shapes = [tuple(p.shape) for p in self._displacement()]
        if [tuple(m.shape[1:]) for m in means] != shapes:
            raise ValueError(
                "means must hold one tensor (k, *shape) for each trainable parameter of linear, of "
                "shapes "
                f"{shapes}; got {[tuple(m.shape) for m in means]}"
            )
        for i, mean in enumerate(means):
            self.register_buffer(f"mean_{i}", mean.flatten(1))
        self.register_buffer(
            "constant", means[0].new_zeros(len(means[0])) if constant is None else constant
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the centred outputs for a batch."""
        shift = self.get_buffer("constant")
        for i, delta in enumerate(self._displacement()):
            shift = shift - self.get_buffer(f"mean_{i}") @ delta.flatten()
        return self.linear(x) + shift

    def _displacement(self) -> list[nn.Parameter]:
        return [p for p in self.linear.parameters() if p.requires_grad]
