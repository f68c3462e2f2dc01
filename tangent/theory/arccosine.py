"""Closed forms for ReLU units and inputs uniform on the unit sphere of R^d.

For g Gaussian and theta the angle between b and c (Cho and Saul 2009),

- E relu(b.g) relu(c.g) = |b| |c| (sin theta + (pi - theta) cos theta) / (2 pi),
- E 1[b.g > 0] g relu(c.g) is its gradient in b,
- E 1[b.g > 0] 1[c.g > 0] g g^T is its mixed second derivative;

on the sphere each is divided by d. With them the population loss of a two-layer network, the best
population loss of its tangent model, and the infinite-width tangent kernel are exact.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def _unit(b: Float[Tensor, "*k m d"]) -> tuple[Float[Tensor, "*k m d"], Float[Tensor, "*k m"]]:
    norm = b.norm(dim=-1)
    return b / norm.clamp(min=torch.finfo(b.dtype).tiny)[..., None], norm


def _angles(
    b: Float[Tensor, "*k m d"], c: Float[Tensor, "*k p d"]
) -> tuple[Float[Tensor, "*k m p"], Float[Tensor, "*k m p"]]:
    """Angles between unit rows and their sines, accurate near 0 and pi (no arccos)."""
    minus = torch.cdist(b, c, compute_mode="donot_use_mm_for_euclid_dist")
    plus = torch.cdist(b, -c, compute_mode="donot_use_mm_for_euclid_dist")
    theta = 2 * torch.atan2(minus, plus)
    return theta, theta.sin()


def _unit_products(
    b: Float[Tensor, "*k m d"], c: Float[Tensor, "*k p d"]
) -> Float[Tensor, "*k m p"]:
    """E relu(b.g) relu(c.g) for Gaussian g."""
    (b_unit, b_norm), (c_unit, c_norm) = _unit(b), _unit(c)
    theta, sine = _angles(b_unit, c_unit)
    shape = sine + (math.pi - theta) * theta.cos()
    return b_norm[..., :, None] * c_norm[..., None, :] * shape / (2 * math.pi)


def population_loss(
    a: Float[Tensor, "*k m"],
    b: Float[Tensor, "*k m d"],
    teacher_a: Float[Tensor, "*k p"],
    teacher_b: Float[Tensor, "*k p d"],
) -> Float[Tensor, "*k"]:
    """Half the mean squared difference of two two-layer ReLU networks over the sphere.

    Exact up to rounding: take float64, since three terms nearly cancel for a good student.
    """
    signs = torch.cat([a, -teacher_a.expand(*a.shape[:-1], -1)], -1)
    units = torch.cat([b, teacher_b.expand(*b.shape[:-2], -1, -1)], -2)
    products = _unit_products(units, units)
    total = torch.einsum("...i,...ij,...j->...", signs, products, signs)
    return total.clamp(min=0) / (2 * b.shape[-1])


def tangent_population_minimum(
    b: Float[Tensor, "m d"],
    teacher_a: Float[Tensor, " p"],
    teacher_b: Float[Tensor, "p d"],
    *,
    tolerance: float = 1e-10,
) -> float:
    """Smallest population loss over the tangent space of a two-layer ReLU network at ``b``.

    The space is spanned by x -> 1[b_j.x > 0] x, which holds the relu(b_j.x) too: the output
    weights at initialization do not matter unless one is zero. Repeated rows of ``b`` (the
    doubled initialization) add nothing. Holds an (m d) x (m d) matrix in float64.

    Parameters
    ----------
    b : Tensor of shape (m, d)
        Hidden weights at initialization.
    teacher_a, teacher_b : Tensor
        The target, itself a two-layer ReLU network.
    tolerance : float
        Eigenvalues below ``tolerance`` times the largest are directions that are not there.
    """
    b = _unit(torch.unique(b.double(), dim=0))[0]
    (m, d), c, a = b.shape, teacher_b.double(), teacher_a.double()
    theta, sine = _angles(b, b)
    gram = (math.pi - theta)[:, None, :, None] * torch.eye(d, dtype=b.dtype)[None, :, None, :]
    across = 1 / torch.where(sine > 1e-12, sine, torch.inf)
    rejected = b[None, :] - theta.cos()[..., None] * b[:, None]  # [i, j]: b_j without its b_i
    gram = gram + torch.einsum("ij,ip,ijq->ipjq", across, b, rejected)
    gram = gram + torch.einsum("ij,jip,jq->ipjq", across, rejected, b).transpose(1, 3)
    gram = gram.reshape(m * d, m * d) / (2 * math.pi * d)
    c_unit, c_norm = _unit(c)
    theta, sine = _angles(b, c_unit)
    cross = torch.einsum("ip,ij,j->ip", b, sine, a * c_norm)
    cross = cross + torch.einsum("ij,jp->ip", (math.pi - theta) * a, c)
    cross = cross.reshape(m * d) / (2 * math.pi * d)
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    kept = values > tolerance * values[-1]
    explained = ((vectors.T @ cross)[kept].square() / values[kept]).sum()
    null = population_loss(a.new_zeros(1), c.new_ones(1, d), a, c)
    return float((null - explained / 2).clamp(min=0))


def infinite_width_kernels(
    x: Float[Tensor, "n d"], x2: Float[Tensor, "p d"]
) -> tuple[Float[Tensor, "n p"], Float[Tensor, "n p"]]:
    """Covariance at initialization and tangent kernel of ``m**-0.5 sum_j a_j relu(b_j.x)``.

    Both weights N(0, 1), width to infinity (Chizat et al. 2019, Appendix A.2).
    """
    (unit, norm), (unit2, norm2) = _unit(x), _unit(x2)
    theta, sine = _angles(unit, unit2)
    shape = sine + (math.pi - theta) * theta.cos()
    scale = norm[:, None] * norm2[None, :] / (2 * math.pi)
    return scale * shape, scale * (shape + (math.pi - theta) * theta.cos())


def relu_tangent_kernel(
    a: Float[Tensor, " m"],
    b: Float[Tensor, "m d"],
    x: Float[Tensor, "n d"],
    x2: Float[Tensor, "p d"],
) -> Float[Tensor, "n p"]:
    """Tangent kernel of ``sum_j a_j relu(b_j.x)``: random features of both layers.

    Source: Chizat et al. 2019, Appendix A.2.
    """
    z, z2 = x @ b.T, x2 @ b.T
    active, active2 = (z > 0).to(z), (z2 > 0).to(z2)
    inner = (active * a.square()) @ active2.T
    return z.clamp(min=0) @ z2.clamp(min=0).T + (x @ x2.T) * inner
