"""What is fitted on frozen representations: each row's kernel, and its predictions.

A row has features or kernels of some training images, candidates for what is chosen by leaving
one out, and a way to predict. All rows of a draw read the same images and mirror images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from experiments.open_question.frozen import Views
from tangent.nets.infinite import infinite_conv_shares
from tangent.nets.shares import (
    ShareConv2d,
    ShareLinear,
    conv_features,
    dense_sides,
    shares_of_sides,
)
from tangent.solve.share_ridge import ShareRidge, share_ridge

RIDGES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
_ROWS = 1000
_BLOCK_BYTES = 1 << 30  # of tangent features at once


def one_hot(y: Int[Tensor, " n"]) -> Float64[Tensor, "n k"]:
    """Labels as targets."""
    return nn.functional.one_hot(y, int(y.max()) + 1).double()


def he_normal(layers: Iterable[nn.Conv2d | nn.Linear], generator: torch.Generator) -> None:
    """Draw He normal weights, and zero biases."""
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def dense_layers(p: int, units: int, seed: int) -> tuple[ShareLinear, ShareLinear]:
    """Both layers of a dense branch on ``p`` features."""
    layers = ShareLinear(p, units), ShareLinear(units, 1)
    he_normal(layers, torch.Generator().manual_seed(2000 + seed))
    return layers


class Convolution:
    """The linearized convolution of the designed network: features in closed form.

    ``maps`` are cut to the first ``channels``, which are those of the leading components. Of the
    training images no more features are held at once than a gibibyte has room for.
    """

    n_shares = 2

    def __init__(self, train: Views, channels: int, width: int, seed: int):
        generator = torch.Generator().manual_seed(1000 + seed)
        side = train.maps.shape[3]
        self.channels = channels
        self.conv = ShareConv2d(channels, width, 3, padding=1)
        # Cells of 7 with stride 3 where the map is 13 a side: 3x3 of them.
        self.pool = nn.AvgPool2d(7, 3)
        self.head = ShareLinear(width * ((side - 7) // 3 + 1) ** 2, 1)
        he_normal((self.conv, self.head), generator)
        self.train = train

    @property
    def n_features(self) -> int:
        """Parameters of the linearized layers."""
        layers = (self.conv, self.head)
        return sum(p.numel() for layer in layers for p in layer.parameters())

    def features(self, views: Views, units: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Tangent features of convolution and linear layer, of all or some hidden channels."""
        maps = views.maps[:, :, : self.channels]
        return conv_features(self.conv, self.pool, self.head, maps, units=units)

    def scales(self, shares: Sequence[float]) -> list[float]:
        """Factors that give the features of each layer a mean centred squared norm."""
        return [
            (share / float((f - f.mean(0)).square().sum() / len(f))) ** 0.5
            for f, share in zip(self.features(self.train), shares, strict=True)
        ]

    def scaled(self, views: Views, scales: Sequence[float]) -> Float[Tensor, "n p"]:
        """Tangent features of both layers, each times its factor."""
        parts = zip(self.features(views), scales, strict=True)
        return torch.cat([features.mul_(scale) for features, scale in parts], dim=1)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features of the training images, a block of hidden channels at a time."""
        width = self.conv.out_channels
        unit = self.train.maps.shape[1] * self.train.maps.element_size() * self.n_features // width
        step = max(1, _BLOCK_BYTES // unit)
        for first in range(0, width, step):
            yield self.features(self.train, (first, min(first + step, width)))

    def kernels(self) -> list[Tensor]:
        """The shares among the training images."""
        n = self.train.maps.shape[1]
        shares = [self.train.maps.new_zeros(n, n) for _ in range(self.n_shares)]
        for block in self.blocks():
            for share, features in zip(shares, block, strict=True):
                _add_gram(share, features)
        return shares

    def products(self, dual: Tensor) -> Callable[[Views], list[Tensor]]:
        """Each share's kernel with the training images, times ``dual``."""
        given = dual.to(self.train.maps.dtype)
        blocks = [[features.T @ given for features in block] for block in self.blocks()]
        weights = [torch.cat(share) for share in zip(*blocks, strict=True)]
        return lambda views: [f @ w for f, w in zip(self.features(views), weights, strict=True)]


class InfiniteConvolution:
    """The linearized convolution with infinitely many channels: a kernel without features."""

    n_shares = 2

    def __init__(self, train: Views):
        self.train = train
        self.pool = nn.AvgPool2d(7, 3)

    def kernels(self) -> list[Tensor]:
        """The shares among the training images."""
        return list(infinite_conv_shares(self.pool, self.train.maps))

    def products(self, dual: Tensor) -> Callable[[Views], list[Tensor]]:
        """Each share's kernel with the training images, times ``dual``."""
        maps = self.train.maps
        return lambda views: [
            share @ dual.to(maps.dtype)
            for share in infinite_conv_shares(self.pool, views.maps, maps)
        ]


class Linear:
    """A linear kernel on features averaged over the views, standardized on the training images."""

    n_shares = 1

    def __init__(self, train: Views, which: str):
        self.which = which
        rows = getattr(train, which).mean(0)
        self.mean, self.deviation = rows.mean(0), _deviation(rows)
        self.rows = self.standardized(train)
        self._gram: Tensor | None = None

    def standardized(self, views: Views) -> Tensor:
        """Features less their training mean over their training deviation."""
        return (getattr(views, self.which).mean(0) - self.mean) / self.deviation

    def kernels(self) -> list[Tensor]:
        """The kernel among the training images."""
        return [self.gram()]

    def gram(self) -> Tensor:
        """Inner products of the training images, computed once."""
        if self._gram is None:
            self._gram = _gram(self.rows)
        return self._gram

    def products(self, dual: Tensor) -> Callable[[Views], list[Tensor]]:
        """The kernel with the training images, times ``dual``."""
        weight = self.rows.T @ dual.to(self.rows.dtype)
        return lambda views: [self.standardized(views) @ weight]


class Gaussian:
    """exp(-|x - x'|^2 / (2 width^2 p)) on the features of a linear row."""

    n_shares = 1

    def __init__(self, linear: Linear, width: float):
        self.linear, self.width = linear, width
        self.gamma = 1 / (2 * width**2 * linear.rows.shape[1])

    def kernel(self, rows: Tensor) -> Tensor:
        """The kernel of standardized rows with the training images."""
        return self._of_products(rows @ self.linear.rows.T, rows.square().sum(1))

    def _of_products(self, products: Tensor, squares: Tensor) -> Tensor:
        distances = products.mul_(-2).add_(squares[:, None])
        distances.add_(self.linear.rows.square().sum(1)).clamp_min_(0)
        return distances.mul_(-self.gamma).exp_()

    def kernels(self) -> list[Tensor]:
        """The kernel among the training images."""
        products = self.linear.gram().clone()
        return [self._of_products(products, self.linear.rows.square().sum(1))]

    def products(self, dual: Tensor) -> Callable[[Views], list[Tensor]]:
        """The kernel with the training images, times ``dual``."""
        standardized, rows = self.linear.standardized, self.linear.rows
        return lambda views: [self.kernel(standardized(views)) @ dual.to(rows.dtype)]


class Dense:
    """A linearized two-layer network on features standardized on the training images."""

    n_shares = 1

    def __init__(self, train: Views, which: str, units: int, seed: int):
        self.which = which
        rows = getattr(train, which).flatten(0, 1)
        self.mean, self.deviation = rows.mean(0), _deviation(rows)
        self.hidden, self.head = dense_layers(rows.shape[1], units, seed)
        self.sides = dense_sides(self.hidden, self.head, self.standardized(train))

    def standardized(self, views: Views) -> Tensor:
        """Features of every view, standardized."""
        return (getattr(views, self.which) - self.mean) / self.deviation

    def kernel(self, rows: Float[Tensor, "views m p"] | None = None) -> Tensor:
        """The kernel with the training images, both layers together; among them without rows."""
        new = None if rows is None else dense_sides(self.hidden, self.head, rows)
        left, right = (self.sides, None) if new is None else (new, self.sides)
        first, last = shares_of_sides(self.hidden, self.head, left, right)
        return first.add_(last)

    def kernels(self) -> list[Tensor]:
        """The kernel among the training images."""
        return [self.kernel()]

    def products(self, dual: Tensor) -> Callable[[Views], list[Tensor]]:
        """The kernel with the training images, times ``dual``."""
        weight = dual.to(self.sides[0].dtype)
        return lambda views: [self.kernel(self.standardized(views)) @ weight]


Part = Convolution | InfiniteConvolution | Linear | Gaussian | Dense


@dataclass(frozen=True)
class Fitted:
    """A row fitted on the training images."""

    parts: tuple[Part, ...]
    solution: ShareRidge
    chosen: str
    """which candidate leaving one out took"""
    n_features: int | None

    @property
    def left_out(self) -> float:
        """Leave-one-out accuracy of what was chosen."""
        return self.solution.left_out[self.solution.weights, self.solution.ridge]

    def predictor(self) -> Callable[[Views], Tensor]:
        """From representations of new images to scores."""
        products = [part.products(self.solution.dual) for part in self.parts]

        def scores(views: Views) -> Tensor:
            total = self.solution.constant
            each = [share for product in products for share in product(views)]
            for coefficient, share in zip(self.solution.coefficients, each, strict=True):
                total = total + coefficient * share.double()
            return total

        return scores


def fitted(
    candidates: Sequence[tuple[str, Sequence[Part], Sequence[tuple[float, ...]]]],
    y: Float[Tensor, "n k"],
    ridges: Sequence[float] = RIDGES,
    kernels: Callable[[Part], list[Tensor]] = lambda part: part.kernels(),
) -> Fitted:
    """The best of several candidates by exact leave-one-out, then of the ridges for it.

    Parameters
    ----------
    candidates : sequence of (name, parts, weights)
        ``weights`` are the choices for the weights of all the parts' shares.
    y : Tensor of shape (n, k)
        One-hot.
    ridges : sequence of float
        The middle one screens the candidates.
    kernels : callable
        A part's kernels; a place to keep them.
    """
    middle = sorted(ridges)[len(ridges) // 2]
    best = None
    several = len(candidates) > 1 or len(candidates[0][2]) > 1
    for name, parts, weights in candidates:
        if not several:
            best = (1.0, name, parts, weights[0])
            break
        trial = share_ridge([k for p in parts for k in kernels(p)], y, weights, [middle])
        accuracy = trial.left_out[trial.weights, middle]
        if best is None or accuracy > best[0]:
            best = (accuracy, name, parts, trial.weights)
    assert best is not None
    _, name, parts, chosen = best
    solution = share_ridge([k for p in parts for k in kernels(p)], y, [chosen], ridges)
    return Fitted(tuple(parts), solution, name, _count(parts))


def _count(parts: Sequence[Part]) -> int | None:
    """Tangent features, or features; none for Gaussian and infinite-width kernels."""
    if any(isinstance(p, Gaussian | InfiniteConvolution) for p in parts):
        return None
    total = 0
    for part in parts:
        if isinstance(part, Convolution):
            total += part.n_features
        elif isinstance(part, Dense):
            total += sum(p.numel() for p in (*part.hidden.parameters(), *part.head.parameters()))
        elif isinstance(part, Linear):
            total += part.rows.shape[1]
    return total


def _gram(rows: Float[Tensor, "n p"]) -> Float[Tensor, "n n"]:
    """Inner products, exactly symmetric."""
    kernel = rows.new_zeros(len(rows), len(rows))
    _add_gram(kernel, rows)
    return kernel


def _add_gram(kernel: Float[Tensor, "n n"], rows: Float[Tensor, "n p"]) -> None:
    """Add inner products; only blocks on and above the diagonal are computed."""
    n = len(rows)
    for start in range(0, n, _ROWS):
        stop = min(start + _ROWS, n)
        corner = rows[start:stop] @ rows[start:stop].T
        kernel[start:stop, start:stop] += (corner + corner.T) / 2
        block = rows[start:stop] @ rows[stop:].T
        kernel[start:stop, stop:] += block
        kernel[stop:, start:stop] += block.T


def _deviation(rows: Tensor) -> Tensor:
    spread = rows.std(0)
    return torch.where(spread > 1e-6 * (1 + rows.mean(0).abs()), spread, 1.0)
