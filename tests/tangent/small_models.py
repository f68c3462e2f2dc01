"""The small models of the theorems: smooth, in float64, on few inputs."""

from __future__ import annotations

import torch

F64 = torch.float64


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=F64)


def tanh_model(generator, n=10, d=3, m=20):
    """Centred ``m**-0.5 sum_j a_j tanh(b_j.x)`` on unit inputs, and labels of -1 and 1."""
    x = normal(generator, n, d)
    x = x / x.norm(dim=1, keepdim=True)
    y = normal(generator, n).sign()

    def raw(w):
        b, a = w[: m * d].view(m, d), w[m * d :]
        return torch.tanh(x @ b.T) @ a / m**0.5

    w0 = normal(generator, m * (d + 1))
    start = raw(w0)
    return (lambda w: raw(w) - start), w0, y


def quadratic_model(generator, n=5, p=20):
    """Centred ``X (w+**2 - w-**2)``: Dh is Lipschitz with constant 2 max |X_j|, everywhere."""
    x = normal(generator, n, p) / p**0.5
    y = normal(generator, n)
    w0 = torch.rand(2 * p, generator=generator, dtype=F64) + 0.5

    def raw(w):
        return x @ (w[:p] ** 2 - w[p:] ** 2)

    start = raw(w0)
    return (lambda w: raw(w) - start), w0, y / y.norm(), 2 * float(x.norm(dim=0).max())
