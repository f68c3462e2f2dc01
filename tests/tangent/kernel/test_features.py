from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tangent.kernel.features import tangent_features
from tangent.nets import mlp
from tests.tangent.naive import naive_features
from tests.tangent.networks import MODELS, example


def small_cnn(generator: torch.Generator) -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=generator)
    return model


@given(n=st.integers(1, 4), batch_size=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_tangent_features_match_one_backward_pass_an_output(n, batch_size, seed):
    generator = torch.Generator().manual_seed(seed)
    model = small_cnn(generator)
    x = torch.randn(n, 2, 4, 4, generator=generator, dtype=torch.float64)
    phi = tangent_features(model, x, batch_size=batch_size, per_layer=True)
    expected = naive_features(model, x)
    assert list(phi) == list(expected)
    for name, value in phi.items():
        torch.testing.assert_close(value, expected[name])
    whole = tangent_features(model, x, batch_size=batch_size)
    torch.testing.assert_close(whole, torch.cat(list(expected.values()), dim=2))


def test_a_subset_of_the_parameters_is_chosen_by_module_name(generator):
    model = small_cnn(generator)
    x = torch.randn(2, 2, 4, 4, generator=generator, dtype=torch.float64)
    phi = tangent_features(model, x, parameters=["4"], per_layer=True)
    assert list(phi) == ["4.weight", "4.bias"]


def test_the_mode_and_the_gradients_of_the_model_are_left_as_found(generator):
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2)).train()
    x = torch.randn(2, 3, generator=generator)
    torch.testing.assert_close(tangent_features(model, x), tangent_features(model, x))
    assert all(m.training for m in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("sketch", ["rademacher", "gaussian", "count"])
def test_the_error_of_a_sketch_falls_as_one_over_the_root_of_its_dimension(sketch):
    generator = torch.Generator().manual_seed(3)
    model = mlp(6, 2, hidden=(20,), generator=generator).double()
    x = torch.randn(12, 6, generator=generator, dtype=torch.float64)
    exact = tangent_features(model, x).flatten(0, 1)
    exact = exact @ exact.T

    def error(dim: int) -> float:
        squares = []
        for _ in range(6):
            phi = tangent_features(model, x, project=dim, sketch=sketch, generator=generator)
            phi = phi.flatten(0, 1)
            squares.append((phi @ phi.T - exact).square().mean() / exact.square().mean())
        return torch.stack(squares).mean().sqrt().item()

    errors = [error(dim) for dim in (64, 256, 1024)]
    # Theory: a factor of 2 each time; six draws of 24 x 24 entries leave some 15% of noise.
    assert 1.5 < errors[0] / errors[1] < 2.7
    assert 1.5 < errors[1] / errors[2] < 2.7
    assert errors[2] < 0.15


def test_the_same_seed_gives_the_same_sketch_for_any_batch_size(generator):
    model = small_cnn(generator)
    x = torch.randn(5, 2, 4, 4, generator=generator, dtype=torch.float64)

    def sketch(x, batch_size):
        seeded = torch.Generator().manual_seed(7)
        return tangent_features(model, x, project=32, batch_size=batch_size, generator=seeded)

    torch.testing.assert_close(sketch(x, 2), sketch(x, 5))
    torch.testing.assert_close(sketch(x, 5)[3:], sketch(x[3:], 5))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"project": 0}, "project must be at least 1"),
        ({"project": 3, "sketch": "sparse"}, "sketch must be"),
        ({"parameters": ["head"]}, "parameters must be names"),
    ],
)
def test_a_wrong_option_is_refused_by_name(generator, options, words):
    model = small_cnn(generator)
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=words):
        tangent_features(model, x, **options)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_refused(generator, bad):
    model = small_cnn(generator)
    with pytest.raises(ValueError, match="x must be finite"):
        tangent_features(model, torch.full((1, 2, 4, 4), bad))


@pytest.mark.parametrize("name", MODELS)
def test_the_features_of_every_kind_of_layer_are_its_gradients(name):
    model, x = example(name, 4, seed=3)
    phi = tangent_features(model, x, batch_size=3, per_layer=True)
    for parameter, expected in naive_features(model, x).items():
        torch.testing.assert_close(phi[parameter], expected)
