"""Convolutions of many images with all wavelets, as products with small matrices.

Images lie as (rows, columns, everything else), so that a discrete Fourier transform along rows or
columns is a product with a small matrix from the left over long contiguous lines, which reaches a
core's full rate where batches of small FFTs reach a tenth. What makes it small:

- a signal is real, so half of the column frequencies is enough; a complex wavelet is a real even
  and a real odd filter, which give the real and the imaginary part of the convolution apart, each
  real again: nothing is interleaved, and the modulus is sqrt(re^2 + im^2) over planes;
- row frequencies are taken even and odd apart: the sum and the difference of the two halves of
  the rows have half the length, and so do the two halves of the result;
- subsampling sums the aliases in frequency, in the same product that multiplies by all filters,
  and an image's half spectrum is computed once for all scales;
- reflection at the border and averaging are folded into the matrices.
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


def _as_real(matrix: np.ndarray) -> np.ndarray:
    """A complex matrix as a real one on (value, re/im) pairs; rows stay (value, re/im) too."""
    out = np.empty((matrix.shape[0], 2, matrix.shape[1], 2))
    out[:, 0, :, 0] = out[:, 1, :, 1] = matrix.real
    out[:, 0, :, 1] = -matrix.imag
    out[:, 1, :, 0] = matrix.imag
    return out


class Buffers:
    """Working arrays that are taken again and again: fresh memory costs more than a product."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self._turn = False
        self._views: dict[tuple, Tensor] = {}

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

    def next(self, *shape: int) -> Tensor:
        """One of two arrays in turn: each step reads what the step before wrote."""
        self._turn = not self._turn
        return self.take(f"turn {self._turn}", *shape)


def modulus(real: Tensor, imaginary: Tensor, out: Tensor) -> Tensor:
    """sqrt(re^2 + im^2) in ``out``; several times faster than hypot."""
    torch.mul(real, real, out=out)
    return out.addcmul_(imaginary, imaginary).sqrt_()


@dataclass(frozen=True)
class HalfSpectrum:
    """The Fourier transform of real images, half of the column frequencies, parities apart."""

    halves: bool
    """Whether the input is split in sums and differences of its halves of rows."""
    from_columns: Tensor
    """(re/im and k2, columns)."""
    from_rows: Tensor
    """(2 parities, re/im and k1, rows and re/im); k1 is 2 q + parity."""

    @classmethod
    def build(cls, n: int, m: int, pad: tuple | None = None) -> HalfSpectrum:
        """For a grid of n x m points, both even.

        ``pad`` holds the matrices that bring an image's rows and columns onto that grid.
        """
        waves = np.exp(-2j * np.pi * np.outer(np.arange(m // 2 + 1), np.arange(m)) / m)
        k1 = np.arange(2)[:, None] + 2 * np.arange(n // 2)
        row_waves = np.exp(-2j * np.pi * k1[..., None] * np.arange(n if pad else n // 2) / n)
        if pad:
            waves, row_waves = waves @ pad[1], row_waves @ pad[0]
        # rows (q, re/im) to (re/im, q); columns (row, re/im) as they lie
        from_rows = np.stack([_as_real(w) for w in row_waves]).transpose(0, 2, 1, 3, 4)
        return cls(
            halves=pad is None,
            from_columns=single(np.concatenate([waves.real, waves.imag])),
            from_rows=single(from_rows.reshape(2, n, -1)),
        )

    def __call__(
        self, u: Float[Tensor, "n m batch"], name: str, buffers: Buffers
    ) -> Float[Tensor, "2 2 frequencies batch"]:
        """The transform, (parity, re/im, q and k2, batch), in a buffer of that name."""
        count = u.shape[2]
        split = u[None]
        if self.halves:
            top, bottom = u[: len(u) // 2], u[len(u) // 2 :]
            split = buffers.next(2, *top.shape)
            torch.add(top, bottom, out=split[0])
            torch.sub(top, bottom, out=split[1])
        lines = split.flatten(0, 1)
        hat = buffers.next(len(lines), len(self.from_columns), count)
        torch.bmm(self.from_columns.expand(len(lines), -1, -1), lines, out=hat)
        half = len(self.from_columns) // 2
        hat = hat.view(len(split), -1, half * count).expand(2, -1, -1)
        out = buffers.take(name, 2, self.from_rows.shape[1], half * count)
        torch.bmm(self.from_rows, hat, out=out)
        return out.view(2, 2, -1, count)


@dataclass(frozen=True)
class WaveletModulus:
    """|u * psi| on a grid ``step`` times coarser, from half of u's spectrum, for all filters psi.

    Attributes hold the matrices; ``__call__`` applies them.
    """

    chosen: Tensor
    """(2 parities, k1' k2' and aliases): where each lies in half of the spectrum."""
    filters: Tensor
    """(2 parities, re/im, k1' k2', even and odd filters, aliases); of step 1 the same for both."""
    to_rows: Tensor
    """(2 parities, half the rows and re/im, re/im and k1')."""
    to_columns: Tensor
    """(2 parts, columns, re/im and k2')."""
    sizes: tuple[int, int, int]
    """Output rows and columns, and the step."""

    @classmethod
    def build(cls, hats: Float[np.ndarray, "filters n m"], step: int) -> WaveletModulus:
        """For filters given in Fourier on the input's grid."""
        n, m = hats.shape[1:]
        rows, columns = n // step, m // step
        half, full_half = columns // 2 + 1, m // 2 + 1
        # (parity, q', k2', a, b): the frequencies that fold onto (2 q' + parity, k2')
        parity, q, k2, a, b = np.ogrid[:2, : rows // 2, :half, :step, :step]
        k1, k2 = 2 * q + parity + rows * a, k2 + columns * b
        beyond = k2 >= full_half  # there the spectrum is the conjugate of its mirror
        mirrored = np.where(beyond, -k1 % n, k1), np.where(beyond, m - k2, k2)
        chosen = mirrored[0] // 2 * full_half + mirrored[1]
        mirror = hats[:, -np.arange(n)][:, :, -np.arange(m)]
        parts = np.stack([(hats + mirror) / 2, (hats - mirror) / 2]) / (n * m)
        filters = np.moveaxis(parts[:, :, k1, k2], (0, 1), (3, 4))  # (p, q', k2', part, f, a, b)
        filters = filters.reshape(2, 1, rows // 2 * half, 2 * len(hats), step**2)
        if step > 1:
            sign = np.where(beyond, -1, 1) + 0 * k1
            sign = sign.reshape(2, 1, rows // 2 * half, 1, step**2)
            filters = np.concatenate([filters, filters * sign], axis=1)
        position = np.arange(rows // 2)[:, None]
        back = [
            np.exp(2j * np.pi * position * (2 * np.arange(rows // 2) + p) / rows) for p in (0, 1)
        ]
        to_rows = np.stack([_as_real(b) for b in back]).transpose(0, 1, 2, 4, 3)
        twice = np.where((np.arange(half) == 0) | (2 * np.arange(half) == columns), 1.0, 2.0)
        phase = 2 * np.pi * np.outer(np.arange(columns), np.arange(half)) / columns
        cos, sin = twice * np.cos(phase), twice * np.sin(phase)
        to_columns = np.stack([np.stack([cos, -sin], 1), np.stack([sin, cos], 1)])
        return cls(
            chosen=torch.from_numpy((chosen + 0 * k1).reshape(2, -1)),
            filters=single(filters),
            to_rows=single(to_rows.reshape(2, rows, rows)),
            to_columns=single(to_columns.reshape(2, columns, 2 * half)),
            sizes=(rows, columns, step),
        )

    def __call__(
        self, spectrum: Float[Tensor, "2 2 frequencies batch"], buffers: Buffers
    ) -> Float[Tensor, "rows columns filters batch"]:
        """The moduli, in a buffer of their own."""
        real, imaginary = self.parts(spectrum, buffers)
        out = buffers.take(f"moduli{real.shape[1]}", *real.shape)
        return modulus(real, imaginary, out)

    def parts(
        self, spectrum: Float[Tensor, "2 2 frequencies batch"], buffers: Buffers
    ) -> Float[Tensor, "2 rows columns filters batch"]:
        """Real and imaginary parts of u * psi, good until two more arrays are taken in turn."""
        rows, columns, _ = self.sizes
        half, count, n_filters = columns // 2 + 1, spectrum.shape[3], self.filters.shape[3]
        take = buffers.next
        product = self._product(spectrum, buffers)
        lined = take(2, rows, half * n_filters * count)
        torch.bmm(self.to_rows, product.view(2, rows, -1), out=lined)
        lined = lined.view(rows, 2 * half, 2, n_filters // 2 * count)
        parts = take(2, rows, columns, n_filters // 2 * count)
        for part in range(2):
            matrix = self.to_columns[part].expand(rows, -1, -1)
            torch.bmm(matrix, lined[:, :, part], out=parts[part])
        even, odd = parts.view(2, 2, rows // 2, -1).unbind(1)
        whole = take(2, 2, *even.shape[1:])
        torch.add(even, odd, out=whole[:, 0])
        torch.sub(even, odd, out=whole[:, 1])
        return whole.view(2, rows, columns, n_filters // 2, count)

    def _product(self, spectrum: Tensor, buffers: Buffers) -> Tensor:
        """The spectrum times every filter: (parity, re/im, k1' k2', filters, batch)."""
        step = self.sizes[2]
        places, count, n_filters = self.filters.shape[2], spectrum.shape[3], self.filters.shape[3]
        if step == 1:  # one alias: an outer product, for which bmm is slow
            product = buffers.next(2, 2, places, n_filters, count)
            return torch.mul(self.filters, spectrum[:, :, :, None], out=product)
        folded = buffers.next(2, 2, places * step**2, count)
        product = buffers.next(2, 2, places, n_filters, count)
        for parity in range(2):
            for part in range(2):
                here = folded[parity, part]
                torch.index_select(spectrum[parity, part], 0, self.chosen[parity], out=here)
                aliases = here.view(places, step**2, count)
                torch.bmm(self.filters[parity, part], aliases, out=product[parity, part])
        return product
