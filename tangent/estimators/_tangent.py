"""What `TangentKernelClassifier` and `TangentKernelRegressor` share: kernel, fit, prediction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from tangent.capture.outputs import output_shape
from tangent.estimators._candidates import candidates
from tangent.estimators._common import (
    check_takes,
    checked_rows,
    finite_outputs,
    row_shape,
    torch_device,
    torch_generator,
)
from tangent.estimators._dual import DualFit, dual_fit
from tangent.estimators._ensemble import (
    EnsembleKernel,
    check_kernel_memory,
    feature_dtype,
    members,
)
from tangent.estimators._primal import PrimalFit, primal_fit, primal_outputs, subset_size
from tangent.estimators._rows import first_rows, merged_rows, row_tensor, weighted_normalization
from tangent.nets.designed import with_images
from tangent.solve.system import available_bytes
from tangent.training.distributed import share_of_fit

__all__ = ["FLOATS", "TangentModel"]

FLOATS = [np.float64, np.float32]
_EXACT_ROWS = 8000  # beyond, an eigendecomposition takes minutes
_BATCH = 256  # inputs of one Jacobian-vector product
_OUTPUTS = 16  # of a network whose outputs are averaged: more cost time and say little
_GRID = tuple(float(r) for r in np.logspace(-6, 1, 22))


class TangentModel(BaseEstimator):
    """Choice of network and ridge, exact or iterative fit, and predictions."""

    def _fit(self, X: np.ndarray, y: np.ndarray, weights: np.ndarray) -> None:
        """Fit targets (n, k), weighted."""
        self._check_options()
        share_of_fit(self.distributed, self.random_state)
        shape = row_shape(self.image_shape, X.shape[1], self.input_shape)
        self.rows_ = first_rows(X, weights)
        X, y, weights = merged_rows(X, y, weights)
        self.mean_, self.scale_ = np.zeros(X.shape[1]), np.ones(X.shape[1])
        if self.normalize:
            self.mean_, self.scale_ = weighted_normalization(X, weights, shape)
        self.input_shape_ = shape
        x = self._inputs(X)
        self.solver_ = self._solver(len(x), y.shape[1])
        self.inputs_ = x
        if self.solver_ == "exact":
            check_kernel_memory(len(x), y.shape[1] if self._full(y.shape[1]) else None)
        generator = torch_generator(self.random_state)
        targets, w = torch.from_numpy(y).double(), torch.from_numpy(weights)
        self.targets_ = targets
        some = torch.arange(len(x))
        if self.solver_ == "cg":
            width = y.shape[1] if self._full(y.shape[1]) else 1
            # Of a generator of its own: the networks are those of the exact solver.
            drawn = torch.randperm(len(x), generator=torch_generator(self.random_state))
            some = drawn[: subset_size(len(x), width)]
        best: tuple[Any, Any, Any] | None = None
        for model in self._models(shape):
            kernel = self._kernel(model, y.shape[1], generator)
            matrix = kernel(x[some], device=self._device(), distributed=self.distributed)
            for fit in self._fits(matrix, targets[some], w[some]):
                if best is None or fit.error < best[0].error:
                    best = fit, kernel, model
        assert best is not None
        self.fit_, self.kernel_, self.chosen_model_ = best
        if self.solver_ == "cg":
            self.fit_ = self._iterated(x, targets, w, generator)
            self.n_iter_ = self.fit_.log[-1].step
        self.ridge_, self.loo_error_ = self.fit_.ridge, self.fit_.error

    def _fits(self, matrix: Tensor, targets: Tensor, weights: Tensor) -> Iterator[Any]:
        """Yield exact fits with one kernel; the one of least ``error`` over all is kept."""
        yield self._dual_fit(matrix, targets, weights)

    def _iterated(self, x: Tensor, targets: Tensor, weights: Tensor, generator) -> PrimalFit:
        """Fit all rows with the network and the ridge that the exact fit of a subset chose."""
        return primal_fit(
            self.kernel_,
            x,
            targets,
            weights,
            self.fit_,
            intercept=self.fit_intercept,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            rank=self.rank,
            batch_size=_BATCH,
            device=self._device(),
            generator=generator,
            share=share_of_fit(self.distributed, self.random_state),
        )

    def _dual_fit(self, matrix: Tensor, targets: Tensor, weights: Tensor) -> DualFit:
        if matrix.ndim == 4 and matrix.shape[1] == 1:
            matrix = matrix[:, 0, :, 0]
        return dual_fit(
            matrix,
            targets,
            weights,
            ridges=self._ridges(),
            time=self.time,
            intercept=self.fit_intercept,
        )

    def _outputs(self, X) -> np.ndarray:
        """Predictions of shape (n, k), float64."""
        check_is_fitted(self)
        X = checked_rows(self, X, dtype=FLOATS, reset=False)
        x = self._inputs(X)
        if getattr(self.fit_, "displacements", None) is not None:
            made = primal_outputs(self.kernel_, self.fit_, x, _BATCH, self._device())
            return finite_outputs(made.numpy(), X)
        coefficients, constant = self.fit_.coefficients, self.fit_.constant
        parts = []
        for _, cross in self.kernel_.rows(x, self.inputs_, self._device()):
            if cross.ndim == 4:
                k = cross.shape[1]
                cross = cross.reshape(len(cross) * k, -1) @ coefficients.reshape(-1, 1)
                parts.append(cross.reshape(-1, k) + constant)
            else:
                parts.append(cross @ coefficients + constant)
        return finite_outputs(torch.cat(parts).numpy(), X)

    def _kernel(self, model, k: int, generator: torch.Generator) -> EnsembleKernel:
        networks = members(
            model,
            self.n_ensemble,
            self.input_shape_,
            min(k, _OUTPUTS) if self.outputs in ("trace", "pseudo") else k,
            width=self.width,
            gain=self.gain,
            generator=generator,
        )
        dtype = self._dtype()
        kernel = EnsembleKernel(networks, self.outputs, dtype, self.parameters, self.output)
        check_takes(kernel.networks[0], self.inputs_, self.tokens_)
        if self._full(k):
            _check_output_count(kernel.networks[0], self.inputs_[:1], k)
        return kernel

    def _inputs(self, X: np.ndarray) -> Tensor:
        return row_tensor(X, self.mean_, self.scale_, self.input_shape_, self._dtype())

    def _models(self, shape: tuple[int, ...]) -> list:
        if isinstance(self.model, str) and self.model == "auto":
            return list(candidates(shape, self.width))
        if isinstance(self.model, list | tuple):
            if not self.model:
                raise ValueError("model must hold at least one network to choose from; got none")
            return [with_images(model, self.inputs_) for model in self.model]
        return [with_images(self.model, self.inputs_)]

    def _full(self, k: int) -> bool:
        return self.outputs == "full" and k > 1

    def _device(self) -> torch.device:
        return torch_device(self.device)

    def _dtype(self) -> torch.dtype:
        return feature_dtype(self.dtype, self.image_shape or self.input_shape)

    def _ridges(self) -> Sequence[float]:
        if isinstance(self.ridge, str):
            return _GRID
        return [float(r) for r in np.atleast_1d(np.asarray(self.ridge, dtype=np.float64))]

    def _solver(self, n: int, k: int) -> str:
        rows = n * (k if self._full(k) else 1)
        if self.solver != "auto" or self.time is not None:
            return "cg" if self.solver == "cg" else "exact"
        return "exact" if rows <= _EXACT_ROWS and 40 * rows**2 < available_bytes() else "cg"

    def _check_options(self) -> None:
        if isinstance(self.ridge, str) and self.ridge != "loo":
            raise ValueError(f"ridge must be a number, several, or 'loo'; got {self.ridge!r}")
        values = self._ridges()
        if not values or not all(0 <= r < math.inf for r in values):
            raise ValueError(f"ridge must be at least 0 and finite; got {self.ridge!r}")
        if self.solver not in ("auto", "exact", "cg"):
            raise ValueError(f"solver must be 'auto', 'exact' or 'cg'; got {self.solver!r}")
        named = ("trace", "pseudo", "full")
        if self.outputs not in named and not isinstance(self.outputs, int):
            raise ValueError(
                f"outputs must be 'trace', 'pseudo', 'full' or the index of an output; "
                f"got {self.outputs!r}"
            )
        if self.time is not None and self.solver == "cg":
            raise ValueError(f"time needs solver='exact'; got time={self.time}, solver='cg'")
        if self.time is not None and not self.time >= 0:
            raise ValueError(f"time must be at least 0, or None for no stopping; got {self.time}")
        if not isinstance(self.n_ensemble, int | np.integer) or self.n_ensemble < 1:
            raise ValueError(f"n_ensemble must be an integer, at least 1; got {self.n_ensemble!r}")
        self._dtype()


def _check_output_count(network: nn.Module, x: Tensor, k: int) -> None:
    got = output_shape(network, x)
    if got != (2, k):
        raise ValueError(
            f"model must return (n, {k}) outputs for this problem with outputs='full'; got {got} "
            "for two inputs; outputs='trace' takes any number"
        )
