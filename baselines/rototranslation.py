"""Scattering along positions and rotations jointly (Oyallon and Mallat 2015).

Orders 0 and 1 are those of the translation scattering. At the second order the first-order moduli
of one scale are a function of position and of the first angle; it is filtered by wavelets in
position, whose angle is taken relative to the first angle, and by wavelets along the angle.
Rotating the image by a multiple of pi / L then shifts the first angle and moves the positions,
and leaves the relative angle and the wavelet along the angle where they are.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from baselines.fourier import Buffers
from baselines.transform import Cascade, reflecting
from baselines.wavelets import padded_size
from tangent.machine.threads import over_ranges

ROWS = 16  # rows of an image handled at once along the angle, for the sake of the cache


def angular_matrix(L: int, octaves: int) -> Float[np.ndarray, "outputs angles"]:
    """Convolutions along a full turn, on the first half turn's values: complex, real-linear.

    The function filtered has 2 L values y with y(theta + L) = conj(y(theta)), so L of them, as real
    and imaginary parts, determine it. Rows come in pairs of blocks: real parts of all outputs,
    then imaginary parts; columns likewise. Outputs are Morlet wavelets of positive frequency of
    each octave, subsampled by 2^octave, over the full turn (the second half is what the
    negative frequencies give on the first), and the low-pass over half a turn.
    """
    turn = 2 * L
    blocks = []
    for octave in range(octaves):
        wave = _morlet_line(turn, 0.8 * 2**octave, 3 * math.pi / 4 / 2**octave)
        blocks.append(_circulant(wave)[:: 2**octave])
    low = _line(turn, 0.8 * 2 ** (octaves - 1), 0.0).real
    blocks.append(_circulant(low / low.sum())[: L : 2**octaves])
    whole = np.concatenate(blocks)
    first, second = whole[:, :L], whole[:, L:]
    plus, minus = first + second, 1j * (first - second)  # on the real and the imaginary part
    return np.block([[plus.real, minus.real], [plus.imag, minus.imag]])


def _line(size: int, sigma: float, xi: float) -> np.ndarray:
    position = np.arange(size)[:, None] + size * np.arange(-4, 5)
    return np.exp(-(position**2) / (2 * sigma**2) + 1j * xi * position).sum(axis=1)


def _morlet_line(size: int, sigma: float, xi: float) -> np.ndarray:
    wave, envelope = _line(size, sigma, xi), _line(size, sigma, 0.0)
    return (wave - wave.sum() / envelope.sum() * envelope) / envelope.real.sum()


def _circulant(kernel: np.ndarray) -> np.ndarray:
    """Row i of the product with y is the sum over j of kernel[i - j] y[j]."""
    place = np.arange(len(kernel))
    return kernel[(place[:, None] - place[None, :]) % len(kernel)]


class RotoTranslation(Cascade):
    """The transform: float32 images (n, channels, height, width) to coefficients.

    Called, gives (n, channels, paths, height / 2^J, width / 2^J); the paths are 1 + J L of orders 0
    and 1, equal to kymatio's, then for each j1 < j2 and each relative angle those along the angle.

    Parameters
    ----------
    J : int
        Scales.
    shape : tuple of int
        Height and width.
    L : int, default=8
        Angles in [0, pi); a power of two.
    octaves : int, default=2
        Scales along the angle.
    periodic : bool, default=False
        Take the image as one period of a periodic one, sides multiples of 2^J, and keep every
        position. Rotating it by 90 degrees about its first pixel then moves coefficients without
        changing them.
    planes : int, default=12
        Channels of images handled at once; bounds the working memory, not the result.
    """

    def __init__(
        self,
        J: int,
        shape: tuple[int, int],
        L: int = 8,
        octaves: int = 2,
        *,
        periodic: bool = False,
        planes: int = 12,
    ) -> None:
        self.J, self.L, self.planes = J, L, planes
        if periodic:
            padded, pad, kept = shape, (np.eye(shape[0]), np.eye(shape[1])), slice(None)
        else:
            padded = (padded_size(shape[0], J), padded_size(shape[1], J))
            pad, kept = (reflecting(shape[0], J), reflecting(shape[1], J)), slice(1, -1)
        self._build(padded, pad, kept)
        along = angular_matrix(L, octaves)
        self.n_along = len(along) // 2
        turn = np.arange(L) + np.arange(L)[:, None]  # (relative angle, theta1)
        # Half a turn further a wavelet is its own conjugate.
        sign = np.concatenate([np.ones((L, L)), np.where(turn >= L, -1, 1)], axis=1)
        self._along = torch.from_numpy(along * sign[:, None, :]).float()
        # Where (theta2, theta1) lies among the pairs that one product gives.
        self._pairs = torch.from_numpy(turn % L * L + np.arange(L))
        self.n_paths = 1 + J * L + J * (J - 1) // 2 * L * self.n_along

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c paths h2 w2"]:
        """The coefficients."""
        planes = images.flatten(0, 1)
        out = images.new_empty(len(planes), self.n_paths, *self.out_shape)

        def scatter(first: int, last: int) -> None:
            buffers = Buffers()
            for start in range(first, last, self.planes):
                some = slice(start, min(start + self.planes, last))
                x = planes[some].permute(1, 2, 0).contiguous()
                self._scatter(x, out[some], buffers)

        over_ranges(scatter, len(planes), self.planes)
        return out.view(*images.shape[:2], *out.shape[1:])

    def _scatter(self, x: Tensor, out: Tensor, buffers: Buffers) -> None:
        """Write the coefficients of a few planes, (rows, columns, planes), into ``out``."""
        L, count = self.L, x.shape[2]
        out[:, 0] = self._first_average(x, buffers).permute(2, 0, 1)
        start = 1 + self.J * L
        spectrum = self._spectrum(self._spectrum.lines(x, "lines", buffers), "image", buffers)
        for j1 in range(self.J):
            (u1,) = self._first[j1].moduli(spectrum, buffers, "first")
            s1 = self._averages[j1](u1, buffers).unflatten(2, (L, count))
            out[:, 1 + j1 * L : 1 + (j1 + 1) * L] = s1.permute(3, 2, 0, 1)
            if j1 == self.J - 1:
                break
            lines = self._spectra[j1].lines(u1, "lines", buffers)
            spectrum1 = self._spectra[j1](lines, "moduli", buffers)
            for j2 in range(j1 + 1, self.J):
                y = self._second[j1, j2].parts(spectrum1, buffers)
                for relative in range(L):
                    z = self._along_the_angle(y, relative, count, buffers)
                    s2 = self._averages[j2](z, buffers).unflatten(2, (self.n_along, count))
                    out[:, start : start + self.n_along] = s2.permute(3, 2, 0, 1)
                    start += self.n_along

    def _along_the_angle(
        self,
        y: Float[Tensor, "2 rows columns filters batch"],
        relative: int,
        count: int,
        buffers: Buffers,
    ) -> Float[Tensor, "rows columns outputs"]:
        """Moduli of the convolutions along the first angle at one relative angle."""
        rows, columns = y.shape[1:3]
        y = y.view(2, rows, columns, self.L**2, count)
        out = buffers.take("along", rows, columns, self.n_along * count)
        for top in range(0, rows, ROWS):
            size = min(ROWS, rows - top)
            chosen = buffers.take("angles", 2, size, columns, self.L, count)
            torch.index_select(y[:, top : top + size], 3, self._pairs[relative], out=chosen)
            both = buffers.take("both", size * columns, 2, self.L * count)
            both.copy_(chosen.view(2, size * columns, -1).transpose(0, 1))
            z = buffers.take("turned", size * columns, 2 * self.n_along, count)
            buffers.product(self._along[relative], both.view(size * columns, 2 * self.L, count), z)
            real, imaginary = z.view(size, columns, 2, -1).unbind(2)
            buffers.modulus(real, imaginary, out[top : top + size])
        return out
