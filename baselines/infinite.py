"""Kernels of infinitely wide ReLU networks: fully connected, in closed form, and convolutional.

NNGP is the covariance of the outputs at initialization (Lee et al. 2018), NTK the tangent kernel
(Jacot et al. 2018; Arora et al. 2019 for convolutions with global average pooling, the paper's
reference [3]). The parametrization is z = (v / fan_in)^(1/2) W x + c^(1/2) b with standard normal W
and b, v the ``weight_variance`` and c the ``bias_variance``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class InfiniteKernels(NamedTuple):
    """Both kernels of one architecture, of shape (n1, n2)."""

    nngp: Tensor
    ntk: Tensor


def relu_expectations(
    covariance: Float[Tensor, "*pairs"], product: Float[Tensor, "*pairs"]
) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, "*pairs"]]:
    """E[relu(u) relu(v)] and E[step(u) step(v)] for centred Gaussian u and v.

    ``product`` is the product of their standard deviations (Cho and Saul 2009).
    """
    cosine = torch.where(product > 0, covariance / product.clamp_min(1e-30), 0.0).clamp(-1, 1)
    rest = math.pi - torch.acos(cosine)
    sine = (1 - cosine.square()).clamp_min(0).sqrt()
    return product * (sine + rest * cosine) / (2 * math.pi), rest / (2 * math.pi)


def mlp_kernels(
    x1: Float[Tensor, "n d"],
    x2: Float[Tensor, "m d"] | None = None,
    *,
    depth: int = 1,
    weight_variance: float = 2.0,
    bias_variance: float = 0.0,
) -> InfiniteKernels:
    """NNGP and NTK of a ReLU network with ``depth`` hidden layers, in closed form.

    Parameters
    ----------
    x1 : Tensor of shape (n, d)
    x2 : Tensor of shape (m, d), optional
        ``x1`` without it.
    depth : int
        Hidden layers, at least 1.
    weight_variance, bias_variance : float
        2 and 0 keep the variance of the activations from layer to layer.

    Returns
    -------
    kernels : InfiniteKernels
        In dtype and device of ``x1``.
    """
    _check(depth, weight_variance, bias_variance)
    x2 = x1 if x2 is None else x2
    width = x1.shape[1]

    def affine(covariance: Tensor) -> Tensor:
        return weight_variance * covariance + bias_variance

    nngp = affine(x1 @ x2.T / width)
    ntk = nngp
    variances = [affine(x.square().sum(1) / width) for x in (x1, x2)]
    for _ in range(depth):
        roots = [v.sqrt() for v in variances]
        expected, derivative = relu_expectations(nngp, roots[0][:, None] * roots[1])
        nngp = affine(expected)
        ntk = nngp + weight_variance * derivative * ntk
        variances = [affine(v / 2) for v in variances]
    return InfiniteKernels(nngp, ntk)


def convolutional_kernels(
    x1: Float[Tensor, "n c h w"],
    x2: Float[Tensor, "m c h w"] | None = None,
    *,
    depth: int = 3,
    kernel_size: int = 3,
    weight_variance: float = 2.0,
    bias_variance: float = 0.0,
    batch_size: int = 4,
) -> InfiniteKernels:
    """NNGP and NTK of ReLU convolutions, global average pooling and a linear output.

    ``depth`` convolutions with zero padding, each followed by a ReLU. Exact: the covariance of
    every pair of positions of every pair of images goes through the layers.

    Parameters
    ----------
    x1 : Tensor of shape (n, c, h, w)
    x2 : Tensor of shape (m, c, h, w), optional
        ``x1`` without it; only half of the pairs are then computed.
    depth : int
        Convolutions, at least 1.
    kernel_size : int
        Odd.
    weight_variance, bias_variance : float
    batch_size : int
        Pairs handled at once are its square; bounds the memory, not the result.

    Returns
    -------
    kernels : InfiniteKernels
        In dtype and device of ``x1``.

    Notes
    -----
    About 30 (h w)^2 depth operations a pair and six arrays of (batch_size h w)^2 values: for
    32x32 images and three layers some 0.1 s a pair on one core, so 100 images take minutes there.
    """
    _check(depth, weight_variance, bias_variance)
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and above 0; got {kernel_size}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    symmetric = x2 is None
    x2 = x1 if x2 is None else x2
    layers = (depth, kernel_size, weight_variance, bias_variance)
    nngp, ntk = x1.new_zeros(len(x1), len(x2)), x1.new_zeros(len(x1), len(x2))
    deviations = [_standard_deviations(x, *layers) for x in (x1, x2)]
    for i in range(0, len(x1), batch_size):
        for j in range(i if symmetric else 0, len(x2), batch_size):
            rows, columns = slice(i, i + batch_size), slice(j, j + batch_size)
            block = _convolutional_block(
                x1[rows],
                x2[columns],
                [d[rows] for d in deviations[0]],
                [d[columns] for d in deviations[1]],
                *layers,
            )
            for whole, part in zip((nngp, ntk), block, strict=True):
                whole[rows, columns] = part
                if symmetric:
                    whole[columns, rows] = part.T
    return InfiniteKernels(nngp, ntk)


def _check(depth: int, weight_variance: float, bias_variance: float) -> None:
    if depth < 1:
        raise ValueError(f"depth must be at least 1; got {depth}")
    if not weight_variance > 0:
        raise ValueError(f"weight_variance must be above 0; got {weight_variance}")
    if not bias_variance >= 0:
        raise ValueError(f"bias_variance must be at least 0; got {bias_variance}")


def _standard_deviations(
    x: Tensor, depth: int, kernel_size: int, weight_variance: float, bias_variance: float
) -> list[Float[Tensor, "n h w"]]:
    """Of every position's preactivation, for each convolution."""
    variance, deviations = x.square().mean(1, keepdim=True), []
    for _ in range(depth):
        window = F.avg_pool2d(variance, kernel_size, stride=1, padding=kernel_size // 2)
        variance = weight_variance * window + bias_variance
        deviations.append(variance[:, 0].sqrt())
        variance = variance / 2
    return deviations


def _window_mean(
    covariance: Float[Tensor, "pairs h1 w1 h2 w2"], size: int
) -> Float[Tensor, "pairs h1 w1 h2 w2"]:
    """Mean over a window that moves both positions alike, zeros outside the image."""
    for first, second in ((1, 3), (2, 4)):
        total = covariance.clone()
        for shift in range(1, size // 2 + 1):
            count = covariance.shape[first] - shift
            if count > 0:
                low = covariance.narrow(first, 0, count).narrow(second, 0, count)
                high = covariance.narrow(first, shift, count).narrow(second, shift, count)
                total.narrow(first, shift, count).narrow(second, shift, count).add_(low)
                total.narrow(first, 0, count).narrow(second, 0, count).add_(high)
        covariance = total / size
    return covariance


def _convolutional_block(
    x1: Float[Tensor, "n c h w"],
    x2: Float[Tensor, "m c h w"],
    deviations1: list[Tensor],
    deviations2: list[Tensor],
    depth: int,
    kernel_size: int,
    weight_variance: float,
    bias_variance: float,
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    n, m, (height, width) = len(x1), len(x2), x1.shape[2:]

    def convolved(covariance: Tensor) -> Tensor:
        return weight_variance * _window_mean(covariance, kernel_size)

    covariance = torch.einsum("nchw,mcuv->nmhwuv", x1, x2).flatten(0, 1) / x1.shape[1]
    tangent = torch.zeros_like(covariance)
    for layer in range(depth):
        covariance = convolved(covariance) + bias_variance
        tangent = covariance + convolved(tangent)
        product = deviations1[layer][:, None, :, :, None, None] * deviations2[layer][:, None, None]
        product = product.reshape(n * m, height, width, height, width)
        covariance, derivative = relu_expectations(covariance, product)
        tangent = tangent * derivative
    nngp = weight_variance * covariance.flatten(1).mean(1) + bias_variance
    ntk = nngp + weight_variance * tangent.flatten(1).mean(1)
    return nngp.view(n, m), ntk.view(n, m)
