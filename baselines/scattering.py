"""Scattering coefficients of images as a transformer."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from baselines.arguments import check_positive
from baselines.images import Placement, as_images, shape_of_rows, yuv
from baselines.rototranslation import RotoTranslation
from baselines.transform import FastScattering
from tangent.machine.bars import counted
from tangent.machine.images import image_rows
from tangent.machine.modes import ordinary_mode
from tangent.machine.optional import optional

COLOURS = ("rgb", "yuv")
BACKENDS = ("torch", "kymatio")
N_SCALE = 500
ROUNDING = 10 * float(torch.finfo(torch.float32).eps)  # relative deviation of a constant path


class ScatteringFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Wavelet scattering of orders 0 to 2, each channel by itself, in logarithms, standardized.

    Morlet wavelets of J scales and L angles; the coefficients of kymatio (Andreux et al. 2020).

    Parameters
    ----------
    J : int, default=2
        Scales; coefficients are averaged over 2^J pixels. Without ``image_shape``, cut to what
        a row holds.
    L : int, default=8
        Angles.
    colours : {"rgb", "yuv"}, default="rgb"
        Channels that are transformed; "yuv" needs three.
    log : float or None, default=1e-3
        Orders 1 and 2 become log(S + log * scale), scale the mean of S over the training images
        (500 of them) and positions for each path; ``None`` leaves them as they are.
    standardize : bool, default=True
        Give each path mean 0 and variance 1 over training images and positions.
    backend : {"torch", "kymatio"}, default="torch"
        This package's own transform, or kymatio's: the same coefficients up to float32 rounding,
        at several times the speed (``benchmarks/scattering.py``).
    batch_size : int, default=128
        Images handled at once; bounds the working memory, not the result.
    image_shape : tuple of (channels, height, width), optional
        Shape of one row, or the rows come as (n, channels, height, width); ``None`` takes a row as
        a signal of one channel and height one, and
        lays it out as a square image, zeros at the end.

    Attributes
    ----------
    scale_ : Tensor
        Mean of each path over the training images, of shape (channels, paths).
    mean_, deviation_ : Tensor
        Of each path, after the logarithm, of shape (channels, paths).
    image_shape_ : tuple
    placement_ : Placement
        Offset and unit that images are brought to before the transform: 0 and 1 unless they lie
        far from zero or in huge or tiny units. ``scale_``, ``mean_`` and ``deviation_`` are those
        of what comes out.
    n_features_in_ : int

    Notes
    -----
    float32 in, float32 out. 1 + J L + L^2 J (J - 1) / 2 paths of (height / 2^J) x (width / 2^J)
    positions a channel: 15,552 features for J = 2, L = 8 on 32x32 RGB. The order of a row's
    features is (channel, path, row, column).
    """

    def __init__(
        self,
        J: int = 2,
        *,
        L: int = 8,
        colours: Literal["rgb", "yuv"] = "rgb",
        log: float | None = 1e-3,
        standardize: bool = True,
        backend: Literal["torch", "kymatio"] = "torch",
        batch_size: int = 128,
        image_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.J = J
        self.L = L
        self.colours = colours
        self.log = log
        self.standardize = standardize
        self.backend = backend
        self.batch_size = batch_size
        self.image_shape = image_shape

    @ordinary_mode
    def fit(self, X: np.ndarray, y: object = None) -> Self:
        """Build the wavelets and measure each path's mean and spread; ``y`` is not used."""
        self._measured(self._prepared(X))
        return self

    @ordinary_mode
    def fit_transform(self, X: np.ndarray, y: object = None) -> np.ndarray:
        """As ``fit(X).transform(X)``, with the coefficients computed once."""
        X = self._prepared(X)
        size = self._coefficients(X[:1]).numel()
        out = np.empty((len(X), size), dtype=np.float32)
        self._measured(X, out)
        return self._standardized(torch.from_numpy(out))

    @ordinary_mode
    def transform(self, X: np.ndarray) -> np.ndarray:
        """The coefficients of the images of ``X``, float32 of shape (n, features)."""
        check_is_fitted(self)
        X, _ = image_rows(X, None)
        X = validate_data(self, X, reset=False, dtype=[np.float32, np.float64])
        out = np.empty((len(X), self._n_features_out), dtype=np.float32)
        for start in range(0, len(X), self.batch_size):
            s = self._logarithms(self._coefficients(X[start : start + self.batch_size]))
            out[start : start + len(s)] = s.flatten(1).numpy()
        return self._standardized(torch.from_numpy(out))

    def _check(self) -> None:
        check_positive(self, "J", "L", "batch_size")
        for name, known in (("colours", COLOURS), ("backend", BACKENDS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        if self.log is not None and not self.log > 0:
            raise ValueError(f"log must be a number above 0 or None; got {self.log!r}")

    def _prepared(self, X: np.ndarray) -> np.ndarray:
        """Checked rows, with the transform and the paths' scales set up for them."""
        self._check()
        X, self._given_shape = image_rows(X, self.image_shape)
        X = validate_data(self, X, dtype=[np.float32, np.float64])
        self.image_shape_ = shape_of_rows(self._given_shape, X.shape[1])
        self.placement_ = Placement.of(X)
        channels, height, width = self.image_shape_
        if self.colours == "yuv" and channels != 3:
            raise ValueError(f"colours='yuv' needs three channels; image_shape has {channels}")
        if self._given_shape is None:
            height = width = max(8, int(np.ceil(np.sqrt(width))))
        shape = self._grid(height, width)
        largest = int(np.log2(min(shape)))
        if self._given_shape is not None and largest < self.J:
            raise ValueError(
                f"J must be at most {largest} for images of {shape[0]}x{shape[1]}; got {self.J}"
            )
        self._canvas = (channels, height, width)
        self._transform = self._made_transform(min(int(self.J), largest), shape)
        some = X[:: -(-len(X) // N_SCALE)]
        parts = [some[i : i + self.batch_size] for i in range(0, len(some), self.batch_size)]
        sums = [self._coefficients(part).mean(dim=(3, 4)).sum(dim=0) for part in parts]
        self.scale_ = torch.stack(sums).sum(dim=0) / len(some)
        return X

    def _made_transform(self, J: int, shape: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        make = FastScattering if self.backend == "torch" else _kymatio()
        return make(J=J, shape=shape, L=self.L)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what the transform sees of an image."""
        return height, width

    def _enlarged(self, images: Tensor) -> Tensor:
        """What the transform sees of the images."""
        return images

    def _measured(self, X: np.ndarray, out: np.ndarray | None = None) -> None:
        """Mean and deviation of each path in one pass, keeping the logarithms in ``out``."""
        count = 0
        total = torch.zeros(self.scale_.shape, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for start in counted(range(0, len(X), self.batch_size), "batch of images"):
            s = self._logarithms(self._coefficients(X[start : start + self.batch_size]))
            if start == 0:
                self._paths_shape = tuple(s.shape[1:])
                self._n_features_out = s[0].numel()
                shift = s.mean(dim=(0, 3, 4), keepdim=True)
            if out is not None:
                out[start : start + len(s)] = s.flatten(1).numpy()
            count += s.numel() // total.numel()
            away = (s - shift).double()
            total += away.sum(dim=(0, 3, 4))
            squares += away.square().sum(dim=(0, 3, 4))
        mean = total / count
        deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
        self.mean_ = (mean + shift[0, :, :, 0, 0]).float()
        constant = deviation <= ROUNDING * self._sizes(mean + shift[0, :, :, 0, 0], deviation)
        self.deviation_ = torch.where(constant, 1.0, deviation).float()

    def _sizes(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """What a path's rounding is relative to, of the shape of ``mean``.

        Of coefficients the size of the largest path: a colour difference of grey images is the
        rounding of their luminance. Of logarithms their size, or the largest path over the path,
        whose coefficients carry the rounding of the largest.
        """
        linear = torch.ones(mean.shape[1], dtype=torch.bool)
        linear[1:] = self.log is None
        largest = (mean.square() + deviation.square())[:, linear].max().sqrt()
        least = self.scale_.clamp_min(torch.finfo(self.scale_.dtype).tiny)
        logarithms = torch.maximum(mean.abs(), (self.scale_.max() / least).double())
        return torch.where(linear, largest, logarithms.clamp_min(1))

    def _coefficients(self, X: np.ndarray) -> Tensor:
        """Coefficients of shape (n, channels, paths, rows, columns), as they come."""
        if self._given_shape is None:
            rows, size = self.placement_.of_rows(X), math.prod(self._canvas)
            rows = np.pad(rows, ((0, 0), (0, size - X.shape[1])))
            images = torch.from_numpy(rows).reshape(len(rows), *self._canvas)
        else:
            images = as_images(X, self._canvas, self.placement_)
        if self.colours == "yuv":
            images = yuv(images)
        with torch.no_grad():
            return self._transform(self._enlarged(images).contiguous())

    def _logarithms(self, s: Tensor) -> Tensor:
        """Orders 1 and 2 in logarithms, in place; order 0 as it is."""
        if self.log is not None:
            # What is below the rounding of the largest path is rounding.
            least = ROUNDING / 10 * float(self.scale_.max()) or torch.finfo(s.dtype).tiny
            floor = (self.log * self.scale_[:, 1:, None, None]).clamp_min(least)
            # An average of a modulus can come out just below zero where an image is flat: its
            # logarithm would be an outlier that spoils the deviation of all.
            s[:, :, 1:].clamp_min_(0).add_(floor).log_()
        return s

    def _standardized(self, rows: Tensor) -> np.ndarray:
        """Rows of logarithms with each path's mean and deviation taken out, in place."""
        s = rows.view(len(rows), *self._paths_shape)
        if not self.standardize:
            self._unplace(s)
        else:
            s.sub_(self.mean_[:, :, None, None]).div_(self.deviation_[:, :, None, None])
        return rows.numpy()

    def _unplace(self, s: Tensor) -> None:
        """Bring paths back to the units of the images, in place."""
        if self.placement_.ordinary:
            return
        unit, grey = self.placement_.unit, torch.ones(1, s.shape[1], 1, 1)
        grey = yuv(grey) if self.colours == "yuv" else grey
        s[:, :, 0].mul_(unit).add_(grey * self.placement_.offset)
        if self.log is None:
            s[:, :, 1:].mul_(unit)
        else:
            s[:, :, 1:].add_(math.log(unit))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class RotoTranslationScattering(ScatteringFeatures):
    """Second-order scattering jointly along positions and rotations, in logarithms, standardized.

    Orders 0 and 1 are those of ``ScatteringFeatures``; the second filters the first-order moduli
    along their angle as well (Oyallon and Mallat 2015).

    Parameters
    ----------
    J : int, default=4
        Scales; coefficients are averaged over 2^J pixels of the enlarged image. Without
        ``image_shape``, cut to what a row holds.
    L : int, default=8
        Angles; a power of two.
    octaves : int, default=2
        Wavelet scales along the angle.
    side : int, default=64
        Images are enlarged to this many pixels a side (bicubic); rows without an
        ``image_shape`` are taken as they are.
    colours : {"rgb", "yuv"}, default="rgb"
        Channels that are transformed; the paper's are "yuv", which needs three.
    log, standardize, batch_size, image_shape
        As in ``ScatteringFeatures``.

    Notes
    -----
    61,488 features for J = 4, L = 8, two octaves and side 64 on three channels.
    """

    def __init__(
        self,
        J: int = 4,
        *,
        L: int = 8,
        octaves: int = 2,
        side: int = 64,
        colours: Literal["rgb", "yuv"] = "rgb",
        log: float | None = 1e-3,
        standardize: bool = True,
        batch_size: int = 64,
        image_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(
            J,
            L=L,
            colours=colours,
            log=log,
            standardize=standardize,
            batch_size=batch_size,
            image_shape=image_shape,
        )
        self.octaves = octaves
        self.side = side

    def _check(self) -> None:
        super()._check()
        if self.L & (self.L - 1):
            raise ValueError(f"L must be a power of two; got {self.L!r}")
        check_positive(self, "octaves", "side")
        if 2**self.octaves > self.L:
            raise ValueError(f"octaves must be at most log2(L), L = {self.L}; got {self.octaves}")

    def _made_transform(self, J: int, shape: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        return RotoTranslation(J, shape, self.L, self.octaves)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        return (height, width) if self._given_shape is None else (int(self.side), int(self.side))

    def _enlarged(self, images: Tensor) -> Tensor:
        size = self._grid(*images.shape[2:])
        return F.interpolate(images, size, mode="bicubic", align_corners=False)


def _kymatio() -> Callable[..., Any]:
    """kymatio's transform, imported where it is asked for: it warns of its own use of torch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # By the long path: kymatio.torch also imports its 3-D code, which SciPy >= 1.17 breaks.
        frontend = optional("kymatio.scattering2d.frontend.torch_frontend", "backend='kymatio'")
    return frontend.ScatteringTorch2D
