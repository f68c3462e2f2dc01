"""The scattering transform: wavelet moduli of wavelet moduli, averaged.

The matrices and what makes them fast are in `baselines.fourier`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from baselines.fourier import Buffers, HalfSpectrum, WaveletModulus, mirror_order, single
from baselines.wavelets import at_resolution, low_pass_hat, morlet_hat, padded_size, reflection
from tangent.machine.threads import over_ranges

# Sizes of blocks whose operations are kept: whole ones, a remainder, those of two other calls.
_KEPT = 4
# Points of a padded image, up to which larger blocks are faster. Measured at 32, 96 and 224 pixels.
_SMALL = 72 * 72


def reflecting(size: int, J: int) -> Float[np.ndarray, "padded size"]:
    """The matrix that brings a line of pixels onto the padded grid."""
    return np.eye(size)[reflection(size, J).astype(int)]


@dataclass(frozen=True)
class Averaging:
    """The low-pass of scale 2^J on a coarser grid, subsampled, without the border: separable.

    Rows and columns come in the order of `baselines.fourier.mirror_order`, except those of padded
    images.
    """

    rows: Tensor
    """(output rows, rows)."""
    columns: Tensor
    """(output columns, columns)."""

    @classmethod
    def build(
        cls,
        hat: np.ndarray,
        J: int,
        level: int,
        pad: tuple | None = None,
        kept: slice = slice(1, -1),
    ) -> Averaging:
        """For the low-pass on the full padded grid; the input is 2^level times coarser."""
        here = at_resolution(hat, level)
        lines = (here[:, 0], here[0] / here[0, 0])
        matrices = [_averaged(line, 2 ** (J - level))[kept] for line in lines]
        if pad:
            matrices = [m @ p for m, p in zip(matrices, pad, strict=True)]
        else:
            matrices = [m[:, mirror_order(m.shape[1])] for m in matrices]
        return cls(*(single(m) for m in matrices))

    def __call__(self, u: Float[Tensor, "n m batch"], buffers: Buffers) -> Tensor:
        """The averages, of shape (output rows, output columns, batch)."""
        rows, columns = len(self.rows), len(self.columns)
        lines = buffers.take("rows", rows, *u.shape[1:])
        buffers.along_rows(self.rows, u, lines)
        out = buffers.take("averages", rows, columns, u.shape[2])
        buffers.product(self.columns, lines, out)
        return out


def _averaged(hat: np.ndarray, step: int) -> np.ndarray:
    """One axis as a matrix: filter, keep every ``step``-th point."""
    n = len(hat)
    shift = np.arange(n // step)[:, None] * step - np.arange(n)
    waves = np.exp(2j * np.pi * shift[..., None] * np.arange(n) / n)
    return (waves @ hat).real / n


class Cascade:
    """Two layers of wavelet moduli and their averages, on images of J octaves and L angles."""

    J: int
    L: int

    def _build(
        self,
        padded: tuple[int, int],
        pad: tuple[np.ndarray, np.ndarray],
        kept: slice = slice(1, -1),
    ) -> None:
        """Make the filters of images that are padded to so many pixels, positions ``kept``."""
        J, L = self.J, self.L
        hats = [np.stack([morlet_hat(padded, j, a, L) for a in range(L)]) for j in range(J)]
        low = low_pass_hat(padded, J)
        self._averages = [Averaging.build(low, J, j, kept=kept) for j in range(J)]
        self._first_average = Averaging.build(low, J, 0, pad, kept)
        self._spectrum = HalfSpectrum.build(*padded, pad)
        self._spectra = [HalfSpectrum.build(*(s // 2**j for s in padded)) for j in range(J)]
        self._first = [WaveletModulus.build(h, 2**j) for j, h in enumerate(hats)]
        self._second = {
            (j1, j2): WaveletModulus.build(
                np.stack([at_resolution(h, j1) for h in hats[j2]]), 2 ** (j2 - j1)
            )
            for j1 in range(J)
            for j2 in range(j1 + 1, J)
        }
        self.out_shape = (len(self._first_average.rows), len(self._first_average.columns))


class FastScattering(Cascade):
    """Scattering of orders 0, 1 and 2, equal to kymatio's up to float32 rounding.

    Called on float32 images of shape (n, channels, height, width) on the CPU, gives
    (n, channels, paths, height / 2^J, width / 2^J), paths in kymatio's order.

    Parameters
    ----------
    J : int
        Scales.
    shape : tuple of int
        Height and width.
    L : int, default=8
        Angles.
    planes : int, optional
        Channels of images taken at once. By default 48, and 12 of images larger than about 64 x 64.
    lines : int, optional
        First-order moduli (planes by angles) computed at once, and all that follows from them; it
        should stay near a core's cache. By default twice the planes.

    Notes
    -----
    Every core keeps its working arrays: 18 MiB (J = 2), 24 MiB (J = 3) at 32 x 32 pixels.
    Benchmark: ``benchmarks/scattering.py``.

    References
    ----------
    Andreux et al. 2020 (kymatio); Bruna and Mallat 2013.
    """

    def __init__(
        self,
        J: int,
        shape: tuple[int, int],
        L: int = 8,
        *,
        planes: int | None = None,
        lines: int | None = None,
    ) -> None:
        padded = (padded_size(shape[0], J), padded_size(shape[1], J))
        self.J, self.L = J, L
        self.planes = planes or (48 if padded[0] * padded[1] <= _SMALL else 12)
        self.lines = lines or 2 * self.planes
        self._build(padded, (reflecting(shape[0], J), reflecting(shape[1], J)))
        self._shape = shape
        self.n_paths = 1 + L * J + L * L * J * (J - 1) // 2
        self._idle: list[_Programs] = []  # one for each thread of the calls so far

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c paths h2 w2"]:
        """The coefficients."""
        planes = images.detach().flatten(0, 1)
        out = images.new_empty(len(planes), self.n_paths, *self.out_shape)

        def scatter(first: int, last: int) -> None:
            try:
                programs = self._idle.pop()
            except IndexError:  # asked of the list itself: another thread may have been faster
                programs = _Programs()
            for start in range(first, last, self.planes):
                some = slice(start, min(start + self.planes, last))
                x, operations, made = programs.of(some.stop - some.start, self._write)
                x.copy_(planes[some].permute(1, 2, 0))
                for operation in operations:
                    operation()
                out[some].flatten(1).copy_(made.T)  # one transposition, which torch does in tiles
            self._idle.append(programs)

        over_ranges(scatter, len(planes), self.planes)
        return out.view(*images.shape[:2], *out.shape[1:])

    def _write(self, count: int, buffers: Buffers) -> tuple[Tensor, Tensor]:
        """Write on the tape how so many planes, (rows, columns, planes), are scattered.

        Returns the array for the planes and the one for the coefficients, (all of them, planes).
        """
        L = self.L
        x = buffers.take("planes", *self._shape, count)
        made = buffers.take("coefficients", self.n_paths, *self.out_shape, count)
        buffers.do(made[0].copy_, self._first_average(x, buffers))
        second = made[1 + self.J * L :]
        spectrum = self._spectrum(self._spectrum.lines(x, "lines", buffers), "image", buffers)
        start = 0
        for j1 in range(self.J):
            later = self.J - 1 - j1
            block = second[start : start + L * later * L].unflatten(0, (L, later, L))
            angles = max(1, self.lines // count)
            chunks = self._first[j1].moduli(spectrum, buffers, "first", angles)
            for first, u1 in zip(range(0, L, angles), chunks, strict=True):
                s1 = self._averages[j1](u1, buffers).unflatten(2, (-1, count))
                to = made[1 + j1 * L + first :][: s1.shape[2]]
                buffers.do(to.copy_, s1.permute(2, 0, 1, 3))
                if not later:
                    continue
                lines = self._spectra[j1].lines(u1, "lines", buffers)
                spectrum1 = self._spectra[j1](lines, "moduli", buffers)
                for i, j2 in enumerate(range(j1 + 1, self.J)):
                    (u2,) = self._second[j1, j2].moduli(spectrum1, buffers)
                    s2 = self._averages[j2](u2, buffers).unflatten(2, (L, -1, count))
                    to = block[first : first + angles, i]
                    buffers.do(to.copy_, s2.permute(3, 2, 0, 1, 4))
            start += L * later * L
        return x, made.view(-1, count)


class _Programs:
    """What one thread computes with: the operations on blocks of the sizes met last."""

    def __init__(self) -> None:
        self._buffers = Buffers()
        self._written: dict[int, tuple[Tensor, list, Tensor]] = {}

    def __reduce__(self) -> tuple[type[_Programs], tuple[()]]:
        """What stands for it in a copy or a pickle."""
        return _Programs, ()

    def of(
        self, count: int, write: Callable[[int, Buffers], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[Callable[[], object]], Tensor]:
        """The array to be filled, the operations to be called then, the array of their result."""
        if count not in self._written:
            if len(self._written) == _KEPT:
                self._buffers, self._written = Buffers(), {}
            tape = self._buffers.tape = []
            x, made = write(count, self._buffers)
            self._written[count] = x, tape, made
        return self._written[count]
