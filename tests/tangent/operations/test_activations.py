"""Differences of bounded activations, whatever the size of the step."""

from __future__ import annotations

import mpmath
import pytest
import torch
from torch import nn

from tangent import ScaledDifference

FUNCTIONS = {nn.Tanh: mpmath.tanh, nn.Sigmoid: lambda z: 1 / (1 + mpmath.exp(-z))}
BASES = [0.3, -0.3, 0.0, 5.0, -5.0, 1e-3]


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 1e4, 1e6, 1e7, 1e9, 1e30])
@pytest.mark.parametrize("sign", [1, -1])
def test_tanh_and_sigmoid_keep_their_digits(activation, dtype, size, sign):
    layer = nn.Linear(1, len(BASES))
    nn.init.zeros_(layer.weight)
    layer.bias.data[:] = torch.tensor(BASES)
    model = ScaledDifference(nn.Sequential(layer, activation()).to(dtype), 1.0)
    with torch.no_grad():
        model.delta[1].fill_(sign * size)
    found = model(torch.ones(1, 1, dtype=dtype))[0]
    function, z = FUNCTIONS[activation], model.network[0].bias.tolist()
    with mpmath.workdps(60):
        values = [
            (mpmath.mpf(a), mpmath.mpf(b)) for a, b in zip(z, model.delta[1].tolist(), strict=True)
        ]
        right = [float(function(a + b) - function(a)) for a, b in values]
    tolerance = 100 * torch.finfo(dtype).eps
    right = torch.tensor(right, dtype=torch.float64)
    torch.testing.assert_close(found.double(), right, rtol=tolerance, atol=0)
