"""Morlet wavelets and their low-pass in Fourier, as kymatio defines them.

Source: Andreux et al. 2020 (kymatio), after Bruna and Mallat 2013. Float64, on the padded grid.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

# The area of a Gaussian is 2 pi sigma^2 / slant; kymatio writes pi with four decimals, which is
# three parts in 1e5 and would be seen.
_PI = 3.1415
_PERIODS = range(-2, 3)


def padded_size(size: int, J: int) -> int:
    """Length of the periodic grid that an image of ``size`` pixels is reflected onto."""
    step = 2**J
    return ((size + step) // step + 1) * step


def reflection(size: int, J: int) -> Float[np.ndarray, " padded"]:
    """Which pixel each point of the padded grid takes its value from."""
    total = padded_size(size, J)
    before, after = (total - size) // 2, (total - size + 1) // 2
    pixels = np.arange(size)
    if before < size:
        return np.pad(pixels, (before, after), mode="reflect").astype(float)
    # An image as small as its margin: the outermost points repeat the second and the last but one
    # of the line that is padded by one less.
    inner = np.pad(pixels, (before - 1, after - 1), mode="reflect")
    return np.concatenate([inner[1:2], inner, inner[-2:-1]]).astype(float)


def gabor(
    shape: tuple[int, int], sigma: float, theta: float, xi: float, slant: float
) -> np.ndarray:
    """A Gaussian (sigma along theta, sigma / slant across) times a wave along theta, periodized."""
    total = np.zeros(shape, dtype=np.complex128)
    cos, sin = math.cos(theta), math.sin(theta)
    for row_period in _PERIODS:
        for column_period in _PERIODS:
            row = np.arange(shape[0])[:, None] + row_period * shape[0]
            column = np.arange(shape[1])[None, :] + column_period * shape[1]
            along, across = row * cos + column * sin, column * cos - row * sin
            square = along**2 + (slant * across) ** 2
            total += np.exp(-square / (2 * sigma**2) + 1j * xi * along)
    return total * slant / (2 * _PI * sigma**2)


def morlet_hat(
    shape: tuple[int, int], j: int, angle: int, L: int
) -> Float[np.ndarray, "rows columns"]:
    """Fourier transform (real) of the Morlet wavelet of scale 2^j and the given angle."""
    theta = (int(L - L / 2 - 1) - angle) * math.pi / L
    sigma, xi, slant = 0.8 * 2**j, 3 * math.pi / 4 / 2**j, 4 / L
    wave = gabor(shape, sigma, theta, xi, slant)
    envelope = gabor(shape, sigma, theta, 0.0, slant)
    return np.fft.fft2(wave - wave.sum() / envelope.sum() * envelope).real


def low_pass_hat(shape: tuple[int, int], J: int) -> Float[np.ndarray, "rows columns"]:
    """Fourier transform (real) of the Gaussian that averages over 2^J pixels."""
    return np.fft.fft2(gabor(shape, 0.8 * 2 ** (J - 1), 0.0, 0.0, 1.0)).real


def at_resolution(hat: Float[np.ndarray, "rows columns"], level: int) -> np.ndarray:
    """The filter on the grid 2^level times coarser: frequencies beyond it cut, the rest folded."""
    rows, columns = hat.shape
    kept = hat * _band(rows, level)[:, None] * _band(columns, level)[None, :]
    step = 2**level
    return kept.reshape(step, rows // step, step, columns // step).sum(axis=(0, 2))


def _band(size: int, level: int) -> np.ndarray:
    """One on the frequencies that a grid of ``size / 2^level`` points has."""
    keep = np.ones(size)
    start = int(size * 2.0 ** (-level - 1))
    keep[start : start + int(size * (1 - 2.0**-level))] = 0
    return keep
