"""Hostile tensors: every function of tensors refuses them in words or gives finite numbers."""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import convolutional_kernels, mlp_kernels
from tangent import (
    TangentOperator,
    describe,
    laziness,
    linearize,
    mlp,
    stability_edge,
    stability_of_activations,
    stored_tangent_kernel,
    tangent_features,
    tangent_kernel,
)
from tangent.kernel import balancing_scales, kernel_eigenvalues, kernel_trace
from tangent.models import mean_tangent_features
from tangent.solve import (
    conjugate_gradients,
    cross_entropy_solution,
    descent_filter,
    flow_filter,
    kernel_ridge,
    nystrom_preconditioner,
    spectrum,
    training_path,
)
from tests.hostile import kept

MANY = 300
COLUMNS = 4
N = 6


def network():
    return mlp(COLUMNS, 2, hidden=(5,), generator=torch.Generator().manual_seed(0)).double()


def _stored(x):
    with tempfile.TemporaryDirectory() as folder:
        return np.array(stored_tangent_kernel(Path(folder), network(), x))


def _targets(x):
    return torch.linspace(-1, 1, 2 * len(x), dtype=torch.float64).reshape(-1, 2)


def _symmetric(x):
    rows = x.flatten(1) if x.ndim > 1 else x[:, None]
    return (rows.double() @ rows.double().T).to(x.dtype)


def _product(x):
    matrix = _symmetric(x).double()
    return lambda v: (matrix @ v.double()).to(v)


def _below(x):
    """Eigenvalues at which descent is stable: above, its filter grows without bound."""
    return x.flatten().clamp(max=15.0) if x.is_floating_point() else x.flatten()


def _generator():
    return torch.Generator().manual_seed(0)


# ``linearize`` gives a module, in which NaN in is NaN out as in every other.
# What each does with rows of a network's inputs, or with the kernel of such rows.
FUNCTIONS = {
    "tangent_kernel": lambda x: tangent_kernel(network(), x),
    "tangent_kernel, trace": lambda x: tangent_kernel(network(), x, x[:2], outputs="trace"),
    "tangent_features": lambda x: tangent_features(network(), x),
    "tangent_features, sketched": lambda x: tangent_features(
        network(), x, project=3, generator=_generator()
    ),
    "mean_tangent_features": lambda x: mean_tangent_features(network(), [x]),
    "stored_tangent_kernel": _stored,
    "linearize": lambda x: linearize(network())(x.nan_to_num() if x.is_floating_point() else x),
    "describe": lambda x: str(describe(network(), x)),
    "laziness": lambda x: laziness(
        network(), x, torch.arange(len(x)) % 2, alphas=(1.0, 10.0), epochs=1
    ),
    "stability_edge": lambda x: stability_edge(
        linearize(network()), x, "square", generator=_generator()
    ),
    "stability_of_activations": lambda x: stability_of_activations(linearize(network()), x),
    "kernel_eigenvalues": lambda x: kernel_eigenvalues(
        TangentOperator(network(), x), 2, generator=_generator()
    ),
    "kernel_trace": lambda x: kernel_trace(
        TangentOperator(network(), x), 6, generator=_generator()
    ),
    "mlp_kernels": lambda x: list(mlp_kernels(x)),
    "convolutional_kernels": lambda x: list(
        convolutional_kernels(x.reshape(-1, 1, 2, 2) if x.numel() == COLUMNS * len(x) else x)
    ),
    "spectrum": lambda x: spectrum(_symmetric(x)).eigenvalues,
    "kernel_ridge": lambda x: kernel_ridge(_symmetric(x), _targets(x), 0.1).coefficients,
    "training_path": lambda x: (
        training_path(spectrum(_symmetric(x)), _targets(x), [0.0, 1.0]).train_predictions
    ),
    "conjugate_gradients": lambda x: (
        conjugate_gradients(_product(x), _targets(x), ridge=0.1, max_iterations=20).coefficients
    ),
    "cross_entropy_solution": lambda x: (
        cross_entropy_solution(
            _product(x), torch.arange(len(x)) % 2, 0.1, max_iterations=20
        ).coefficients
    ),
    "nystrom_preconditioner": lambda x: (
        nystrom_preconditioner(
            _product(x), len(x), rank=2, ridge=0.1, generator=_generator()
        ).eigenvalues
    ),
    "flow_filter": lambda x: flow_filter(x.flatten(), 1.0),
    "descent_filter": lambda x: descent_filter(_below(x), 3, 0.1),
    "balancing_scales": lambda x: balancing_scales(
        {"a": _symmetric(x), "b": torch.eye(len(x)).double()}
    ),
}

contents = st.sampled_from(
    ["plain", "zeros", "constant", "1e300", "1e-300", "1e150", "nan", "inf", "negative", "mixed"]
)
dtypes = st.sampled_from(
    [torch.float64] * 8 + [torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64]
)
sizes = st.sampled_from([N] * 6 + [0, 1, 2])
shapes = st.sampled_from(["rows"] * 6 + ["vector", "cube", "wide"])


def tensor(content, dtype, n, shape):
    x = torch.rand(n, COLUMNS, generator=_generator(), dtype=torch.float64) + 0.1
    if content in ("zeros", "constant"):
        x = torch.full_like(x, 0.0 if content == "zeros" else 0.1)
    elif content.startswith("1e"):
        x = x * float(content)
    elif content in ("nan", "inf"):
        x.flatten()[:1] = float(content)
    elif content == "negative":
        x = -x
    elif content == "mixed":
        x[::2] *= 1e100
        x[1::2] *= 1e-100
    x = {"vector": x[:, 0], "cube": x[..., None], "wide": torch.cat([x, x], 1)}.get(shape, x)
    return x.to(dtype)


def numbers(answer):
    """All numbers of an answer, of whatever kind."""
    if isinstance(answer, torch.Tensor):
        answer = answer.detach().numpy()
    if isinstance(answer, np.ndarray):
        return [answer] if answer.dtype.kind in "fc" else []
    if isinstance(answer, float):
        return [np.array(answer)]
    if isinstance(answer, dict):
        return [a for one in answer.values() for a in numbers(one)]
    if isinstance(answer, list | tuple):
        return [a for one in answer for a in numbers(one)]
    if dataclasses.is_dataclass(answer):
        return []  # of a report some entries say that there is no number
    return []


def check(name, content, dtype, n, shape):
    x = tensor(content, dtype, n, shape)
    before, words = x.clone(), None
    with kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            answer = FUNCTIONS[name](x)
        except (ValueError, TypeError, ArithmeticError) as error:
            words = str(error)
        except RuntimeError as error:  # torch's own words for what the network itself refuses
            if "mat1 and mat2" not in str(error):
                raise
            words = str(error)
    assert torch.equal(x.nan_to_num(), before.nan_to_num()), "the argument was changed"
    if words is not None:
        assert len(words) > 10, words
        return "refused"
    for found in numbers(answer):
        assert np.isfinite(found).all(), f"{name} is not finite"
    return "answered"


drawn = given(content=contents, dtype=dtypes, n=sizes, shape=shapes)


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=8)
@drawn
def test_a_function_refuses_in_words_or_answers(name, content, dtype, n, shape):
    assert check(name, content, dtype, n, shape) in ("refused", "answered")


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=MANY)
@drawn
def test_a_function_refuses_in_words_or_answers_often(name, content, dtype, n, shape):
    assert check(name, content, dtype, n, shape) in ("refused", "answered")
