"""Convolutions of many images with all wavelets, as products with small matrices.

Images lie as (rows, columns, everything else), so that a discrete Fourier transform along rows or
columns is a product with a small matrix from the left over long contiguous lines, which reaches a
core's full rate where batches of small FFTs reach a tenth. NumPy makes these products: its BLAS has
kernels for small matrices that copy nothing first, 1.5 to 1.8 times as fast as torch's on an AMD
EPYC; torch does the rest, on the same memory. What makes the work small:

- a signal is real, so half of the column frequencies is enough; a complex wavelet is a real even
  and a real odd filter, which give the real and the imaginary part of the convolution apart, each
  real again: nothing is interleaved, and the modulus is sqrt(re^2 + im^2) over planes;
- along rows everything is split in a part even and a part odd under reversal, X(k) = E + O and
  X(-k) = E - O, for which cosines and sines on half of the rows suffice: real matrices on complex
  numbers, a quarter of the work; along columns too, for half of it;
- subsampling sums the aliases in frequency, in the same product that multiplies by all filters,
  and an image's half spectrum is computed once for all scales;
- reflection at the border and averaging are folded into the matrices.

Rows and columns of a grid lie in the order of `mirror_order`, which brings i and -i together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def single(array: np.ndarray) -> Tensor:
    """A float32 tensor of the array's values."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def mirror_order(n: int) -> np.ndarray:
    """What lies where: 1 to n/2 - 1, then 0 and n/2, then -1 to -(n/2 - 1)."""
    inner = np.arange(1, n // 2)
    return np.concatenate([inner, [0, n // 2], n - inner])


class Buffers:
    """Working arrays that are taken again and again: fresh memory costs more than a product.

    What works in them goes through `do`, which computes at once or, where there is a ``tape``,
    notes the operation for later: played again, a tape spares all that is not arithmetic.
    Copies and pickles are empty.
    """

    def __init__(self) -> None:
        self.tape: list[Callable[[], object]] | None = None
        self._held: dict[str, Tensor] = {}
        self._views: dict[tuple, Tensor] = {}

    def __reduce__(self) -> tuple[type[Buffers], tuple[()]]:
        """What stands for it in a copy or a pickle."""
        return Buffers, ()

    def take(self, name: str, *shape: int) -> Tensor:
        """An array of this shape, with whatever it held before."""
        view = self._views.get((name, shape))
        if view is None:
            size = math.prod(shape)
            held = self._held.get(name)
            if held is None or held.numel() < size:
                held = self._held[name] = torch.empty(size)
            view = self._views[name, shape] = held[:size].view(shape)
        return view

    def do(self, operation: Callable, *arguments: object, **options: object) -> None:
        """Call ``operation``, which writes into arrays given to it, now or when it is played."""
        if self.tape is None:
            operation(*arguments, **options)
        else:
            self.tape.append(partial(operation, *arguments, **options))

    def product(self, matrix: Tensor, of: Tensor, out: Tensor) -> None:
        """Products of stacks of matrices."""
        self.do(np.matmul, matrix.numpy(), of.numpy(), out=out.numpy())

    def along_rows(self, matrix: Tensor, of: Tensor, out: Tensor) -> None:
        """The matrix times the first dimension, a column of arrays at a time."""
        self.product(matrix, of.transpose(0, 1), out.transpose(0, 1))

    def fold(self, u: Float[Tensor, "n ..."]) -> None:
        """Sum and difference of rows i and -i, in their places."""
        inner = len(u) // 2 - 1
        above, below = u[:inner], u[inner + 2 :]
        self.do(above.add_, below)
        self.do(torch.sub, above, below, alpha=2, out=below)

    def modulus(self, real: Tensor, imaginary: Tensor, out: Tensor) -> Tensor:
        """sqrt(re^2 + im^2) in ``out``, which may be ``real``; several times faster than hypot."""
        self.do(torch.mul, real, real, out=out)
        self.do(out.addcmul_, imaginary, imaginary)
        self.do(np.sqrt, out.numpy(), out=out.numpy())
        return out


@dataclass(frozen=True)
class HalfSpectrum:
    """The Fourier transform of real images: half of the column frequencies, E and O along rows."""

    folds: bool
    """Whether the input's rows are in order and to be folded; else one matrix does it all."""
    even: Tensor
    """(n / 2 + 1, rows): cosines."""
    odd: Tensor
    """(n / 2 - 1, rows): sines."""
    columns: tuple[Tensor, Tensor, Tensor, Tensor]
    """(k2, columns), for the real and the imaginary part of E, then of O."""

    @classmethod
    def build(cls, n: int, m: int, pad: tuple | None = None) -> HalfSpectrum:
        """For a grid of n x m points, both even.

        ``pad`` holds the matrices that bring an image's rows and columns onto that grid; the
        image's rows and columns then lie in their natural order.
        """
        even, odd = _cosines_and_sines(n, np.arange(n) if pad else mirror_order(n))
        cosines, sines = _cosines_and_sines(m, np.arange(m) if pad else mirror_order(m))
        odd = odd[1:-1]
        if pad:
            even, odd, cosines, sines = (
                even @ pad[0],
                odd @ pad[0],
                cosines @ pad[1],
                sines @ pad[1],
            )
        else:  # what is folded lies where the i are, and where the -i are
            even, odd = even[:, : n // 2 + 1], odd[:, : n // 2 - 1]
            cosines, sines = cosines[:, : m // 2 + 1], sines[:, : m // 2 - 1]
        real, imaginary, odd_real, odd_imaginary = (  # e^{-i x}, and times -i for O
            single(matrix) for matrix in (cosines, -sines, -sines, -cosines)
        )
        return cls(
            folds=pad is None,
            even=single(even),
            odd=single(odd),
            columns=(real, imaginary, odd_real, odd_imaginary),
        )

    def lines(
        self, u: Float[Tensor, "rows m batch"], name: str, buffers: Buffers
    ) -> Float[Tensor, "n m batch"]:
        """The transform along rows only, real: E, then O / -i. Overwrites ``u`` where it folds.

        There the columns are folded too: even parts, then odd ones.
        """
        split = len(self.even)
        out = buffers.take(name, split + len(self.odd), *u.shape[1:])
        if self.folds:
            buffers.fold(u)
            buffers.fold(u.transpose(0, 1))
        above, below = (u[:split], u[split:]) if self.folds else (u, u)
        buffers.along_rows(self.even, above, out[:split])
        buffers.along_rows(self.odd, below, out[split:])
        return out

    def __call__(
        self, lines: Float[Tensor, "n m batch"], name: str, buffers: Buffers
    ) -> Float[Tensor, "n re_im k2 batch"]:
        """The transform of ``lines``: rows of E for k1 = 0 to n / 2, of O for 1 to n / 2 - 1."""
        split, frequencies = len(self.even), len(self.columns[0])
        out = buffers.take(name, len(lines), 2, frequencies, lines.shape[2])
        near = far = lines
        if self.folds:
            near, far = lines[:, :frequencies], lines[:, frequencies:]
        e, o = slice(split), slice(split, None)
        real, imaginary = out.unbind(1)
        outputs = (real[e], imaginary[e], real[o], imaginary[o])
        inputs = (near[e], far[e], far[o], near[o])
        for matrix, part, to in zip(self.columns, inputs, outputs, strict=True):
            buffers.product(matrix, part, to)
        return out


def _cosines_and_sines(n: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi k i / n for the frequencies 0 to n / 2 and the points given."""
    angles = 2 * np.pi * np.outer(np.arange(n // 2 + 1), points) / n
    return np.cos(angles), np.sin(angles)


@dataclass(frozen=True)
class WaveletModulus:
    """|u * psi| on a grid ``step`` times coarser, from half of u's spectrum, for all filters psi.

    Attributes hold the matrices; ``moduli`` applies them.
    """

    chosen: Tensor
    """(k1' re/im k2' and aliases of E, then of O): where each lies in the spectrum."""
    filters: tuple[Tensor, Tensor]
    """(k1', re/im, k2', even and odd filters, aliases of E and O) for the even part along rows,
    k1' = 0 to half the rows, and for the odd part, k1' = 1 to half the rows - 1."""
    to_rows: tuple[Tensor, Tensor]
    """Cosines and sines, (rows, k1')."""
    to_columns: tuple[Tensor, Tensor]
    """Cosines (even columns, k2') and sines (odd columns, k2' but the first and the last)."""
    sizes: tuple[int, int, int]
    """Output rows and columns, and the step."""

    @classmethod
    def build(cls, hats: Float[np.ndarray, "filters n m"], step: int) -> WaveletModulus:
        """For filters given in Fourier on the input's grid."""
        n, m = hats.shape[1:]
        rows, columns = n // step, m // step
        chosen, filters = _folding(hats, step)
        cosines, sines = _cosines_and_sines(rows, mirror_order(rows))
        # k1' = 0 and rows / 2 are their own mirrors, so there the even part is twice what it is
        cosines = cosines.T[: rows // 2 + 1] * _ends_and_others(rows // 2 + 1, 0.5, 1.0)
        sines = sines.T[: rows // 2 - 1, 1:-1]
        even, odd = _cosines_and_sines(columns, mirror_order(columns))
        even = even.T[: columns // 2 + 1] * _ends_and_others(columns // 2 + 1, 1.0, 2.0)
        odd = 2 * odd.T[: columns // 2 - 1, 1:-1]
        return cls(
            chosen=torch.from_numpy(chosen),
            filters=(single(filters[0]), single(filters[1][1:-1])),
            to_rows=(single(cosines), single(sines)),
            to_columns=(single(even), single(odd)),
            sizes=(rows, columns, step),
        )

    def moduli(
        self,
        spectrum: Float[Tensor, "n re_im k2 batch"],
        buffers: Buffers,
        name: str = "convolved",
        together: int | None = None,
    ) -> Iterator[Float[Tensor, "rows columns filters_batch"]]:
        """The moduli of so many filters at a time, of all by default, in a buffer of that name."""
        lined, count = self._lined(spectrum, buffers, name), spectrum.shape[-1]
        for some in lined.split((together or lined.shape[-1]) * count, -1):
            real, imaginary = self._parts(some, buffers, name)
            yield buffers.modulus(real, imaginary, real)

    def parts(
        self,
        spectrum: Float[Tensor, "n re_im k2 batch"],
        buffers: Buffers,
        name: str = "convolved",
    ) -> Float[Tensor, "2 rows columns filters batch"]:
        """Real and imaginary parts of u * psi, in a buffer of that name."""
        parts = self._parts(self._lined(spectrum, buffers, name), buffers, name)
        return parts.view(*parts.shape[:3], -1, spectrum.shape[-1])

    def _lined(
        self, spectrum: Float[Tensor, "n re_im k2 batch"], buffers: Buffers, name: str
    ) -> Float[Tensor, "rows 2 k2_out 2 filters_batch"]:
        """Half-spectra of the rows of u times every filter."""
        rows, columns, _ = self.sizes
        split, frequencies, count = rows // 2 + 1, columns // 2 + 1, spectrum.shape[-1]
        n_filters = self.filters[0].shape[3] // 2
        lined = buffers.take(f"lines of {name}", rows, 2, frequencies, 2, n_filters * count)
        folded = buffers.take("folded", len(self.chosen), count)
        every = spectrum.view(-1, count)
        buffers.do(torch.index_select, every, 0, self.chosen, out=folded)
        aliases = folded.view(split, -1, self.filters[0].shape[4], count)
        for matrix, filters, here, out in zip(
            self.to_rows,
            self.filters,
            (aliases, aliases[1:-1]),
            (lined[:split], lined[split:]),
            strict=True,
        ):
            # even and odd part one after the other, in the same array: half as much of the cache
            product = buffers.take("product", len(here), 4 * frequencies, n_filters * count)
            buffers.product(
                filters.view(-1, *filters.shape[3:]),
                here.view(-1, *here.shape[2:]),
                product.view(-1, 2 * n_filters, count),
            )
            buffers.along_rows(matrix, product, out.view(len(out), *product.shape[1:]))
        return lined

    def _parts(
        self, lined: Float[Tensor, "rows 2 k2 2 batch"], buffers: Buffers, name: str
    ) -> Float[Tensor, "2 rows columns batch"]:
        """Columns of real and imaginary parts from their half-spectra."""
        rows, columns, _ = self.sizes
        split, frequencies = rows // 2 + 1, columns // 2 + 1
        parts = buffers.take(name, 2, rows, columns, lined.shape[-1])
        e, o = slice(split), slice(split, None)
        cosines, sines = self.to_columns
        # Re(f w Y) for the waves w, with f = 1 for even filters and -i for odd ones, and an i of
        # its own for the odd part along rows
        for part, odd_filter in enumerate((False, True)):
            re, im = lined[:, 0, :, part], lined[:, 1, :, part]
            if odd_filter:
                terms = [(e, cosines, im, sines, re), (o, cosines, re, -sines, im)]
            else:
                terms = [(e, cosines, re, -sines, im), (o, -cosines, im, -sines, re)]
            for of, for_even, even, for_odd, odd in terms:
                out = parts[part, of]
                buffers.product(for_even, even[of], out[:, :frequencies])
                buffers.product(for_odd, odd[of, 1:-1], out[:, frequencies:])
            buffers.fold(parts[part])
            buffers.fold(parts[part].transpose(0, 1))
        return parts


def _ends_and_others(count: int, ends: float, others: float) -> np.ndarray:
    """``ends`` first and last, ``others`` between."""
    values = np.full(count, others)
    values[[0, -1]] = ends
    return values


def _folding(
    hats: Float[np.ndarray, "filters n m"], step: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Where the aliases of every frequency lie in a spectrum, and what they are multiplied by.

    With F+ and F- a filter's sum and difference at k1 and -k1, E F+ + O F- is the even part of
    the product with the filter, E F- + O F+ the odd one; aliases are summed. Where k2 is beyond
    half of the spectrum, the spectrum is the conjugate of its mirror: E* - O* of the mirrored k2.
    """
    n, m = hats.shape[1:]
    rows, columns = n // step, m // step
    half, full_half = columns // 2 + 1, m // 2 + 1
    # (k1', re/im, k2', a, b)
    k1, imaginary, k2, a, b = np.ogrid[: rows // 2 + 1, :2, :half, :step, :step]
    k1, k2 = (k1 + rows * a) + 0 * b, (k2 + columns * b) + 0 * a
    beyond = k2 >= full_half
    mirrored = 2 * k1 > n  # E of -k1 is that of k1, O changes its sign
    at1, at2 = np.where(mirrored, n - k1, k1), np.where(beyond, m - k2, k2)
    place = np.minimum(np.maximum(at1, 1), n // 2 - 1)  # O is zero elsewhere
    of_e, of_o = (((row * 2 + imaginary) * full_half + at2) for row in (at1, n // 2 + place))
    chosen = np.concatenate(np.broadcast_arrays(of_e, of_o), axis=3)
    conjugate = np.where(beyond, -1, 1)
    sign_e = np.where(imaginary == 1, conjugate, 1)
    sign_o = np.where(imaginary == 0, conjugate, 1) * np.where(mirrored, -1, 1) * (place == at1)
    mirror = hats[:, -np.arange(n)][:, :, -np.arange(m)]
    parts = np.stack([(hats + mirror) / 2, (hats - mirror) / 2]) / (n * m)
    here, there = (np.moveaxis(parts[:, :, k % n, k2], (0, 1), (4, 5)) for k in (k1, -k1))
    shape = (rows // 2 + 1, 2, half, 2 * len(hats), 2 * step**2)

    def coefficients(of_e: np.ndarray, of_o: np.ndarray) -> np.ndarray:
        """From (k1', re/im, k2', a, part, filter, b) twice to (..., part and filter, alias)."""
        signed = [f * s[..., None, None, :] for f, s in ((of_e, sign_e), (of_o, sign_o))]
        lists = [np.moveaxis(f, 3, 5).reshape(*shape[:4], step**2) for f in signed]
        return np.concatenate(lists, axis=4)

    plus, minus = here + there, here - there
    return chosen.reshape(-1), [coefficients(plus, minus), coefficients(minus, plus)]
