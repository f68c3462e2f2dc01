"""Ridge regression by the normal equations of streamed features, for more inputs than features.

The features of all inputs never exist at once: blocks of them are added to one p x p matrix,
which is factored in place. The matrix lives in a file, so that an interrupted accumulation goes
on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tangent.solve.cholesky import factor_upper, solve_transposed, solve_upper

_BLOCK = 2048

Blocks = Callable[[int], Iterable[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class NormalSolution:
    """Weights of a ridge regression with a constant.

    Attributes
    ----------
    weight : Tensor of shape (p, k)
    constant : Tensor of shape (k,)
    ridge : float
    residual : float
        Norm of the normal equations' residual over that of their right side, from the streamed
        features themselves: what rounding has left.
    leverage : Tensor of shape (m,)
        Of the rows asked for, the constant's included.
    """

    weight: Tensor
    constant: Tensor
    ridge: float
    residual: float
    leverage: Tensor

    def predict(self, features: Float[Tensor, "n p"]) -> Float[Tensor, "n k"]:
        """Outputs at new inputs, float64."""
        return (features @ self.weight.to(features.dtype)).double() + self.constant


class NormalEquations:
    """Features' second moments, accumulated block by block in a file.

    Parameters
    ----------
    folder : Path
        Holds ``moments.npy`` and ``state.json``; what is there is gone on with if it belongs to
        the same sizes and ``of``, and refused if it is damaged.
    p, k : int
        Features and targets.
    of : str
        What the features are of: a digest of data and settings, say.

    Notes
    -----
    p^2 values in float32 in the file, and as many in memory while they are added to or factored:
    5.6 GB for 37,505 features. A block's products are summed in float32 and added in float32,
    an error of some sqrt(blocks) * 6e-8 of the diagonal; `solve` removes what it does to the
    solution by steps of refinement against the features themselves.
    """

    def __init__(self, folder: Path, p: int, k: int, of: str):
        self.folder, self.p, self.k, self.of = Path(folder), p, k, of
        self.folder.mkdir(parents=True, exist_ok=True)
        self.n = 0
        # Of features, of targets, and of the features' squares.
        self._sums = torch.zeros(p + k + 1, dtype=torch.float64)
        self._right = torch.zeros(p, k, dtype=torch.float64)
        self.moments = torch.zeros(p, p)
        if self._state.exists():
            self._load()

    @property
    def _state(self) -> Path:
        return self.folder / "state.json"

    def add(self, features: Float[Tensor, "b p"], targets: Float[Tensor, "b k"]) -> None:
        """Add a block; the upper triangle alone is kept up to date."""
        for start in range(0, self.p, _BLOCK):
            rows = features[:, start : start + _BLOCK]
            self.moments[start : start + _BLOCK, start:].addmm_(rows.T, features[:, start:])
        targets = targets.double()
        for some, right in zip(features.split(500), targets.split(500), strict=True):
            wide = some.double()
            self._right += wide.T @ right
            self._sums += torch.cat([wide.sum(0), right.sum(0), wide.square().sum()[None]])
        self.n += len(features)

    def save(self) -> None:
        """Write the moments, then the state that makes them count."""
        arrays = {"moments": self.moments, "sums": self._sums, "right": self._right}
        digests = {}
        for name, array in arrays.items():
            # Beside what counts: an interruption leaves that as it is.
            path = self.folder / f"{name}-{self.n}.npy"
            np.save(path, array.numpy())
            digests[name] = _digest(array)
        state = {"of": self.of, "p": self.p, "k": self.k, "n": self.n, "digests": digests}
        written = self.folder / "state.part"
        written.write_text(json.dumps(state), encoding="utf-8")
        written.replace(self._state)
        for path in self.folder.glob("*.npy"):
            if not path.stem.endswith(f"-{self.n}"):
                path.unlink()

    def _load(self) -> None:
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
            found = {name: state[name] for name in ("of", "p", "k")}
            n, digests = int(state["n"]), dict(state["digests"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged(self._state, f"it is no state of moments ({error})") from error
        expected = {"of": self.of, "p": self.p, "k": self.k}
        if found != expected:
            raise ValueError(
                f"{self.folder} holds the moments of {found}, not of {expected}; take another "
                "folder, or delete it"
            )
        for name, into in (("moments", self.moments), ("sums", self._sums), ("right", self._right)):
            path = self.folder / f"{name}-{n}.npy"
            try:
                array = torch.from_numpy(np.load(path, allow_pickle=False))
            except Exception as error:  # headers of .npy files are read as Python, for one
                raise self._damaged(path, str(error)) from error
            about = (array.shape, array.dtype, _digest(array))
            if about != (into.shape, into.dtype, digests.get(name)):
                raise self._damaged(path, f"its checksum is not the one in {self._state.name}")
            into.copy_(array)
        self.n = n

    def _damaged(self, path: Path, reason: str) -> ValueError:
        return ValueError(f"{path} is damaged: {reason}; delete {self.folder} and start again")

    def solve(
        self,
        ridge: float,
        blocks: Blocks | None,
        *,
        steps: int = 2,
        rows: Float[Tensor, "m p"] | None = None,
    ) -> NormalSolution:
        """Factor the centred moments plus ridge in place, solve, and refine.

        Parameters
        ----------
        ridge : float
            Above 0, in units of the features' mean centred squared norm times n over n: that of
            a kernel of unit centred trace, as in `tangent.solve.share_ridge`.
        blocks : callable or None
            ``blocks(start)`` gives the blocks (features, targets) from row ``start`` on, again;
            all of them are read once, and once more a step of refinement. Without, there is no
            refinement and the residual is NaN.
        steps : int
            Of refinement: each reads the features once.
        rows : Tensor of shape (m, p), optional
            Features whose leverages are wanted; p^2 multiply-adds a row.

        Notes
        -----
        p^3 / 6 multiply-adds. The moments are overwritten by the factor: load the folder again
        for another ridge.
        """
        if not ridge > 0:
            raise ValueError(f"ridge must be above 0; got {ridge!r}")
        mean, mean_y, square = (self._sums / self.n).split([self.p, self.k, 1])
        right = self._right - self.n * mean[:, None] * mean_y
        self._centre(mean)
        penalty = ridge * float(square - mean @ mean)
        self.moments.diagonal().add_(penalty)
        _factored(self.moments)
        weight = self._solved(right)
        residual = torch.full_like(right, torch.nan)
        if blocks is not None:
            residual = self._residual(weight, right, mean, penalty, blocks)
            for _ in range(steps):
                weight = weight + self._solved(residual)
                residual = self._residual(weight, right, mean, penalty, blocks)
        leverage = torch.zeros(0)
        if rows is not None:
            away = (rows.double() - mean).to(self.moments.dtype)
            half = solve_transposed(self.moments, away.T.contiguous())
            leverage = half.double().square().sum(0) + 1 / self.n
        return NormalSolution(
            weight,
            mean_y - mean @ weight,
            ridge,
            float(residual.norm() / right.norm()),
            leverage,
        )

    def _centre(self, mean: Tensor) -> None:
        for start in range(0, self.p, _BLOCK):
            part = mean[start : start + _BLOCK, None] * mean[start:] * self.n
            self.moments[start : start + _BLOCK, start:] -= part.to(self.moments.dtype)

    def _solved(self, right: Tensor) -> Tensor:
        """The factored system solved, in the factor's precision, for a float64 right side."""
        size = right.norm()
        if size == 0:
            return right
        half = solve_transposed(self.moments, (right / size).to(self.moments.dtype))
        return solve_upper(self.moments, half).double() * size

    def _residual(
        self, weight: Tensor, right: Tensor, mean: Tensor, penalty: float, blocks: Blocks
    ) -> Tensor:
        product = penalty * weight
        for features, _ in blocks(0):
            for some in features.split(500):
                away = some.double() - mean
                product += away.T @ (away @ weight)
        return right - product


def _factored(upper: Float[Tensor, "p p"]) -> None:
    try:
        factor_upper(upper)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            "the moments plus ridge are not positive definite in float32; take a larger ridge"
        ) from error


def _digest(array: Tensor) -> str:
    return hashlib.sha256(np.ascontiguousarray(array.numpy()).data).hexdigest()
