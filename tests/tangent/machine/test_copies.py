"""Copies of networks that keep what they computed, and every use that copies one."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from tangent import (
    LazyClassifier,
    ScaledDifference,
    TangentKernelClassifier,
    laziness,
    linearize,
    tangent_kernel,
)
from tangent.machine.copies import copied
from tangent.models.direct import DirectScaling
from tangent.training.memory import training_memory

X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
x, y = torch.from_numpy(X), np.arange(12) % 3


def called_once(norm: str) -> nn.Module:
    """A network whose layer keeps the weight of its last call, and that was called."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch has a newer way
        layer = getattr(nn.utils, norm)(nn.Linear(4, 3))
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 3)).eval()
    model(x)
    assert not layer.weight.is_leaf
    return model


USES = {
    "lazy": lambda m: LazyClassifier(m, epochs=1, random_state=0).fit(X, y).decision_function(X),
    "direct": lambda m: LazyClassifier(
        m, alpha=2.0, epochs=1, parametrization="direct", random_state=0
    ).fit(X, y).decision_function(X),
    "kernel classifier": lambda m: TangentKernelClassifier(m).fit(X, y).decision_function(X),
    "report": lambda m: laziness(m, x, y, epochs=1).first,
    "kernel": lambda m: tangent_kernel(m, x),
    "linear": lambda m: linearize(m)(x),
    "displaced": lambda m: ScaledDifference(m, 2.0).displaced()(x),
    "float64": lambda m: ScaledDifference(m, 2.0).double()(x.double()),
    "subtracted": lambda m: DirectScaling(m, 2.0).difference()(x),
    "memory": lambda m: training_memory(m, 2, (4,), alpha=math.inf, momentum=0.9).total,
}  # fmt: skip


@pytest.mark.parametrize("norm", ["spectral_norm", "weight_norm"])
@pytest.mark.parametrize("use", USES)
def test_a_network_that_was_called_before_is_used_as_one_that_was_not(use, norm):
    model = called_once(norm)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    found = USES[use](model)
    with torch.no_grad():
        model(x)  # which leaves nothing with a graph
    expected = USES[use](copy.deepcopy(model))
    np.testing.assert_allclose(torch.as_tensor(found).detach(), torch.as_tensor(expected).detach())


def test_a_copy_shares_nothing_and_keeps_what_the_caller_chose():
    model = called_once("weight_norm")
    other = torch.zeros(3)
    twin = copied(model, {id(model[2].bias): other})
    assert twin[2].bias is other
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert twin(x).abs().min() > 0
