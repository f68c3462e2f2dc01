"""Strided 1x1 convolutions are those of the subsampled input, and nothing else is computed."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tangent import ScaledDifference, TangentOperator, linearize, tangent_features, tangent_kernel
from tangent.laziness.curvature import weight_function
from tangent.models import mean_tangent_features
from tangent.models.direct import DirectScaling
from tangent.nets import resnet18
from tangent.operations.pointwise import SubsampledPointwise, subsampled


class _Strided(nn.Module):
    """A user's network: strided 1x1 convolutions as a module and as a function."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1, stride=2)
        self.second = nn.Parameter(torch.randn(5, 4, 1, 1))
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x = F.conv2d(F.relu(self.first(x)), self.second, None, (2, 1))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return _Strided().double()


@pytest.fixture
def x():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


class _Strides(torch.overrides.TorchFunctionMode):
    """Notes the strides of the convolutions of one position that a computation calls."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.conv1d, torch.conv2d, torch.conv3d) and args[1].shape[-1] == 1:
            stride = (kwargs or {}).get("stride", args[3] if len(args) > 3 else 1)
            self.found.append(stride)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("dims", "options"),
    [
        (1, {"stride": 3}),
        (2, {"stride": 2}),
        (2, {"stride": (2, 1)}),
        (2, {"stride": (2,), "groups": 2}),
        (2, {"stride": 2, "padding": "valid"}),
        (3, {"stride": (1, 2, 3)}),
    ],
)
def test_a_strided_pointwise_convolution_is_that_of_the_subsample(dims, options):
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dims]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, *(5, 6, 7)[:dims], generator=generator, dtype=torch.float64)
    groups = options.get("groups", 1)
    weight = torch.randn(6, 4 // groups, *(1,) * dims, generator=generator, dtype=torch.float64)
    bias = torch.randn(6, generator=generator, dtype=torch.float64)
    expected = conv(x, weight, bias, **options)
    with _Strides() as strides, SubsampledPointwise():
        torch.testing.assert_close(conv(x, weight, bias, **options), expected)
    assert strides.found == [1]


@pytest.mark.parametrize(
    "options", [{"stride": 1}, {"stride": 2, "padding": 1}, {"stride": 2, "padding": "same"}]
)
def test_other_convolutions_are_left_alone(options):
    x, weight = torch.randn(2, 4, 6, 6), torch.randn(3, 4, 1, 1)
    padding = options.get("padding", 0)
    assert subsampled(x, weight, options["stride"], padding, 2) is None
    assert subsampled(x, torch.randn(3, 4, 3, 1), 2, 0, 2) is None


def _differentiated(what, model, x):
    if what == "features":
        tangent_features(model, x)
    elif what == "kernel":
        tangent_kernel(model, x)
    elif what == "product":
        TangentOperator(model, x).apply(torch.ones(2 * len(x)))
    elif what == "mean":
        mean_tangent_features(model, [x])
    elif what == "weights":
        h, w = weight_function(model, x)
        torch.func.jacrev(h)(w)
    elif what == "direct":
        DirectScaling(model, 1.0).forward(x).sum().backward()
    elif what == "linear":
        linearize(model)(x).sum().backward()
    else:
        ScaledDifference(model, 10.0)(x).sum().backward()


@pytest.mark.parametrize(
    "what",
    ["features", "kernel", "product", "mean", "weights", "direct", "linear", "difference"],
)
def test_no_strided_pointwise_convolution_is_differentiated(what, model, x):
    strides = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution_backward.default:
                weight, stride = args[2], args[4]
                if weight.shape[-1] == weight.shape[-2] == 1:
                    strides.append(tuple(stride))
            return func(*args, **(kwargs or {}))

    with Watch():
        _differentiated(what, model, x)
    assert all(set(stride) == {1} for stride in strides)


def test_the_own_resnet_has_the_values_of_strided_shortcuts():
    torch.manual_seed(0)
    model = resnet18(width=0.1, generator=torch.Generator().manual_seed(0)).double()
    block = model[4]
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    shortcut = F.conv2d(x, block.shortcut.weight, block.shortcut.bias, stride=2)
    expected = F.relu(block.conv2(F.relu(block.conv1(x))) + shortcut)
    torch.testing.assert_close(block(x), expected)


_TRAINED = """
import math, sys, torch
from tangent import LazyClassifier
from tangent.nets import resnet18
torch.manual_seed(0)
X, y = torch.randn(20, 3 * 32 * 32).numpy(), torch.arange(20).numpy() % 2
for alpha in (1.0, 1e7, math.inf):
    LazyClassifier("resnet18", width=0.1, alpha=alpha, epochs=8, batch_size=10, lr=1e-3,
                   check_lr=False, image_shape=(3, 32, 32), random_state=0).fit(X, y)
LazyClassifier("resnet18", width=0.1, alpha=1.0, epochs=8, batch_size=10, lr=1e-3, check_lr=False,
               image_shape=(3, 32, 32), random_state=0, parametrization="direct").fit(X, y)
model = resnet18(width=0.1).to(memory_format=torch.channels_last)
x = torch.randn(10, 3, 32, 32).contiguous(memory_format=torch.channels_last)
for _ in range(30):
    model(x).sum().backward()
print("whole")
"""


@pytest.mark.parametrize("isa", ["AVX2", pytest.param(None, marks=pytest.mark.slow)])
def test_resnet_trains_on_cpus_with_avx2_only(isa):
    # In a process of its own: where memory is corrupted, it is the process that dies.
    environment = dict(os.environ) | ({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})
    done = subprocess.run(
        [sys.executable, "-c", _TRAINED], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr[-2000:]


def test_alpha_infinity_of_a_strided_network_is_its_derivative(model, x):
    linear = linearize(model)
    with torch.no_grad():
        for delta in linear.delta:
            delta.normal_()
    phi = tangent_features(model, x)
    expected = phi @ torch.cat([d.detach().flatten() for d in linear.delta])
    torch.testing.assert_close(linear(x).detach(), expected)
    assert math.isinf(linear.alpha)
