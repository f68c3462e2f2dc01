"""Convolutions of many images with all wavelets, as products with small matrices.

Images lie as (rows, columns, everything else), so that a discrete Fourier transform along rows or
columns is a product with a small matrix from the left over long contiguous lines, which reaches a
core's full rate where batches of small FFTs reach a tenth. What makes it small:

- a signal is real, so half of the column frequencies is enough; a complex wavelet is a real even
  and a real odd filter, which give the real and the imaginary part of the convolution apart, each
  real again: nothing is interleaved, and the modulus is sqrt(re^2 + im^2) over planes;
- along rows everything is split in a part even and a part odd under reversal, X(k) = E + O and
  X(-k) = E - O, for which cosines and sines on half of the rows suffice: real matrices on complex
  numbers, a quarter of the work;
- subsampling sums the aliases in frequency, in the same product that multiplies by all filters,
  and an image's half spectrum is computed once for all scales;
- reflection at the border and averaging are folded into the matrices.

Rows of a grid of n lie in the order of `row_order`, which brings row i and row -i together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def single(array: np.ndarray) -> Tensor:
    """A float32 tensor of the array's values."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def row_order(n: int) -> np.ndarray:
    """Which row lies where: 1 to n/2 - 1, then 0 and n/2, then -1 to -(n/2 - 1)."""
    inner = np.arange(1, n // 2)
    return np.concatenate([inner, [0, n // 2], n - inner])


def butterfly(rows: Float[Tensor, "n ..."]) -> None:
    """Sum and difference of rows i and -i, in their places."""
    inner = len(rows) // 2 - 1
    above, below = rows[:inner], rows[inner + 2 :]
    above.add_(below)
    torch.sub(above, below, alpha=2, out=below)


class Buffers:
    """Working arrays that are taken again and again: fresh memory costs more than a product.

    Copies and pickles are empty.
    """

    def __init__(self) -> None:
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


def modulus(real: Tensor, imaginary: Tensor, out: Tensor) -> Tensor:
    """sqrt(re^2 + im^2) in ``out``, which may be ``real``; several times faster than hypot."""
    torch.mul(real, real, out=out)
    return out.addcmul_(imaginary, imaginary).sqrt_()


@dataclass(frozen=True)
class HalfSpectrum:
    """The Fourier transform of real images: half of the column frequencies, E and O along rows."""

    folds: bool
    """Whether the input's rows are in order and to be folded; else one matrix does it all."""
    even: Tensor
    """(n / 2 + 1, rows): cosines."""
    odd: Tensor
    """(n / 2 - 1, rows): sines."""
    columns: tuple[Tensor, Tensor]
    """(re/im and k2, columns), for the even and for the odd part."""

    @classmethod
    def build(cls, n: int, m: int, pad: tuple | None = None) -> HalfSpectrum:
        """For a grid of n x m points, both even.

        ``pad`` holds the matrices that bring an image's rows and columns onto that grid; the
        image's rows then lie from top to bottom.
        """
        half = n // 2
        waves = np.exp(-2j * np.pi * np.outer(np.arange(m // 2 + 1), np.arange(m)) / m)
        order = np.arange(n) if pad else row_order(n)
        angles = 2 * np.pi * np.outer(np.arange(half + 1), order) / n
        even, odd = np.cos(angles), np.sin(angles[1:half])
        if pad:
            waves, even, odd = waves @ pad[1], even @ pad[0], odd @ pad[0]
        else:  # what is folded lies where the rows i are, and where the rows -i are
            even, odd = even[:, : half + 1], odd[:, : half - 1]
        both = [np.concatenate([w.real, w.imag]) for w in (waves, -1j * waves)]
        return cls(pad is None, single(even), single(odd), (single(both[0]), single(both[1])))

    def lines(
        self, u: Float[Tensor, "rows m batch"], name: str, buffers: Buffers
    ) -> Float[Tensor, "n m batch"]:
        """The transform along rows only, real: E, then O / -i. Overwrites ``u`` where it folds."""
        split = len(self.even)
        out = buffers.take(name, split + len(self.odd), *u.shape[1:])
        if self.folds:
            butterfly(u)
        rows = u.view(len(u), -1)
        above, below = (rows[:split], rows[split:]) if self.folds else (rows, rows)
        torch.mm(self.even, above, out=out[:split].view(split, -1))
        torch.mm(self.odd, below, out=out[split:].view(len(self.odd), -1))
        return out

    def __call__(
        self, lines: Float[Tensor, "n m batch"], name: str, buffers: Buffers
    ) -> Float[Tensor, "n re_im_k2 batch"]:
        """The transform of ``lines``: rows of E for k1 = 0 to n / 2, of O for 1 to n / 2 - 1."""
        split = len(self.even)
        out = buffers.take(name, len(lines), len(self.columns[0]), lines.shape[2])
        for matrix, rows in zip(self.columns, (slice(split), slice(split, None)), strict=True):
            part = lines[rows]
            torch.bmm(matrix.expand(len(part), -1, -1), part, out=out[rows])
        return out


@dataclass(frozen=True)
class WaveletModulus:
    """|u * psi| on a grid ``step`` times coarser, from half of u's spectrum, for all filters psi.

    Attributes hold the matrices; ``__call__`` applies them.
    """

    chosen: Tensor
    """(k1' re/im k2' and aliases of E, then of O): where each lies in the spectrum."""
    filters: tuple[Tensor, Tensor]
    """(k1', re/im, k2', even and odd filters, aliases of E and O) for the even part along rows,
    k1' = 0 to half the rows, and for the odd part, k1' = 1 to half the rows - 1."""
    to_rows: tuple[Tensor, Tensor]
    """Cosines and sines, (rows, k1')."""
    to_columns: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(columns, re/im and k2') by even or odd filter, then by part along rows."""
    sizes: tuple[int, int, int]
    """Output rows and columns, and the step."""

    @classmethod
    def build(cls, hats: Float[np.ndarray, "filters n m"], step: int) -> WaveletModulus:
        """For filters given in Fourier on the input's grid."""
        n, m = hats.shape[1:]
        rows, columns = n // step, m // step
        chosen, filters = _folding(hats, step)
        k1, k2 = np.arange(rows // 2 + 1), np.arange(columns // 2 + 1)
        angles = 2 * np.pi * np.outer(row_order(rows)[: rows // 2 + 1], k1) / rows
        inner = slice(1, rows // 2)
        # k1' = 0 and rows / 2 are their own mirrors, so there the even part is twice what it is
        cosines = np.cos(angles) * np.where(k1 % (rows // 2) == 0, 0.5, 1.0)
        sines = np.sin(angles)[: rows // 2 - 1, inner]
        twice = np.where((k2 == 0) | (2 * k2 == columns), 1.0, 2.0)
        waves = twice * np.exp(2j * np.pi * np.outer(np.arange(columns), k2) / columns)
        # re(factor * wave * Y) for Y in (re, im); the odd part along rows brings an i of its own
        to_columns = [
            [single(np.concatenate([w.real, -w.imag], 1)) for w in (f * waves, 1j * f * waves)]
            for f in (1, -1j)
        ]
        return cls(
            chosen=torch.from_numpy(chosen),
            filters=(single(filters[0]), single(filters[1][inner])),
            to_rows=(single(cosines), single(sines)),
            to_columns=((to_columns[0][0], to_columns[0][1]), (to_columns[1][0], to_columns[1][1])),
            sizes=(rows, columns, step),
        )

    def __call__(
        self,
        spectrum: Float[Tensor, "n re_im_k2 batch"],
        buffers: Buffers,
        name: str = "convolved",
    ) -> Float[Tensor, "rows columns filters batch"]:
        """The moduli, in a buffer of that name."""
        real, imaginary = self.parts(spectrum, buffers, name)
        return modulus(real, imaginary, real)

    def parts(
        self,
        spectrum: Float[Tensor, "n re_im_k2 batch"],
        buffers: Buffers,
        name: str = "convolved",
    ) -> Float[Tensor, "2 rows columns filters batch"]:
        """Real and imaginary parts of u * psi, in a buffer of that name."""
        rows, columns, _ = self.sizes
        split, count = rows // 2 + 1, spectrum.shape[2]
        n_filters = self.filters[0].shape[3] // 2
        products = self._products(spectrum, buffers)
        lined = buffers.take("lined", rows, 2 * (columns // 2 + 1), 2, n_filters * count)
        for matrix, product, out in zip(
            self.to_rows, products, (lined[:split], lined[split:]), strict=True
        ):
            torch.mm(matrix, product.view(len(product), -1), out=out.view(len(out), -1))
        parts = buffers.take(name, 2, rows, columns, n_filters * count)
        for part, matrices in enumerate(self.to_columns):
            for matrix, of in zip(matrices, (slice(split), slice(split, None)), strict=True):
                stack = matrix.expand(len(lined[of]), -1, -1)
                torch.bmm(stack, lined[of, :, part], out=parts[part, of])
            butterfly(parts[part])
        return parts.view(2, rows, columns, n_filters, count)

    def _products(self, spectrum: Tensor, buffers: Buffers) -> tuple[Tensor, Tensor]:
        """The spectrum times every filter, even and odd along rows, as ``filters`` lie."""
        count, even, odd = spectrum.shape[2], *self.filters
        a = buffers.take("even", *even.shape[:4], count)
        b = buffers.take("odd", *odd.shape[:4], count)
        aliases = even.shape[4]
        folded = buffers.take("folded", *even.shape[:3], aliases, count)
        torch.index_select(spectrum.view(-1, count), 0, self.chosen, out=folded.view(-1, count))
        for filters, here, out in ((even, folded, a), (odd, folded[1:-1], b)):
            torch.bmm(
                filters.view(-1, *filters.shape[3:]),
                here.view(-1, aliases, count),
                out=out.view(-1, *out.shape[3:]),
            )
        return a, b


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
    chosen = np.concatenate(
        np.broadcast_arrays(
            *(((row * 2 + imaginary) * full_half + at2) for row in (at1, n // 2 + place)),
        ),
        axis=3,
    )
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
