"""The tangent kernel as a kernel function of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.gaussian_process.kernels import Kernel
from sklearn.utils.validation import check_array

from tangent.estimators._ensemble import EnsembleKernel
from tangent.estimators.common import (
    built_networks,
    check_takes,
    embeds,
    row_shape,
    rows_of,
    torch_device,
    torch_generator,
)
from tangent.machine.modes import ordinary_mode


class TangentKernel(Kernel):
    """Tangent kernel of a network, for ``kernel=`` in SVC, KernelRidge, GaussianProcess and others.

    A `sklearn.gaussian_process.kernels.Kernel` without hyperparameters, so that it can be added
    to and multiplied with theirs: ``ConstantKernel() * TangentKernel() + WhiteKernel()``.
    Called with rows X and Y it returns the kernel matrix as float64.

    Parameters
    ----------
    model : str, nn.Module or callable, default="mlp"
        A name ("vgg11", "resnet18", "mlp", "torchvision:NAME", "timm:NAME", "FILE.py:FUNCTION",
        "PACKAGE.MODULE:FUNCTION"), a module (its present weights are those of the kernel), or a
        factory ``(input_shape, n_outputs, generator) -> nn.Module``, for example
        `tangent.estimators.Perceptron`. Named functions are called as factories are.
    outputs : {"trace", "pseudo"} or int, default="trace"
        Mean over the network's outputs, kernel of their sum, or of one of them.
    n_outputs : int, default=1
        Of a network given by name or factory.
    width, gain : float
        Of a network given by name.
    n_ensemble : int, default=1
        Initializations whose kernels are averaged.
    scale : {"unit", None}, default="unit"
        "unit" divides the kernel by the square roots of its diagonal entries, which makes C and
        alpha mean what they mean with a Gaussian kernel.
    image_shape : tuple of int, optional
        (channels, height, width) of a row; None takes rows as vectors.
    input_shape : tuple of int, optional
        Shape of one input of any other kind. Whole numbers are tokens where the network has an
        embedding: scikit-learn hands them over as floats.
    output : str, int, callable or sequence of such, optional
        Which of the network's outputs counts, where it returns a dict or a tuple ("logits").
    device : str, default="cpu"
    dtype : {"float64", "float32"}, default="float64"
        Of the tangent features.
    random_state : int, default=0
        Initial weights. An int, since the kernel of two sets must be that of the same network.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.svm import SVC
    >>> from tangent import TangentKernel
    >>> X, y = load_iris(return_X_y=True)
    >>> SVC(kernel=TangentKernel(width=0.1)).fit(X, y).score(X, y) > 0.9
    True
    """

    def __init__(
        self,
        model: Any = "mlp",
        *,
        outputs: str | int = "trace",
        n_outputs: int = 1,
        width: float = 1.0,
        gain: float | None = None,
        n_ensemble: int = 1,
        scale: str = "unit",
        image_shape: tuple[int, ...] | None = None,
        input_shape: tuple[int, ...] | None = None,
        output: Any = None,
        device: str = "cpu",
        dtype: str = "float64",
        random_state: Any = 0,
    ) -> None:
        self.model = model
        self.outputs = outputs
        self.n_outputs = n_outputs
        self.width = width
        self.gain = gain
        self.n_ensemble = n_ensemble
        self.scale = scale
        self.image_shape = image_shape
        self.input_shape = input_shape
        self.output = output
        self.device = device
        self.dtype = dtype
        self.random_state = random_state

    @ordinary_mode
    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """Return the kernel of the rows of X with those of Y (X if None).

        Parameters
        ----------
        X, Y : array-like of shape (n, n_features), (m, n_features)
        eval_gradient : bool
            Return also the gradient in the hyperparameters, of shape (n, n, 0).

        Returns
        -------
        K : ndarray of shape (n, m), float64
        """
        x = self._rows(X)
        kernel = self._network(x.shape[1])
        shaped = self._inputs(kernel, x)
        device = torch_device(self.device)
        if Y is None:
            matrix = kernel(shaped, None, device).numpy()
            left = right = np.sqrt(matrix.diagonal())
        else:
            y = self._rows(Y)
            if y.shape[1] != x.shape[1]:
                raise ValueError(
                    f"Y must have as many features as X, {x.shape[1]}; got {y.shape[1]}"
                )
            other = self._inputs(kernel, y)
            matrix = kernel(shaped, other, device).numpy()
            if self.scale == "unit":
                left = np.sqrt(kernel.diagonal(shaped, device).numpy())
                right = np.sqrt(kernel.diagonal(other, device).numpy())
        if self.scale == "unit":
            matrix = matrix / np.outer(_positive(left), _positive(right))
        return (matrix, np.empty((*matrix.shape, 0))) if eval_gradient else matrix

    @ordinary_mode
    def diag(self, X: Any) -> Any:
        """Return the kernel of every row with itself: ones, unless ``scale`` is None."""
        x = self._rows(X)
        kernel = self._network(x.shape[1])
        own = kernel.diagonal(self._inputs(kernel, x), torch_device(self.device)).numpy()
        return np.where(own > 0, 1.0, 0.0) if self.scale == "unit" else own

    def is_stationary(self) -> Any:
        """Return False: the kernel is no function of the difference of its inputs."""
        return False

    def _rows(self, X: Any) -> np.ndarray:
        return check_array(rows_of(X, self.input_shape), dtype=np.float64)

    def _shape(self, n_features: int) -> tuple[int, ...]:
        return row_shape(self.image_shape, n_features, self.input_shape)

    def _inputs(self, kernel: EnsembleKernel, x: np.ndarray) -> torch.Tensor:
        network = kernel.networks[0]
        tokens = self.input_shape is not None and embeds(network) and (x == np.floor(x)).all()
        dtype = torch.int64 if tokens else getattr(torch, self.dtype)
        shaped = torch.from_numpy(x).to(dtype).reshape(len(x), *self._shape(x.shape[1]))
        if self.input_shape is not None:
            check_takes(network, shaped, tokens)
        return shaped

    def _network(self, n_features: int) -> EnsembleKernel:
        if self.outputs not in ("trace", "pseudo") and not isinstance(self.outputs, int):
            raise ValueError(
                f"outputs must be 'trace', 'pseudo' or the index of an output: a kernel function "
                f"has one value a pair; got {self.outputs!r}"
            )
        if self.scale not in ("unit", None):
            raise ValueError(f"scale must be 'unit' or None; got {self.scale!r}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64'; got {self.dtype!r}")
        if not isinstance(self.random_state, int | np.integer):
            raise ValueError(
                "random_state must be an int, so that the kernels of two calls are of the same "
                f"network; got {self.random_state!r}"
            )
        networks = built_networks(
            self.model,
            self.n_ensemble,
            self._shape(n_features),
            self.n_outputs,
            width=self.width,
            gain=self.gain,
            generator=torch_generator(int(self.random_state)),
        )
        dtype = getattr(torch, self.dtype)
        return EnsembleKernel(networks, self.outputs, dtype, output=self.output)


def _positive(roots: np.ndarray) -> np.ndarray:
    return np.where(roots > 0, roots, 1.0)
