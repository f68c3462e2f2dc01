"""Kernels of infinitely wide ReLU networks: fully connected, in closed form, and convolutional.

NNGP is the covariance of the outputs at initialization (Lee et al. 2018), NTK the tangent kernel
(Jacot et al. 2018; Arora et al. 2019 for convolutions with global average pooling, the paper's
reference [3]). The parametrization is z = (v / fan_in)^(1/2) W x + c^(1/2) b with standard normal W
and b, v the ``weight_variance`` and c the ``bias_variance``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tangent.machine.bars import counted


class InfiniteKernels(NamedTuple):
    """Both kernels of one architecture, of shape (n1, n2)."""

    nngp: Tensor
    ntk: Tensor


def relu_expectations(
    covariance: Float[Tensor, "*pairs"], product: Float[Tensor, "*pairs"]
) -> tuple[Float[Tensor, "*pairs"], Float[Tensor, "*pairs"]]:
    """E[relu(u) relu(v)] and E[step(u) step(v)] for centred Gaussian u and v.

    ``product`` is the product of their standard deviations (Cho and Saul 2009). In the dtype of
    the arguments: near a correlation of one the second is good to the root of its rounding.
    """
    some = product > 0
    cosine = torch.where(some, covariance / torch.where(some, product, 1.0), 0.0).clamp(-1, 1)
    angle = 2 * torch.atan2((1 - cosine).sqrt(), (1 + cosine).sqrt())
    rest = math.pi - angle
    sine = ((1 - cosine) * (1 + cosine)).sqrt()
    return product * (sine + rest * cosine) / (2 * math.pi), rest / (2 * math.pi)


@dataclass(frozen=True)
class _Angles:
    """Angles between vectors by ``1 - cos``, whose digits near zero a cosine does not hold."""

    gap: Float[Tensor, "n m"]
    """1 - cos, in [0, 2]."""
    rest: Float[Tensor, "n m"]
    """1 + cos, likewise."""

    @classmethod
    def between(cls, a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> _Angles:
        """Of the rows, zero rows at a right angle to all; by differences where they are near."""
        (a, a_norm), (b, b_norm) = _unit(a), _unit(b)
        cosine = a @ b.T
        angles = cls((1 - cosine).clamp(0, 2), (1 + cosine).clamp(0, 2))
        some = (a_norm > 0)[:, None] & (b_norm > 0)
        for part, sign in ((angles.gap, 1), (angles.rest, -1)):
            rows, columns = torch.nonzero(some & (part < _NEAR), as_tuple=True)
            size = max(1, _CHUNK // a.shape[1])
            for i, j in zip(rows.split(size), columns.split(size), strict=True):
                part[i, j] = (a[i] - sign * b[j]).square().sum(1) / 2
        return angles

    @property
    def angle(self) -> Float[Tensor, "n m"]:
        """In [0, pi]."""
        return 2 * torch.atan2(self.gap.sqrt(), self.rest.sqrt())

    def through_relu(
        self, product: Tensor, deviations: tuple[Tensor, Tensor], bias_variance: float
    ) -> _Angles:
        """Those of the next layer's preactivations.

        With r the ReLU's mean product over that of independent signs: 1 - r from what it differs
        from one, never by subtracting two cosines.

        Parameters
        ----------
        product : Tensor of shape (n, m)
            Half the weights' variance times the deviations of both preactivations.
        deviations : two Tensors of shape (n, 1), (m,)
            The roots of half the weights' variance times theirs.
        bias_variance : float
        """
        apart = product * (self.gap - _sine_less_angle_cosine(self) / math.pi)
        s, t = deviations
        sizes = (s.square() + bias_variance).sqrt() * (t.square() + bias_variance).sqrt()
        if bias_variance:
            apart = apart + bias_variance * (s - t).square() / (sizes + bias_variance + product)
        gap = torch.where(sizes > 0, apart / torch.where(sizes > 0, sizes, 1.0), 1.0)
        return _Angles(gap, 2 - gap)


_NEAR = 1e-4  # 1 - cos below which the difference of the vectors says it better
_CHUNK = 2**22  # numbers in differences at once
_SMALL = 0.2  # angle below which the series beats the subtraction
_ROWS = 2**22  # pairs handled at once


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of norm one (zero rows stay), and their norms; no square leaves the range."""
    largest = x.abs().amax(1)
    scaled = x / torch.where(largest > 0, largest, 1.0)[:, None]
    norm = torch.linalg.vector_norm(scaled, dim=1)
    return scaled / torch.where(norm > 0, norm, 1.0)[:, None], norm * largest


def _sine_less_angle_cosine(angles: _Angles) -> Tensor:
    """``sin t - t cos t``, which is t^3 / 3 for a small angle t."""
    t = angles.angle
    direct = (angles.gap * angles.rest).sqrt() - t * (1 - angles.gap)
    square = t.square()
    series = torch.full_like(t, 1 / 39916800 * 10)
    for k in range(4, 0, -1):
        series = 2 * k / math.factorial(2 * k + 1) - square * series
    return torch.where(t < _SMALL, t * square * series, direct)


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
    _check_inputs(2, x1, x2)
    _check(depth, weight_variance, bias_variance)
    symmetric, layers = x2 is None, (depth, weight_variance, bias_variance)
    x2 = x1 if x2 is None else x2
    nngp, ntk = x1.new_empty(len(x1), len(x2)), x1.new_empty(len(x1), len(x2))
    size = max(1, _ROWS // max(1, len(x2)))
    right = x2.double()
    for start in range(0, len(x1), size):
        rows = slice(start, start + size)
        columns = slice(start if symmetric else 0, None)
        block = _mlp_block(x1[rows].double(), right[columns], *layers)
        for whole, part in zip((nngp, ntk), block, strict=True):
            if symmetric:
                corner = part[:, : len(part)]
                corner.copy_(corner.triu() + corner.triu(1).T)
            whole[rows, columns] = part.to(whole.dtype)
            if symmetric:
                whole[columns, rows] = part.T.to(whole.dtype)
    return _finite(InfiniteKernels(nngp, ntk), x1)


def _mlp_block(
    x1: Float[Tensor, "n d"],
    x2: Float[Tensor, "m d"],
    depth: int,
    weight_variance: float,
    bias_variance: float,
) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    root = (weight_variance / x1.shape[1]) ** 0.5
    constant = x1.new_full((1,), bias_variance**0.5)
    first, second = (torch.cat([root * x, constant.expand(len(x), 1)], 1) for x in (x1, x2))
    angles = _Angles.between(first, second)
    s, t = _unit(first)[1][:, None], _unit(second)[1]
    ntk = nngp = s * t * (1 - angles.gap)
    half = (weight_variance / 2) ** 0.5
    for _ in range(depth):
        s, t = half * s, half * t
        product = s * t
        derivative = (math.pi - angles.angle) / math.pi
        angles = angles.through_relu(product, (s, t), bias_variance)
        s, t = ((d.square() + bias_variance).sqrt() for d in (s, t))
        nngp = s * t * (1 - angles.gap)
        ntk = nngp + weight_variance / 2 * derivative * ntk
    return nngp, ntk


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
    _check_inputs(4, x1, x2)
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
    for i in counted(range(0, len(x1), batch_size), "rows of the kernel"):
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
    return _finite(InfiniteKernels(nngp, ntk), x1)


def _check_inputs(dimensions: int, x1: Tensor, x2: Tensor | None) -> None:
    for name, x in (("x1", x1), ("x2", x2)):
        if x is None:
            continue
        if x.ndim != dimensions or not x.is_floating_point():
            raise ValueError(
                f"{name} must be of floating-point numbers with {dimensions} axes, inputs first; "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        if not x.isfinite().all():
            raise ValueError(f"{name} must be finite; it holds NaN or infinity")
    if x2 is not None and x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"x2 must be of inputs like x1, of shape {tuple(x1.shape[1:])}; got "
            f"{tuple(x2.shape[1:])}"
        )


def _finite(kernels: InfiniteKernels, x: Tensor) -> InfiniteKernels:
    if not all(kernel.isfinite().all() for kernel in kernels):
        raise ValueError(
            f"x1 and x2 must be small enough for the kernels to be finite in {x.dtype}; x1 reaches "
            f"{float(x.abs().max()):.3g}; divide both by a constant"
        )
    return kernels


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
