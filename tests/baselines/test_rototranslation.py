"""Roto-translation scattering."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

from baselines.rototranslation import RotoTranslation, angular_matrix


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("J", "L"), [(2, 4), (3, 8)])
def test_the_translation_part_is_that_of_kymatio(J, L):
    x = images(2, 2, 32, 24)
    found = RotoTranslation(J, (32, 24), L)(x)
    expected = ScatteringTorch2D(J, (32, 24), L=L, max_order=1)(x)
    assert found.shape[3:] == expected.shape[3:]
    for paths in (slice(0, 1), slice(1, None)):
        scale = expected[:, :, paths].abs().max()
        difference = found[:, :, : expected.shape[2]][:, :, paths] - expected[:, :, paths]
        assert difference.abs().max() <= 1e-5 * scale


def test_the_count_of_coefficients_is_the_published_one():
    transform = RotoTranslation(4, (64, 64))
    assert 3 * 16 * transform.n_paths == 61_488
    assert transform(images(1, 1, 64, 64)).shape == (1, 1, transform.n_paths, 4, 4)


def turned(x, quarter_turns):
    """A periodic image turned about its first pixel."""
    for _ in range(quarter_turns):
        x = x.transpose(-2, -1)
        x = torch.cat([x[..., :1, :], x[..., 1:, :].flip(-2)], dim=-2)
    return x


def _order_of_paths(J, L, quarter_turns):
    """Where each path of the image goes in the turned image: first angles shift by a quarter."""
    shift = quarter_turns * L // 2
    order = [0]
    for j in range(J):
        order += [1 + j * L + (a - shift) % L for a in range(L)]
    base = 1 + J * L
    steps = [(2 * L, 1), (L, 2), (L // 4, 4)]  # outputs along the angle and their steps
    for _ in range(J * (J - 1) // 2 * L):
        for count, step in steps:
            order += [base + (k - shift // step) % count for k in range(count)]
            base += count
    return torch.tensor(order)


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_turning_a_periodic_image_turns_positions_and_shifts_angles(quarter_turns):
    transform = RotoTranslation(2, (32, 32), 8, periodic=True)
    x = images(1, 1, 32, 32)
    plain, of_turned = transform(x), transform(turned(x, quarter_turns))
    order = _order_of_paths(2, 8, quarter_turns)
    expected = turned(plain, quarter_turns)
    sign_found = None
    # Angles of the filters fall as their index grows; either sense of the turn is one of these.
    for sense in (order, _order_of_paths(2, 8, -quarter_turns)):
        if torch.allclose(of_turned, expected[:, :, sense], atol=2e-6):
            sign_found = sense
    assert sign_found is not None
    assert not torch.allclose(of_turned, expected, atol=1e-4)


def test_convolutions_along_the_angle_are_those_of_the_full_turn():
    L = 8
    random = np.random.default_rng(0)
    y = random.normal(size=L) + 1j * random.normal(size=L)
    whole = np.concatenate([y, y.conj()])
    matrix = angular_matrix(L, 2)
    real, imaginary = np.split(matrix @ np.concatenate([y.real, y.imag]), 2)
    # the first 2 L outputs are one wavelet over the full turn: a circular convolution
    impulse = np.zeros(2 * L, complex)
    impulse[0] = 1
    columns = [matrix @ np.concatenate([np.eye(L)[i], np.zeros(L)]) for i in range(L)]
    assert np.linalg.matrix_rank(np.array(columns)) == L
    z = real[: 2 * L] + 1j * imaginary[: 2 * L]
    ratio = np.fft.fft(z) / np.fft.fft(whole)
    # a filter with a real Fourier transform and no mean
    np.testing.assert_allclose(ratio.imag, 0, atol=1e-12)
    assert abs(ratio[0]) < 1e-12
    assert np.argmax(ratio.real) in range(4, 8)
