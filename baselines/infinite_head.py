"""Classifiers with the kernels of infinitely wide networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from baselines.arguments import Ridges, check_positive
from baselines.images import shape_of_rows
from baselines.infinite import convolutional_kernels, mlp_kernels
from baselines.linear import (
    Block,
    FitsBlocks,
    checked_alphas,
    finite_scores,
    gathered,
    indicators,
    scores_to_decision,
)
from baselines.weighted_ridge import weighted_kernel_ridge
from tangent.machine.modes import ordinary_mode
from tangent.machine.statistics import column_statistics
from tangent.solve.system import check_memory

NETWORKS = ("mlp", "convolutional")
KERNELS = ("ntk", "nngp")
_COPIES = {"mlp": 8, "convolutional": 3}  # of the kernel in float64, at the peak; measured


class InfiniteWidthHead(FitsBlocks, ClassifierMixin, BaseEstimator):
    """Kernel ridge regression on class indicators with the kernel of an infinitely wide network.

    For an MLP each row, less the mean of the training rows, is brought to unit length times the
    root of the number of features; for convolutions each channel is standardized.

    Parameters
    ----------
    network : {"mlp", "convolutional"}, default="mlp"
        Fully connected ReLU layers, or ReLU convolutions with global average pooling.
    kernel : {"ntk", "nngp"}, default="ntk"
        Of training all layers, or the last one only.
    depth : int, default=3
        Hidden layers, or convolutions.
    alpha : float or tuple of float, default=(1e-4, 1e-3, 1e-2, 1e-1)
        Added to the diagonal of the kernel over its mean diagonal. Of several, the one with the
        best leave-one-out accuracy, in closed form, is taken.
    image_shape : tuple of (channels, height, width), optional
        Of one row; the convolutional network needs it.
    side : int, optional
        Images are averaged down to this many pixels a side first: the convolutional kernel costs
        the fourth power of the side.
    batch_size : int, default=16
        The convolutional kernel handles this many images against as many at once.
    device : str or torch.device, default="cpu"
        Where kernels are computed; the system is solved on the CPU.

    Attributes
    ----------
    classes_ : ndarray
    rows_ : ndarray
        Training rows as the kernel takes them.
    dual_coef_ : ndarray of shape (rows, n_classes)
    alpha_ : float
    left_out_accuracy_ : dict
        Leave-one-out accuracy on the training rows of each candidate.
    n_features_in_ : int

    Notes
    -----
    Rows are kept, n^2 values in their dtype and n^2 in float64. See ``mlp_kernels`` (seconds for
    10,000 rows) and ``convolutional_kernels`` (a tenth of a second a pair of 32x32 images on one
    core: use a GPU, or ``side``) for the cost.
    """

    def __init__(
        self,
        network: Literal["mlp", "convolutional"] = "mlp",
        *,
        kernel: Literal["ntk", "nngp"] = "ntk",
        depth: int = 3,
        alpha: Ridges = (1e-4, 1e-3, 1e-2, 1e-1),
        image_shape: tuple[int, ...] | None = None,
        side: int | None = None,
        batch_size: int = 16,
        device: str | torch.device = "cpu",
    ) -> None:
        self.network = network
        self.kernel = kernel
        self.depth = depth
        self.alpha = alpha
        self.image_shape = image_shape
        self.side = side
        self.batch_size = batch_size
        self.device = device

    @ordinary_mode
    def fit_blocks(self, blocks: Iterable[Block], classes: np.ndarray, n_rows: int) -> Self:
        """As ``fit``, for rows that come in blocks; they are kept, in the dtype they come in."""
        self._check()
        alphas = checked_alphas(self.alpha)
        self.classes_ = classes
        check_memory(
            n_rows,
            _COPIES[self.network],
            "the solution with the kernel of an infinitely wide network",
            "take GaussianKernelHead or ArcCosineFeatures, whose features are as many as you say",
        )
        x, y, weight = gathered(blocks, n_rows)
        self.n_features_in_ = x.shape[1]
        used = weight > 0
        x, y, weight = x[used], y[used], weight[used]
        share = weight / weight.sum()
        self._measure(x, share)
        self.rows_ = self._prepared(x).numpy()
        kernel = self._kernel(torch.from_numpy(self.rows_), None)
        self._scale = float(share @ kernel.diagonal().double().numpy()) or 1.0  # rows all alike
        targets = indicators(y, classes).numpy()
        self.intercept_ = share @ targets
        solution = weighted_kernel_ridge(
            kernel.div_(self._scale), targets - self.intercept_, weight, alphas
        )
        self.dual_coef_, self.alpha_ = solution.dual, solution.alpha
        self.gcv_, self.left_out_accuracy_ = solution.gcv, solution.accuracies
        return self

    @ordinary_mode
    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Scores of shape (n, n_classes); for two classes (n,), positive for the second."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float32, np.float64])
        rows, dual = torch.from_numpy(self.rows_), torch.from_numpy(self.dual_coef_)
        scores = np.empty((len(X), len(self.classes_)))
        for start in range(0, len(X), 2048):
            x = self._prepared(X[start : start + 2048].astype(self.rows_.dtype))
            kernel = self._kernel(x, rows).div_(self._scale)
            scores[start : start + len(x)] = kernel.double() @ dual
        return scores_to_decision(finite_scores(scores + self.intercept_, X))

    def _check(self) -> None:
        for name, known in (("network", NETWORKS), ("kernel", KERNELS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        check_positive(self, "depth", "batch_size", *(["side"] if self.side is not None else []))
        if self.network == "convolutional" and self.image_shape is None:
            raise ValueError("network='convolutional' needs image_shape; got None")

    def _measure(self, x: np.ndarray, share: np.ndarray) -> None:
        """Means, and for images deviations, of each pixel or channel."""
        channels = None
        if self.network == "convolutional":
            channels = shape_of_rows(self.image_shape, x.shape[1])[0]
        mean, scale = column_statistics(x, share, channels)
        pixels = x.shape[1] // len(mean)
        self.mean_, self.scale_ = np.repeat(mean, pixels), np.repeat(scale, pixels)
        if self.network == "mlp":
            # One for all: relative to it, what is left of a row that is the mean is rounding.
            self.scale_ = np.full_like(self.scale_, max(-x.min(), x.max()) or 1.0)

    def _prepared(self, x: np.ndarray) -> Tensor:
        """The rows as the kernel takes them."""
        rows = torch.from_numpy(((x - self.mean_) / self.scale_).astype(x.dtype))
        if self.network == "mlp":
            norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            size = rows.shape[1] ** 0.5
            least = 10 * torch.finfo(rows.dtype).eps * size
            return torch.where(norms > least, rows * (size / norms), 0.0)
        images = rows.view(len(rows), *shape_of_rows(self.image_shape, rows.shape[1]))
        return images if self.side is None else F.adaptive_avg_pool2d(images, int(self.side))

    def _kernel(self, x1: Tensor, x2: Tensor | None) -> Tensor:
        x1, x2 = x1.to(self.device), None if x2 is None else x2.to(self.device)
        if self.network == "mlp":
            kernels = mlp_kernels(x1, x2, depth=self.depth)
        else:
            kernels = convolutional_kernels(x1, x2, depth=self.depth, batch_size=self.batch_size)
        return (kernels.ntk if self.kernel == "ntk" else kernels.nngp).cpu()
