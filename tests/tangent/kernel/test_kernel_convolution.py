"""Cotangents of a convolution's input against torch's own gradient."""

import pytest
import torch
from torch import nn
from torch.nn.grad import conv1d_input, conv2d_input

from tangent.kernel.engine.cost import Problem
from tangent.kernel.engine.passes import planned_factors
from tangent.kernel.engine.plan import network_of
from tangent.kernel.engine.sums import total
from tangent.nets import ScaledConv2d, ScaledLinear
from tangent.operations.convolution import input_cotangent
from tangent.operations.winograd_cotangents import suits
from tests.tangent.naive import naive_kernel

# (input sides, window, stride, padding, dilation, groups)
CASES = {
    "plain": ((6, 5), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "rest beyond the last window": ((6, 8), (3, 3), (2, 3), (0, 1), (1, 1), 1),
    "dilated": ((9, 7), (3, 2), (1, 2), (2, 1), (2, 3), 1),
    "groups": ((6, 6), (3, 3), (2, 2), (1, 1), (1, 1), 2),
    "pointwise": ((4, 3), (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "pointwise with stride": ((5, 4), (1, 1), (2, 2), (0, 0), (1, 1), 1),
    "matrix": ((2, 2), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "matrix with stride": ((2, 2), (3, 3), (2, 2), (1, 1), (1, 1), 1),
    "matrix, dilated": ((2, 2), (3, 3), (1, 1), (2, 2), (2, 2), 1),
    "matrix of other sides": ((1, 4), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "one axis": ((7,), (3,), (2,), (1,), (1,), 1),
    "one axis, matrix": ((3,), (5,), (1,), (2,), (1,), 1),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_input_cotangents_are_those_of_torch(case):
    sides, window, stride, padding, dilation, groups = case
    generator = torch.Generator().manual_seed(0)
    options = {"dtype": torch.float64, "generator": generator}
    x = torch.randn(1, 4, *sides, **options)
    weight = torch.randn(6, 4 // groups, *window, **options)
    convolution = nn.functional.conv1d if len(sides) == 1 else nn.functional.conv2d
    out = convolution(x, weight, None, stride, padding, dilation, groups)
    d = torch.randn(40, *out.shape[1:], **options)
    g = {"input": x, "weight": weight, "stride": stride, "padding": padding}
    g |= {"dilation": dilation, "groups": groups}
    reference = conv1d_input if len(sides) == 1 else conv2d_input
    expected = reference((40, *x.shape[1:]), weight, d, stride, padding, dilation, groups)
    torch.testing.assert_close(input_cotangent(g, d, {}), expected)


def test_what_is_kept_between_batches_belongs_to_the_same_weights():
    # The products weight * scale are made anew in every batch, perhaps at the same address.
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(
        ScaledConv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        ScaledConv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Flatten(),
        ScaledLinear(16, 8),
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=generator)
    x = torch.randn(20, 2, 2, 2, generator=generator, dtype=torch.float64)
    network, problem = network_of(model, "full"), Problem(20, 20, True, True)
    plan, factors = planned_factors(network, problem, x, working=5 * 16 * 8 * 8)
    kernel = total(plan, factors)
    assert network.fitting(x, plan.working) == 5
    torch.testing.assert_close(kernel, naive_kernel(model, x))


@pytest.mark.parametrize("sides", [(4, 4), (8, 8), (4, 8)])
def test_winograd_is_the_convolution_to_float32_rounding(sides):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(130, 129, 3, 3, generator=generator)
    d = torch.randn(65, 130, *sides, generator=generator)
    unit = (1, 1)
    g = {"weight": weight, "stride": unit, "padding": unit, "dilation": unit, "groups": 1}
    g["input"] = torch.empty(1, 129, *sides)
    assert suits(g, d)
    expected = conv2d_input((65, 129, *sides), weight.double(), d.double(), 1, 1)
    error = (input_cotangent(g, d, {}) - expected).norm() / expected.norm()
    assert error < 5e-6
    for other in ({"stride": (2, 2)}, {"groups": 2}, {"padding": (0, 0)}):
        assert not suits({**g, **other}, d)
    assert not suits(g, d.double())  # float64 is asked for where every digit counts
