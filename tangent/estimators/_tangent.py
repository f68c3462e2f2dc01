"""What `TangentKernelClassifier` and `TangentKernelRegressor` share: kernel, fit, prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from tangent.capture.outputs import output_shape
from tangent.estimators._dual import DualFit, dual_fit
from tangent.estimators._ensemble import EnsembleKernel, check_kernel_memory, feature_dtype
from tangent.estimators._logistic import logistic_fit
from tangent.estimators._primal import Iterated, PrimalFit, primal_fit, primal_outputs, subset_size
from tangent.estimators._rows import first_rows, merged_rows, row_tensor, weighted_normalization
from tangent.estimators.candidates import Perceptron, candidates
from tangent.estimators.common import (
    built_networks,
    check_takes,
    checked_rows,
    finite_outputs,
    fitted_shape,
    torch_device,
    torch_generator,
)
from tangent.nets.designed import with_images
from tangent.solve.system import available_bytes
from tangent.training.distributed import share_of_fit

FLOATS = [np.float64, np.float32]
_EXACT_ROWS = 8000  # beyond, an eigendecomposition takes minutes
_BATCH = 256  # inputs of one Jacobian-vector product
_OUTPUTS = 16  # of a network whose outputs are averaged: more cost time and say little
_NEAR = 1.25  # times the least error with the first loss: what may be best with another
_PERCEPTRON_OUTPUTS = 4  # of one layer or two: the mean over outputs settles sooner
_LOGISTIC_GRID = tuple(10.0**-i for i in np.arange(0, 7.5, 0.5))
_GRID = tuple(float(r) for r in np.logspace(-6, 1, 22))


@dataclass(frozen=True, eq=False)
class _Runner:
    """A network among several: its kernel, the matrix of its first member, its error with it."""

    model: Any
    kernel: EnsembleKernel
    matrix: Tensor
    error: float


class TangentModel(BaseEstimator):
    """Choice of network and ridge, exact or iterative fit, and predictions."""

    fit_: Any
    kernel_: EnsembleKernel
    chosen_model_: Any

    def __init__(
        self,
        model: Any = "auto",
        *,
        outputs: str | int = "trace",
        ridge: Any = "loo",
        time: float | None = None,
        solver: str = "auto",
        width: float = 1.0,
        gain: float | None = None,
        n_ensemble: int = 2,
        fit_intercept: bool = True,
        normalize: bool = True,
        image_shape: tuple[int, ...] | None = None,
        input_shape: tuple[int, ...] | None = None,
        parameters: str | Sequence[str] | None = None,
        output: Any = None,
        tolerance: float = 1e-4,
        max_iterations: int = 500,
        rank: int = 100,
        device: str = "cpu",
        dtype: str = "auto",
        random_state: Any = None,
        distributed: bool = False,
    ) -> None:
        self.model = model
        self.outputs = outputs
        self.ridge = ridge
        self.time = time
        self.solver = solver
        self.width = width
        self.gain = gain
        self.n_ensemble = n_ensemble
        self.fit_intercept = fit_intercept
        self.normalize = normalize
        self.image_shape = image_shape
        self.input_shape = input_shape
        self.parameters = parameters
        self.output = output
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.rank = rank
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.distributed = distributed

    def _fit(self, X: np.ndarray, y: np.ndarray, weights: np.ndarray) -> None:
        """Fit targets (n, k), weighted."""
        self._check_options()
        share_of_fit(self.distributed, self.random_state)
        shape = fitted_shape(self, X.shape[1])
        self.rows_ = first_rows(X, weights)
        X, y, weights = merged_rows(X, y, weights)
        self.mean_, self.scale_ = weighted_normalization(X, weights, shape, self.normalize)
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
        self._choose(x[some], targets[some], w[some], generator)
        if self.solver_ == "cg":
            self.fit_ = self._iterated(x, targets, w, generator)
            self.n_iter_ = self.fit_.log[-1].step
        self.ridge_, self.loo_error_ = self.fit_.ridge, self.fit_.error

    def _choose(
        self, x: Tensor, targets: Tensor, weights: Tensor, generator: torch.Generator
    ) -> None:
        """Set ``fit_``, ``kernel_`` and ``chosen_model_`` to those of least leave-one-out error.

        Networks race with the first loss, by one member of each and coarsely; the winner is then
        fitted in full. Of several losses the first is the cheapest: with the others only networks
        race that came near the best with the first, and none where that has no error left.
        """
        on: dict[str, Any] = {"device": self._device(), "distributed": self.distributed}
        runners, losses = self._race(x, targets, weights, generator)
        first = min(runners, key=lambda runner: runner.error)
        own = first.matrix.clone() if len(losses) > 1 and len(runners) > 1 else first.matrix
        whole = {first: first.kernel.completed(own, x, **on)}
        best = self._fit_of(losses[0], whole[first], targets, weights), first
        near = [runner for runner in runners if runner.error <= _NEAR * first.error] or [first]
        for loss in losses[1:] if best[0].error > 0 else ():
            ridge, winner = None, first
            if len(runners) > 1:
                fits = [
                    self._fit_of(loss, runner.matrix, targets, weights, racing=True)
                    for runner in near
                ]
                least = min(range(len(near)), key=lambda i: fits[i].error)
                ridge, winner = fits[least].ridge, near[least]
            if winner not in whole:
                whole[winner] = winner.kernel.completed(winner.matrix, x, **on)
            fit = self._fit_of(loss, whole[winner], targets, weights, near=ridge)
            if fit.error < best[0].error:
                best = fit, winner
        self.fit_, chosen = best
        self.kernel_, self.chosen_model_ = chosen.kernel, chosen.model

    def _race(
        self, x: Tensor, targets: Tensor, weights: Tensor, generator: torch.Generator
    ) -> tuple[list[_Runner], tuple[str, ...]]:
        """The networks with their errors with the first loss, and all losses.

        Of one loss the best network alone is kept; an only network does not race.
        """
        on: dict[str, Any] = {"device": self._device(), "distributed": self.distributed}
        models = self._models(self.input_shape_)
        runners: list[_Runner] = []
        losses: tuple[str, ...] = ()
        for model in models:
            kernel = self._kernel(model, targets.shape[1], generator)
            matrix = kernel.first(x, **on)
            losses = self._losses(matrix, targets)
            error = 0.0
            if len(models) > 1:
                error = self._fit_of(losses[0], matrix, targets, weights, racing=True).error
            runners.append(_Runner(model, kernel, matrix, error))
            if len(losses) == 1:  # the others' memory
                runners = [min(runners, key=lambda runner: runner.error)]
        return runners, losses

    def _losses(self, matrix: Tensor, targets: Tensor) -> tuple[str, ...]:
        """Losses to fit with; of equals the first is kept."""
        return ("square",)

    def _fit_of(
        self,
        loss: str,
        matrix: Tensor,
        targets: Tensor,
        weights: Tensor,
        *,
        racing: bool = False,
        near: float | None = None,
    ) -> Any:
        """Fit with one kernel and one loss.

        ``racing``, coarsely, for ``error`` and ``ridge``; ``near``, the ridge that was found so.
        """
        if loss == "cross_entropy":
            return logistic_fit(
                matrix,
                targets,
                weights,
                ridges=_LOGISTIC_GRID if isinstance(self.ridge, str) else self._ridges(),
                intercept=self.fit_intercept,
                coarse=racing,
                near=near,
            )
        fit = dual_fit(
            matrix[:, 0, :, 0] if matrix.ndim == 4 and matrix.shape[1] == 1 else matrix,
            targets,
            weights,
            ridges=self._ridges()[:: 2 if racing else 1],
            time=self.time,
            intercept=self.fit_intercept,
        )
        return self._calibrated(fit, targets, weights)

    def _calibrated(self, fit: DualFit, targets: Tensor, weights: Tensor) -> DualFit:
        """The fit with the error that it is chosen by."""
        return fit

    def _iterated(
        self, x: Tensor, targets: Tensor, weights: Tensor, generator: torch.Generator
    ) -> PrimalFit:
        """Fit all rows with the network and the ridge that the exact fit of a subset chose."""
        return primal_fit(
            self.kernel_,
            x,
            targets,
            weights,
            self.fit_,
            Iterated(
                self.tolerance,
                self.max_iterations,
                self.rank,
                _BATCH,
                self._device(),
                share_of_fit(self.distributed, self.random_state),
            ),
            intercept=self.fit_intercept,
            generator=generator,
        )

    def _outputs(self, X: Any) -> np.ndarray:
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

    def _kernel(self, model: Any, k: int, generator: torch.Generator) -> EnsembleKernel:
        enough = _PERCEPTRON_OUTPUTS if isinstance(model, Perceptron) else _OUTPUTS
        networks = built_networks(
            model,
            self.n_ensemble,
            self.input_shape_,
            min(k, enough) if self.outputs in ("trace", "pseudo") else k,
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
        return feature_dtype(self.dtype, self.images_ or self.image_shape or self.input_shape)

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
