"""Estimators under torch.distributed: two processes end with what one ends with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tangent import (
    LazyClassifier,
    LazyRegressor,
    TangentKernelClassifier,
    TangentKernelRegressor,
    mlp,
    tangent_kernel,
)
from tangent.estimators import Perceptron
from tangent.kernel import matrix as kernel
from tangent.training.distributed import share_of_fit
from tests.processes import in_a_group


def network(shape, k, generator):
    return mlp(shape[0], k, hidden=(16,), generator=generator)


SMALL = Perceptron("tanh", 1, 8, 1.0)
CASES = {
    "kernel": TangentKernelClassifier(SMALL, random_state=0),
    "kernel, cg": TangentKernelClassifier(SMALL, solver="cg", tolerance=1e-9, random_state=0),
    "kernel, cg, formed": TangentKernelRegressor(
        Perceptron("tanh", 1, 8, 1.0), solver="cg", tolerance=1e-9, n_ensemble=1, random_state=0
    ),
    "kernel, full": TangentKernelClassifier(
        network, outputs="full", solver="cg", tolerance=1e-9, random_state=0
    ),
    "regressor": TangentKernelRegressor(SMALL, random_state=0),
    "lazy": LazyClassifier(network, epochs=3, batch_size=7, dtype="float64", random_state=0),
    "lazy regressor": LazyRegressor(network, epochs=3, batch_size=7, random_state=0),
}


def data(name):
    X, y = load_digits(n_class=3, return_X_y=True)
    X, y = X[:64] / 16, y[:64]
    return X, y.astype(float) if "regressor" in name or "formed" in name else y


def answers(name, distributed):
    X, y = data(name)
    model = CASES[name].set_params(distributed=distributed).fit(X[:45], y[:45])
    method = "decision_function" if hasattr(model, "decision_function") else "predict"
    return np.asarray(getattr(model, method)(X))


def one_of_two(rank: int, folder: Path) -> None:
    found = {name: answers(name, True) for name in CASES}
    found["kernel of other block sizes"] = _kernel_of_unlike_processes(rank)
    np.savez(folder / f"{rank}.npz", **found)


def _kernel_of_unlike_processes(rank):
    """Of processes whose free memory asks for blocks of different sizes."""
    model, x = _example()
    kernel._block_size = lambda *sizes: 2 + rank
    return tangent_kernel(model, x, distributed=True).numpy()


def _example():
    generator = torch.Generator().manual_seed(0)
    model = mlp(4, 2, hidden=(8,), generator=generator).double()
    return model, torch.randn(23, 4, generator=generator, dtype=torch.float64)


def test_two_processes_give_what_one_gives(tmp_path):
    in_a_group(one_of_two, tmp_path, tmp_path)
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in range(2))
    for name in CASES:
        expected = answers(name, False)
        for one in (first, second):
            np.testing.assert_allclose(
                one[name], expected, atol=1e-5 * np.abs(expected).max(), err_msg=name
            )
    model, x = _example()
    for one in (first, second):
        found = one["kernel of other block sizes"]
        np.testing.assert_allclose(found, tangent_kernel(model, x).numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", ["kernel", "regressor", "lazy", "lazy regressor"])
def test_a_distributed_fit_needs_a_group_and_a_seed(name):
    X, y = data(name)
    with pytest.raises(RuntimeError, match="init_process_group"):
        CASES[name].set_params(distributed=True).fit(X, y)
    with pytest.raises(ValueError, match="random_state must be an int with distributed=True"):
        share_of_fit(True, None)
