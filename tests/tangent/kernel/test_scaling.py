import pytest
import torch

from tangent.kernel.features import tangent_features
from tangent.kernel.matrix import tangent_kernel
from tangent.kernel.scaling import balancing_scales, parameter_groups, scaled_kernel
from tangent.models import linearize
from tangent.solve.flow import training_path
from tangent.solve.spectrum import spectrum
from tests.tangent.kernels import perceptron

close = torch.testing.assert_close


@pytest.fixture
def model(generator):
    return perceptron(generator)


@pytest.fixture
def x(generator):
    return torch.randn(9, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("outputs", ["trace", "full", "diagonal"])
def test_balanced_layers_have_equal_traces_and_the_total_is_kept(outputs, model, x):
    shares = tangent_kernel(model, x, outputs=outputs, per_layer=True)
    scales = balancing_scales(shares)
    balanced = {name: scaled_kernel({name: k}, {name: scales[name]}) for name, k in shares.items()}
    again = balancing_scales(balanced)
    assert all(value == pytest.approx(1) for value in again.values())
    if outputs == "trace":
        total = sum(float(k.trace()) for k in shares.values())
        assert float(scaled_kernel(shares, scales).trace()) == pytest.approx(total)


def test_sgd_with_the_groups_trains_with_the_scaled_kernel(model, x, generator):
    y = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    shares = tangent_kernel(model, x, outputs="full", per_layer=True)
    scales = balancing_scales(shares)
    kernel = scaled_kernel(shares, scales)
    lr, scale = 1e-4, 2 / y.numel()
    phi = tangent_features(model, x, per_layer=True)
    deltas = torch.nn.ParameterDict(
        {n.replace(".", "_"): torch.zeros(f.shape[2]).double() for n, f in phi.items()}
    )
    groups = parameter_groups(deltas, {n.replace(".", "_"): s for n, s in scales.items()}, lr)
    sgd = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    for _ in range(20):
        sgd.zero_grad()
        f = sum(phi[n] @ deltas[n.replace(".", "_")] for n in phi)
        torch.nn.functional.mse_loss(f, y).backward()
        sgd.step()
    f = sum(phi[n] @ deltas[n.replace(".", "_")] for n in phi).detach()
    path = training_path(spectrum(kernel), y, [20], lr=lr, momentum=0.9, scale=scale)
    close(path.train_predictions[0], f)


def test_names_that_do_not_match_are_named(model, x):
    shares = tangent_kernel(model, x, outputs="trace", per_layer=True)
    with pytest.raises(ValueError, match="scales must have one entry for each of"):
        scaled_kernel(shares, {"other": 1.0})
    with pytest.raises(ValueError, match="kernel that is not zero"):
        balancing_scales({"a": torch.zeros(2, 2)})


def test_the_groups_of_a_linearized_network_are_those_of_the_network(model, x):
    scales = balancing_scales(tangent_kernel(model, x, outputs="trace", per_layer=True))
    first = next(iter(scales))
    dict(model.named_parameters())[first].requires_grad_(False)
    linear = linearize(model)
    groups = parameter_groups(linear, scales, 0.1)
    assert [g["params"][0] for g in groups] == list(linear.delta)
    of_network = parameter_groups(model, scales, 0.1)
    assert [g["lr"] for g in groups] == [g["lr"] for g in of_network]
    assert [g["lr"] for g in groups] == [0.1 * scales[name] ** 2 for name in linear.names]
    assert first not in linear.names
    with pytest.raises(ValueError, match="scales must have one entry for each of"):
        parameter_groups(linear, {"other": 1.0}, 0.1)
