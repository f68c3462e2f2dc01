"""The report's numbers against other ways to them, and what it says of known cases."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tangent.curvature import curvature, weight_function
from tangent.diagnostics import report
from tangent.nets import mlp
from tests.tangent.naive import naive_kernel

F64 = torch.float64


@pytest.fixture
def data(generator):
    x = torch.randn(6, 3, generator=generator, dtype=F64)
    return x, torch.randn(6, generator=generator, dtype=F64)


def tanh_net(generator, width=8, outputs=1):
    return mlp(3, outputs, hidden=(width,), activation=nn.Tanh, generator=generator)


def test_norms_and_kappa_are_those_of_equation_one(generator, data):
    net, (x, y) = tanh_net(generator), data
    found = report(net, x, y, starts=8, generator=generator)
    h, w0 = weight_function(net.double(), x)
    expected = curvature(h, w0, y / 6**0.5, generator=generator)
    assert found.distance == pytest.approx(expected.distance)
    assert found.first == pytest.approx(expected.first)
    assert found.second == pytest.approx(expected.second, rel=1e-3)
    assert found.kappa == pytest.approx(expected.kappa, rel=1e-3)


def test_the_spectrum_is_that_of_the_tangent_kernel(generator, data):
    net, (x, y) = tanh_net(generator, outputs=2), data
    found = report(net, x, torch.stack([y, -y], 1), steps=1, generator=generator)
    kernel = naive_kernel(net.double(), x).reshape(12, 12) / 6
    values = torch.linalg.eigvalsh(kernel).flip(0)
    torch.testing.assert_close(torch.tensor(found.eigenvalues, dtype=F64), values)
    assert found.condition == pytest.approx(float(values[0] / values[-1]), rel=1e-5)
    assert found.stable_lr == pytest.approx(2 / float(values[0]))


def test_training_at_the_predicted_alpha_moves_little(generator, data):
    found = report(tanh_net(generator), *data, generator=generator)
    free, lazy = found.movements
    assert lazy.alpha == pytest.approx(found.kappa_centred / 0.1)
    assert lazy.kernel < 0.1 < free.kernel
    assert lazy.weights < free.weights / 2
    assert lazy.loss < 1


def test_a_linear_model_is_lazy_at_every_scale(generator, data):
    net = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        net.weight.normal_(generator=generator)
    found = report(net, *data, generator=generator)
    assert found.second == 0
    assert found.kappa == 0
    assert found.movements[0].kernel < 1e-12


def test_relu_networks_are_marked_and_their_signs_counted(generator, data):
    net = mlp(3, 1, hidden=(8,), generator=generator)
    found = report(net, *data, generator=generator)
    assert not found.smooth
    assert 0.5 < found.movements[0].signs <= found.movements[1].signs <= 1
    assert "kinks" in str(found)


class Plain(nn.Module):
    """One hidden layer with any function in the middle."""

    def __init__(self, middle, generator, units=8):
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(units, 1)
        self.middle = middle
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(generator=generator)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


def pooled(x):
    return F.max_pool1d(x, 2)


KINKED = {
    "relu": F.relu,
    "relu_": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "method": lambda x: x.relu(),
    "leaky_relu": F.leaky_relu,
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.5),
    "clamp": lambda x: x.clamp(min=0),
    "abs": abs,
}


@pytest.mark.parametrize("name", KINKED)
def test_kinks_are_found_wherever_they_are_called_from(generator, data, name):
    found = report(Plain(KINKED[name], generator), *data, steps=3, generator=generator)
    assert not found.smooth
    assert len(found.kinks) == 1
    assert 0.5 < found.movements[-1].signs <= 1
    assert f"kinks of {found.kinks[0]} left out" in str(found)


def test_functional_and_module_relu_give_the_same_report(generator, data):
    net = Plain(F.relu, generator)
    as_module = nn.Sequential(net.first, nn.ReLU(), net.last)
    one, other = (
        report(model, *data, steps=3, generator=torch.Generator().manual_seed(0))
        for model in (net, as_module)
    )
    assert one == other


@pytest.mark.parametrize(
    "pool", [nn.MaxPool1d(2), pooled, nn.AdaptiveMaxPool1d(4), lambda x: x[:, :4].max(x[:, 4:])]
)
def test_max_pooling_has_kinks_and_no_signs(generator, data, pool):
    found = report(Plain(pool, generator, units=4), *data, steps=2, generator=generator)
    assert not found.smooth
    assert found.movements[0].signs is None


@pytest.mark.parametrize("smooth", [torch.tanh, F.gelu, F.softplus, F.elu])
def test_smooth_networks_are_not_marked(generator, data, smooth):
    found = report(Plain(smooth, generator), *data, steps=2, generator=generator)
    assert found.smooth
    assert found.kinks == ()


def test_kinks_in_the_inputs_alone_do_not_count(generator, data):
    net = tanh_net(generator)
    assert report(nn.Sequential(nn.ReLU(), *net), *data, steps=2, generator=generator).smooth


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_data_go_to_the_device_of_the_weights(generator, data):
    there = report(tanh_net(generator).cuda(), *data, steps=2, generator=generator)
    assert there.kappa > 0


def test_class_numbers_become_one_hot_rows(generator, data):
    net = tanh_net(generator, outputs=3)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    by_class = report(net, data[0], labels, steps=1, generator=torch.Generator().manual_seed(0))
    rows = nn.functional.one_hot(labels, 3).double()
    by_row = report(net, data[0], rows, steps=1, generator=torch.Generator().manual_seed(0))
    assert by_class == by_row


def test_the_network_is_left_as_found(generator, data):
    net = tanh_net(generator)
    before = {name: p.clone() for name, p in net.state_dict().items()}
    report(net, *data, steps=2, generator=generator)
    assert net.training
    for name, p in net.state_dict().items():
        assert p.dtype == torch.float32
        assert torch.equal(p, before[name])


def test_the_report_is_text_and_plain_numbers(generator, data):
    found = report(tanh_net(generator), *data, generator=generator)
    numbers = json.loads(json.dumps(found.as_dict()))
    assert math.isfinite(numbers["kappa"])
    assert f"{found.lazy_alpha:.3g}" in str(found)


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (5, torch.zeros(6), "as many rows; got 5 and 6"),
        (6, torch.zeros(6, 2), r"shape \(6, 1\) of the outputs; got \(6, 2\)"),
    ],
)
def test_what_does_not_fit_is_named(generator, data, rows, labels, message):
    with pytest.raises(ValueError, match=message):
        report(tanh_net(generator), data[0][:rows], labels)


def test_class_numbers_out_of_range_are_named(generator, data):
    with pytest.raises(ValueError, match="class numbers from 0 to 2; got numbers from 0 to 7"):
        report(tanh_net(generator, outputs=3), data[0], torch.tensor([0, 1, 2, 7, 0, 0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_give_the_report_of_their_tensors(generator, data, dtype):
    net, rows = tanh_net(generator, outputs=3), data[0].numpy().astype(dtype)
    for y in (np.array([0, 1, 2, 0, 1, 2]), np.eye(3)[[0, 1, 2, 0, 1, 2]]):
        found = report(net, rows, y, steps=3, generator=torch.Generator().manual_seed(0))
        expected = report(
            net,
            torch.from_numpy(rows),
            torch.from_numpy(y),
            steps=3,
            generator=torch.Generator().manual_seed(0),
        )
        assert found.as_dict() == expected.as_dict()
    with pytest.raises(ValueError, match=r"y must hold class numbers from 0 to 2"):
        report(net, rows, np.array([[0], [1], [2], [0], [1], [2]]))
