"""Centring of a kernel: the constant direction eliminated in closed form.

The largest eigenvalue of a tangent kernel belongs to a nearly constant function, and it alone
sets the largest stable step. Subtracting from every feature its mean over the training inputs
removes it; an unpenalized constant, the mean of the targets, takes its place. The kernel of the
centred features is ``H K H`` with ``H = I - 1 1^T / n`` (Schoelkopf, Smola & Mueller 1998).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


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
