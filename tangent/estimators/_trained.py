"""What lazily trained classifiers and regressors share: network, training and outputs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from tangent.capture.outputs import output_shape
from tangent.estimators.common import (
    INPUT_DTYPES,
    built_network,
    check_takes,
    checked_rows,
    chosen_part,
    finite_outputs,
    fitted_shape,
    normalization,
    normalized_inputs,
    parameter_count,
    torch_device,
    torch_dtype,
    torch_generator,
)
from tangent.machine.modes import ordinary_mode
from tangent.models import ScaledDifference
from tangent.models.direct import DirectScaling, Scaled, update_size
from tangent.models.losses import Loss
from tangent.nets.named import is_elsewhere
from tangent.solve.system import available_bytes
from tangent.training.batches import Inputs
from tangent.training.checkpoint import Checkpoint
from tangent.training.distributed import share_of_fit
from tangent.training.lazy import LazySettings, outputs, stability_of_activations, train
from tangent.training.learning_rate import stability_edge
from tangent.training.memory import training_memory

# Of the heavy-ball edge of one mini-batch. Mini-batches differ and momentum remembers: at half of
# the edge VGG-11 oscillates, at a tenth every alpha trains.
_AUTO_FRACTION = 0.1

# Bytes of weights from which a fit asks whether the machine has memory enough.
_LARGE = 2**27


class Lazy(BaseEstimator):
    """What classifier and regressor share: the network, its training and its outputs."""

    module_: Scaled

    def __init__(
        self,
        model: Any = "mlp",
        *,
        alpha: float = math.inf,
        width: float = 1.0,
        gain: float | None = None,
        lr: float | str = "auto",
        momentum: float = 0.9,
        lr_decay: float = 0.0,
        epochs: int = 70,
        batch_size: int = 128,
        augment: bool = False,
        image_shape: tuple[int, ...] | None = None,
        input_shape: tuple[int, ...] | None = None,
        parameters: str | Sequence[str] | None = None,
        output: Any = None,
        normalize: bool = True,
        device: str = "auto",
        dtype: str = "float32",
        random_state: Any = None,
        parametrization: Literal["difference", "direct"] = "difference",
        check_lr: bool = True,
        micro_batch_size: int | None = None,
        patience: int | None = None,
        checkpoint: Any = None,
        verbose: bool = False,
        distributed: bool = False,
    ) -> None:
        self.model = model
        self.alpha = alpha
        self.width = width
        self.gain = gain
        self.lr = lr
        self.momentum = momentum
        self.lr_decay = lr_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.augment = augment
        self.image_shape = image_shape
        self.input_shape = input_shape
        self.parameters = parameters
        self.output = output
        self.normalize = normalize
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.parametrization = parametrization
        self.check_lr = check_lr
        self.micro_batch_size = micro_batch_size
        self.patience = patience
        self.checkpoint = checkpoint
        self.verbose = verbose
        self.distributed = distributed

    def _fit(self, X: np.ndarray, k: int, loss: Loss, targets: Any) -> None:
        share = share_of_fit(self.distributed, self.random_state)
        device, dtype = torch_device(self.device), torch_dtype(self.dtype)
        generator = torch_generator(self.random_state)
        self.input_shape_ = fitted_shape(self, X.shape[1])
        if self.augment and len(self.input_shape_) != 3:
            raise ValueError(
                "augment=True crops and flips images: set image_shape, pass X of shape (n, "
                "channels, height, width), or leave it"
            )
        self.mean_, self.scale_ = normalization(X, self.input_shape_, self.normalize)
        plain = isinstance(self.model, str) and not is_elsewhere(self.model)
        if plain:  # before its weights are allocated
            with torch.device("meta"):
                self._check_memory(self._built(k, torch.Generator()).to(dtype), device)
        # Evaluation mode: batch norm by its running statistics, no dropout.
        model = self._built(k, generator).to(dtype).eval()
        if not plain:
            self._check_memory(model, device)
        module = _scaled(self.parametrization, model, self.alpha).to(device)
        del model  # copied, and as large as the displacement
        inputs = self._inputs(X, device, dtype)
        check_takes(
            module.network, inputs.x if self.tokens_ else inputs.batch(slice(0, 1)), self.tokens_
        )
        self._check_outputs(module, inputs, k)
        y = targets(dtype).to(device)
        checkpoint = None if self.checkpoint is None else Checkpoint(self.checkpoint)
        settings = self._settings(module, inputs, loss, generator, checkpoint)
        settings = replace(settings, lr=share.firsts(settings.lr))
        if isinstance(module, DirectScaling):
            some = slice(0, settings.batch_size)
            _warn_if_rounded(module, inputs.batch(some), y[some], loss, settings.lr, self.dtype)
        history = train(
            module,
            inputs,
            y,
            settings,
            generator=generator,
            progress=bool(self.verbose),
            checkpoint=checkpoint,
            share=share,
        )
        self.history_ = {name: np.array(values) for name, values in asdict(history).items()}
        self.lr_ = settings.lr
        self.n_iter_ = len(history.loss)
        self.n_parameters_ = parameter_count(module.network)
        self.module_ = module.cpu()

    def _built(self, k: int, generator: torch.Generator) -> nn.Module:
        model = built_network(
            self.model,
            self.input_shape_,
            k,
            width=self.width,
            gain=self.gain,
            generator=generator,
        )
        return chosen_part(model, self.parameters, self.output)

    def _check_memory(self, model: nn.Module, device: torch.device) -> None:
        """Say what training will need, and raise MemoryError where the machine has not got it."""
        held = sum(p.numel() * p.element_size() for p in model.parameters())
        if not self.verbose and held < _LARGE:
            return
        try:
            need = training_memory(
                model,
                min(self.batch_size, self.micro_batch_size or self.batch_size),
                self.input_shape_,
                alpha=self.alpha,
                momentum=self.momentum,
                parametrization=self.parametrization,
                input_dtype=torch.int64 if self.tokens_ else None,
            )
        except RuntimeError:  # an operation that looks at values: there are none beforehand
            return
        if self.verbose:
            print(f"memory of training: {need}")
        # What has been allocated goes when the model has been copied.
        free = available_bytes() + (0 if next(model.parameters()).is_meta else held)
        if device.type == "cpu" and need.total > free:
            raise MemoryError(
                f"training needs {need}, and {free / 2**30:.2f} GiB are free; take a smaller "
                f"micro_batch_size (batch_size={self.batch_size}) or a narrower network"
            )

    def _settings(
        self,
        module: Any,
        inputs: Inputs,
        loss: Loss,
        generator: Any,
        checkpoint: Checkpoint | None = None,
    ) -> LazySettings:
        options: dict[str, Any] = {
            "loss": loss.name,
            "momentum": self.momentum,
            "decay": self.lr_decay,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "augment": self.augment,
            "micro_batch_size": self.micro_batch_size,
            "patience": self.patience,
        }
        if not (self.lr == "auto" or isinstance(self.lr, int | float)):
            raise ValueError(f"lr must be a positive number or 'auto'; got {self.lr!r}")
        settings = LazySettings(lr=1.0 if self.lr == "auto" else float(self.lr), **options)
        if self.lr == "auto" and checkpoint is not None and (known := checkpoint.measurements()):
            self.stability_edge_ = known["stability edge"]
            return LazySettings(lr=known["lr"], **options)
        if self.lr == "auto" or self.check_lr:
            edge = self._edge(module, inputs, loss, generator)
            # Below alpha = 1 the weights move so far that the kernel grows with the outputs.
            safe = _AUTO_FRACTION * min(1.0, self.alpha) * edge if math.isfinite(edge) else 1.0
            if self.lr == "auto":
                settings = LazySettings(lr=safe, **options)
                if checkpoint is not None:
                    checkpoint.measured = {"lr": safe, "stability edge": edge}
            self._say_edge(settings.lr, edge, safe)
        return settings

    def _edge(self, module: Any, inputs: Inputs, loss: Loss, generator: torch.Generator) -> float:
        if self.lr != "auto":  # a check leaves the training as it would be without
            generator = torch.Generator().manual_seed(generator.initial_seed())
        some = torch.randperm(len(inputs), generator=generator)[: self.batch_size]
        x = inputs.batch(some.to(inputs.x.device))
        if isinstance(module, DirectScaling):
            module = module.difference()
        self.stability_edge_ = stability_edge(
            module, x, loss, momentum=self.momentum, generator=generator
        )
        return self.stability_edge_

    def _say_edge(self, lr: float, edge: float, safe: float) -> None:
        if self.verbose:
            print(f"stability edge of the linearized problem: lr {edge:.3g}; lr {lr:.3g} is used")
        if lr > edge:
            warnings.warn(
                f"lr={lr:g} is above the stability edge {edge:.3g} of the linearized problem "
                f"(alpha={self.alpha:g}, momentum={self.momentum:g}): training may diverge or "
                f"oscillate; take lr='auto' ({safe:.3g} here), or check_lr=False for no check",
                UserWarning,
                stacklevel=4,
            )

    def _check_outputs(self, module: Scaled, inputs: Inputs, k: int) -> None:
        shape = output_shape(module.network, inputs.batch(slice(0, 1)))
        if shape != (2, k):
            raise ValueError(
                f"model must return (n, {k}) outputs for this problem; got {shape} for two inputs"
            )

    def _inputs(self, X: np.ndarray, device: torch.device, dtype: torch.dtype) -> Inputs:
        shape = self.input_shape_
        return normalized_inputs(X, shape, self.mean_, self.scale_, device, dtype)

    def _checked_inputs(self, X: Any) -> Inputs:
        check_is_fitted(self)
        X = checked_rows(self, X, dtype=INPUT_DTYPES, reset=False)
        return self._inputs(X, torch_device(self.device), torch_dtype(self.dtype))

    def _outputs(self, X: Any) -> np.ndarray:
        inputs = self._checked_inputs(X)
        with self._module_on(inputs.x.device) as module:
            return finite_outputs(outputs(module, inputs).double().cpu().numpy(), X)

    @contextmanager
    def _module_on(self, device: torch.device) -> Iterator[Scaled]:
        """The fitted module on a device, and back on the CPU, where it can be pickled for all."""
        try:
            yield self.module_.to(device)
        finally:
            self.module_.cpu()

    @ordinary_mode
    def stability_of_activations(self, X: Any) -> dict[str, float]:
        """Fraction of gate decisions on ``X`` that training left as at initialization.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        dict
            From each ReLU's and max pooling's name to a fraction in [0, 1]; empty for networks
            without such gates (see `tangent.training.lazy.stability_of_activations`).
        """
        inputs = self._checked_inputs(X)
        with self._module_on(inputs.x.device) as module:
            compared = module.difference() if isinstance(module, DirectScaling) else module
            return stability_of_activations(compared, inputs)


def _scaled(parametrization: str, model: nn.Module, alpha: float) -> Scaled:
    if parametrization == "difference":
        return ScaledDifference(model, alpha)
    if parametrization == "direct":
        return DirectScaling(model, alpha)
    raise ValueError(
        f"parametrization must be one of 'difference', 'direct'; got {parametrization!r}"
    )


def _warn_if_rounded(
    module: DirectScaling, x: Any, y: Tensor, loss: Loss, lr: float, dtype: Any
) -> None:
    size = update_size(module, x, y, loss, lr)
    if size.ratio < 1:
        warnings.warn(
            f"at alpha={module.alpha:g} in {dtype} the median update of a weight is "
            f"{size.ratio:.2g} of half the spacing of numbers there, and rounds away "
            f"({size.moved:.1%} of the weights move at the first step); take "
            f"parametrization='difference', or dtype='float64'",
            UserWarning,
            stacklevel=4,
        )
