"""Small kernels for the solvers' tests, straight from the definition."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from tangent.kernel.products import KernelProduct


def features(model: nn.Module, x: Tensor) -> Tensor:
    """(n, k, p): gradient of every output with respect to all parameters."""
    params = {name: p.detach() for name, p in model.named_parameters()}

    def outputs(params, one):
        return functional_call(model, params, (one[None],))[0]

    jacobians = vmap(jacrev(outputs), in_dims=(None, 0))(params, x)
    return torch.cat([j.flatten(2) for j in jacobians.values()], dim=2)


def perceptron(generator: torch.Generator, d: int = 3, k: int = 2, width: int = 16) -> nn.Module:
    model = nn.Sequential(nn.Linear(d, width), nn.Tanh(), nn.Linear(width, k)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=generator)
    return model


def problem(generator: torch.Generator, n: int = 12, new: int = 5, k: int = 2, d: int = 3):
    """Features of training and new inputs, and targets: (n, k, p), (new, k, p), (n, k)."""
    model = perceptron(generator, d, k)
    x = torch.randn(n + new, d, generator=generator, dtype=torch.float64)
    phi = features(model, x)
    return phi[:n], phi[n:], torch.randn(n, k, generator=generator, dtype=torch.float64)


def full(phi: Tensor, psi: Tensor) -> Tensor:
    return torch.einsum("iap,jbp->iajb", phi, psi)


def trace(phi: Tensor, psi: Tensor) -> Tensor:
    return torch.einsum("iap,jap->ij", phi, psi)


def product_with_ones(model: nn.Module, x: Tensor) -> Tensor:
    """The sum of the kernel's columns, by products."""
    product = KernelProduct(model, x)
    return product(torch.ones(product.rows).to(x))
