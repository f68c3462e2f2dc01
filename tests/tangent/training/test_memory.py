from __future__ import annotations

import pytest
import torch
from torch import nn

from tangent import mlp, vgg11
from tangent.training.memory import training_memory


def test_weights_count_four_times_with_momentum():
    model = nn.Linear(10, 5)
    size = 4 * 55
    assert training_memory(model, 2, (10,)).weights == 4 * size
    assert training_memory(model, 2, (10,), momentum=0.0).weights == 3 * size
    frozen = nn.Linear(10, 5)
    frozen.bias.requires_grad_(False)
    assert training_memory(frozen, 2, (10,)).weights == 4 * size - 3 * 4 * 5


def test_the_models_values_are_neither_read_nor_copied():
    with torch.device("meta"):
        wide = vgg11(width=8)
    need = training_memory(wide, 8)
    parameters = 4 * sum(p.numel() for p in wide.parameters())
    assert need.weights == 4 * parameters
    assert need.total < 12 * 2**30
    assert need.activations < 0.2 * parameters * 4
    assert "GiB" in str(need)


def test_activations_grow_with_the_batch_and_weights_do_not():
    model = vgg11(width=0.1, generator=torch.Generator().manual_seed(0))
    one, four = (training_memory(model, n) for n in (16, 64))
    assert one.weights == four.weights
    assert four.activations == pytest.approx(4 * one.activations, rel=0.1)


def test_every_activation_function_can_be_looked_at():
    model = mlp(6, 3, hidden=(8,), activation=nn.GELU)
    assert training_memory(model, 4, (6,)).activations > 0


def test_the_direct_way_has_no_less_weights():
    model = nn.Linear(10, 5)
    ways = [training_memory(model, 2, (10,), parametrization=w) for w in ("difference", "direct")]
    assert ways[0].weights == ways[1].weights


def test_moved_weights_are_not_kept_for_the_backward_pass():
    # Linear layers without activations: all that could be kept is weights.
    deep = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(12)])
    need = training_memory(deep, 1, (64,))
    assert need.activations < 3 * 4 * 64 * 64
