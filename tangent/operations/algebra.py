"""Linear algebra that torch differentiates twice forwards, in place of what it does wrongly.

torch 2.14.1 takes the factors of ``solve``, ``det``, ``slogdet`` and ``logdet`` for constants where
``jvp`` stands within ``jvp`` or ``vjp``, and is wrong about ``householder_product``, of which
orthogonal layers are made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["ALGEBRA"]


def _solved(A: Tensor, B: Tensor, *, left: bool = True, out: Any = None) -> Tensor | None:
    if out is not None:
        return None
    inverse = torch.linalg.inv(A)
    if left and (B.ndim == 1 or (A.ndim - 1 == B.ndim and B.shape == A.shape[:-1])):
        return (inverse @ B.unsqueeze(-1)).squeeze(-1)
    return inverse @ B if left else B @ inverse


def _triangle(A: Tensor) -> tuple[Tensor, Tensor]:
    """Determinant of the permutation, and the diagonal of U in A = P L U."""
    permutation, _, upper = torch.linalg.lu(A)
    with torch.no_grad():
        sign = torch.linalg.det(permutation).round()
    return sign, upper.diagonal(dim1=-2, dim2=-1)


def _det(A: Tensor, *, out: Any = None) -> Tensor | None:
    if out is not None:
        return None
    sign, diagonal = _triangle(A)
    return sign * diagonal.prod(-1)


class _SignAndLogarithm(NamedTuple):
    sign: Tensor
    logabsdet: Tensor


def _slogdet(A: Tensor, *, out: Any = None) -> _SignAndLogarithm | None:
    if out is not None:
        return None
    sign, diagonal = _triangle(A)
    return _SignAndLogarithm(sign * diagonal.sign().prod(-1), diagonal.abs().log().sum(-1))


def _logdet(A: Tensor) -> Tensor:
    sign, diagonal = _triangle(A)
    size = diagonal.abs().log().sum(-1)
    return torch.where(sign * diagonal.sign().prod(-1) < 0, torch.nan, size)


def _reflections(input: Tensor, tau: Tensor, *, out: Any = None) -> Tensor | None:
    """First columns of the product of I - tau_i v_i v_i^H; v_i is one at i and zero above."""
    if out is not None or input.is_complex():
        return None
    *_, m, n = input.shape
    product = torch.eye(m, n, dtype=input.dtype, device=input.device)
    vectors = input.tril(-1) + torch.eye(m, n, dtype=input.dtype, device=input.device)
    for i in reversed(range(tau.shape[-1])):
        v = vectors[..., i : i + 1]
        product = product - tau[..., i, None, None] * v * (v.mT @ product)
    return product


ALGEBRA: dict[Any, Callable[..., Any]] = {
    torch.linalg.solve: _solved,
    torch.linalg.det: _det,
    torch.det: _det,
    Tensor.det: _det,
    torch.linalg.slogdet: _slogdet,
    torch.slogdet: _slogdet,
    Tensor.slogdet: _slogdet,
    torch.logdet: _logdet,
    Tensor.logdet: _logdet,
    torch.linalg.householder_product: _reflections,
    torch.orgqr: _reflections,
    Tensor.orgqr: _reflections,
}
