"""Kernels of infinitely wide networks."""

from __future__ import annotations

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call, jacrev, vmap

from baselines.infinite import convolutional_kernels, mlp_kernels, relu_expectations


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=st.integers(0, 9999))
def test_relu_expectations_are_those_of_gaussian_pairs(seed):
    a = normal(2, 2, seed=seed)
    covariance = a @ a.T
    u, v = (a @ normal(2, 400_000, seed=seed + 1)).unbind(0)
    expected, steps = relu_expectations(
        covariance[0, 1], (covariance[0, 0] * covariance[1, 1]).sqrt()
    )
    scale = float((covariance[0, 0] * covariance[1, 1]).sqrt())
    assert float((u.relu() * v.relu()).mean()) == pytest.approx(float(expected), abs=0.02 * scale)
    assert float(((u > 0) & (v > 0)).double().mean()) == pytest.approx(float(steps), abs=0.01)


class WideNetwork(torch.nn.Module):
    """A ReLU network in the kernels' own parametrization."""

    def __init__(self, d, width, depth, weight_variance, bias_variance):
        super().__init__()
        sizes = [d, *[width] * depth, 1]
        self.weights = torch.nn.ParameterList(
            [normal(b, a, seed=7 * i) for i, (a, b) in enumerate(pairwise(sizes))]
        )
        self.biases = torch.nn.ParameterList(
            [normal(b, seed=7 * i + 1) for i, b in enumerate(sizes[1:])]
        )
        self.scales = math.sqrt(weight_variance), math.sqrt(bias_variance)

    def forward(self, x):
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x.relu() if i else x
            x = self.scales[0] / math.sqrt(x.shape[-1]) * x @ weight.T + self.scales[1] * bias
        return x[..., 0]


@pytest.mark.parametrize("depth", [1, 2])
def test_a_wide_network_has_nearly_the_infinite_tangent_kernel(depth):
    x = normal(4, 5)
    network = WideNetwork(5, 1500, depth, 1.7, 0.3)
    params = {k: v.detach() for k, v in network.named_parameters()}
    gradients = vmap(jacrev(lambda p, one: functional_call(network, p, one)), in_dims=(None, 0))(
        params, x
    )
    rows = torch.cat([g.flatten(1) for g in gradients.values()], dim=1)
    expected = mlp_kernels(x, depth=depth, weight_variance=1.7, bias_variance=0.3).ntk
    # one draw at width 1,500: relative deviations of order 1 / sqrt(width) a layer
    assert (rows @ rows.T - expected).abs().max() < 0.1 * expected.abs().max()


def test_one_hidden_layer_is_the_textbook_formula():
    x = normal(5, 3)
    kernels = mlp_kernels(x, weight_variance=2.0)
    norms = x.norm(dim=1)
    product = norms[:, None] * norms
    angle = torch.acos((x @ x.T / product).clamp(-1, 1))
    arc0, arc1 = 1 - angle / math.pi, (angle.sin() + (math.pi - angle) * angle.cos()) / math.pi
    nngp = 2 * product / 3 * arc1
    torch.testing.assert_close(kernels.nngp, nngp)
    torch.testing.assert_close(kernels.ntk, nngp + arc0 * 2 * (x @ x.T) / 3)


def slow_convolutional_kernels(a, b, depth, size, weight_variance, bias_variance):
    """Both kernels of one pair of images, position by position."""
    _, h, w = a.shape
    places = [(i, j) for i in range(h) for j in range(w)]
    offsets = [
        (i, j)
        for i in range(-(size // 2), size // 2 + 1)
        for j in range(-(size // 2), size // 2 + 1)
    ]

    def inside(p):
        return 0 <= p[0] < h and 0 <= p[1] < w

    def convolved(k):
        out = {}
        for p in places:
            for q in places:
                pairs = [((p[0] + i, p[1] + j), (q[0] + i, q[1] + j)) for i, j in offsets]
                inner = [k[r, s] for r, s in pairs if inside(r) and inside(s)]
                out[p, q] = weight_variance * sum(inner) / size**2
        return out

    def covariance(u, v):
        return {
            (p, q): float(u[:, p[0], p[1]] @ v[:, q[0], q[1]]) / len(u)
            for p in places
            for q in places
        }

    ks = {"ab": covariance(a, b), "aa": covariance(a, a), "bb": covariance(b, b)}
    tangent = dict.fromkeys(ks["ab"], 0.0)
    for _ in range(depth):
        ks = {
            name: {pq: v + bias_variance for pq, v in convolved(k).items()}
            for name, k in ks.items()
        }
        tangent = {pq: v + ks["ab"][pq] for pq, v in convolved(tangent).items()}
        new = {}
        for name, k in ks.items():
            left, right = ks[name[0] * 2], ks[name[1] * 2]
            new[name] = {}
            for p, q in k:
                scale = math.sqrt(left[p, p] * right[q, q])
                t = math.acos(max(-1, min(1, k[p, q] / scale)))
                new[name][p, q] = (
                    scale * (math.sin(t) + (math.pi - t) * math.cos(t)) / (2 * math.pi)
                )
                if name == "ab":
                    tangent[p, q] *= (math.pi - t) / (2 * math.pi)
        ks = new
    nngp = weight_variance * np.mean(list(ks["ab"].values())) + bias_variance
    return nngp, nngp + weight_variance * np.mean(list(tangent.values()))


@pytest.mark.parametrize(("depth", "size"), [(1, 3), (2, 3), (2, 5)])
def test_convolutional_kernels_are_those_of_the_recursion_position_by_position(depth, size):
    x, z = normal(2, 2, 3, 4), normal(1, 2, 3, 4, seed=5)
    found = convolutional_kernels(
        x, z, depth=depth, kernel_size=size, weight_variance=1.5, bias_variance=0.2
    )
    for i in range(2):
        expected = slow_convolutional_kernels(x[i], z[0], depth, size, 1.5, 0.2)
        assert float(found.nngp[i, 0]) == pytest.approx(expected[0], rel=1e-9)
        assert float(found.ntk[i, 0]) == pytest.approx(expected[1], rel=1e-9)


@given(n=st.integers(1, 6), batch_size=st.integers(1, 4))
def test_blocks_do_not_change_the_kernel_and_it_is_positive(n, batch_size):
    x = normal(n, 2, 4, 4, seed=n)
    whole = convolutional_kernels(x, depth=2, batch_size=10)
    parts = convolutional_kernels(x, depth=2, batch_size=batch_size)
    against_itself = convolutional_kernels(x, x, depth=2, batch_size=batch_size)
    for a, b, c in zip(whole, parts, against_itself, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)
        assert torch.linalg.eigvalsh(a).min() > -1e-9


@pytest.mark.parametrize("unit", [1e-17, 1e17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_convolutional_kernels_are_the_same_in_any_unit(unit, dtype):
    x = normal(3, 2, 4, 4).to(dtype)
    found = convolutional_kernels(unit * x, depth=2)
    for kernel, expected in zip(found, convolutional_kernels(x, depth=2), strict=True):
        torch.testing.assert_close(kernel / unit / unit, expected)


def test_an_image_of_one_pixel_is_a_vector_with_zeros_around():
    x = normal(4, 5)
    # of a window of nine only the middle is inside
    convolution = convolutional_kernels(x[:, :, None, None], depth=1, weight_variance=9 * 2.0)
    first = mlp_kernels(x, depth=1, weight_variance=2.0)
    # the output layer has nine times the weights' variance of the fully connected one
    torch.testing.assert_close(convolution.nngp, 9 * first.nngp)
    torch.testing.assert_close(convolution.ntk, 9 * first.ntk)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth must be at least 1; got 0"),
        ({"weight_variance": 0.0}, "weight_variance must be above 0; got 0.0"),
        ({"bias_variance": -1.0}, "bias_variance must be at least 0; got -1.0"),
        ({"kernel_size": 2}, "kernel_size must be odd and above 0; got 2"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
    ],
)
def test_bad_arguments_are_named_with_rule_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        convolutional_kernels(normal(1, 1, 2, 2), **arguments)


@pytest.mark.peers
def test_kernels_equal_those_of_neural_tangents():
    pytest.importorskip("neural_tangents")
    import jax
    from neural_tangents import stax

    jax.config.update("jax_enable_x64", True)
    options = {"W_std": math.sqrt(1.7), "b_std": math.sqrt(0.3)}
    x, z = normal(5, 6), normal(3, 6, seed=1)
    layers = [stax.Dense(1, **options)]
    for depth in (1, 2, 3):
        layers += [stax.Relu(), stax.Dense(1, **options)]
        expected = stax.serial(*layers)[2](x.numpy(), z.numpy(), ("nngp", "ntk"))
        found = mlp_kernels(x, z, depth=depth, weight_variance=1.7, bias_variance=0.3)
        np.testing.assert_allclose(found.nngp, expected.nngp, rtol=1e-6)
        np.testing.assert_allclose(found.ntk, expected.ntk, rtol=1e-6)
    a, b = normal(3, 3, 6, 5), normal(2, 3, 6, 5, seed=2)
    layers = []
    for depth in (1, 2, 3):
        layers += [stax.Conv(1, (3, 3), padding="SAME", **options), stax.Relu()]
        kernel = stax.serial(*layers, stax.GlobalAvgPool(), stax.Dense(1, **options))[2]
        expected = kernel(*(t.permute(0, 2, 3, 1).numpy() for t in (a, b)), ("nngp", "ntk"))
        found = convolutional_kernels(a, b, depth=depth, weight_variance=1.7, bias_variance=0.3)
        np.testing.assert_allclose(found.nngp, expected.nngp, rtol=1e-6)
        np.testing.assert_allclose(found.ntk, expected.ntk, rtol=1e-6)


def exact_kernels(x, y, depth, weight_variance, bias_variance):
    """The recursion of the closed form in fifty digits."""
    with mpmath.workdps(50):
        w, b, d = mpmath.mpf(weight_variance), mpmath.mpf(bias_variance), len(x)
        x, y = ([mpmath.mpf(float(v)) for v in vector] for vector in (x, y))
        k, p, q = (
            w * sum(u * v for u, v in zip(*pair, strict=True)) / d + b
            for pair in ((x, y), (x, x), (y, y))
        )
        tangent = k
        for _ in range(depth):
            root = mpmath.sqrt(p * q)
            cosine = max(min(k / root, mpmath.mpf(1)), mpmath.mpf(-1)) if root else mpmath.mpf(0)
            angle = mpmath.acos(cosine)
            rest = mpmath.pi - angle
            k = w * root * (mpmath.sin(angle) + rest * cosine) / (2 * mpmath.pi) + b
            tangent = k + w * rest / (2 * mpmath.pi) * tangent
            p, q = w * p / 2 + b, w * q / 2 + b
        return float(k), float(tangent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias_variance", [0.0, 0.3])
@pytest.mark.parametrize("unit", [1.0, 1e-17, 1e17])
def test_kernels_have_all_digits_near_the_diagonal_and_in_any_unit(dtype, bias_variance, unit):
    base = normal(2, 6)
    near = [base * (1 + 1e-7), base + 1e-4 * normal(2, 6, seed=1), base + 1e-9 * normal(2, 6)]
    x = unit * torch.cat([base, *near, -base, -near[2], 2 * base, torch.zeros(1, 6)]).to(dtype)
    found = mlp_kernels(x, depth=5, weight_variance=2.0, bias_variance=bias_variance)
    expected = [[exact_kernels(a, b, 5, 2.0, bias_variance) for b in x] for a in x]
    for kernel, right in zip(
        found, torch.tensor(expected, dtype=torch.float64).unbind(-1), strict=True
    ):
        assert torch.equal(kernel, kernel.T)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(kernel.double(), right, rtol=8 * eps, atol=1e-44)
