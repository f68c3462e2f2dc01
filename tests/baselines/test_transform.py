"""The scattering transform against kymatio's and against a slow one."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kymatio.scattering2d.filter_bank import filter_bank
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

from baselines.fourier import Buffers, HalfSpectrum, WaveletModulus, mirror_order
from baselines.transform import FastScattering
from baselines.wavelets import at_resolution, low_pass_hat, morlet_hat, padded_size, reflection


@pytest.mark.parametrize(
    ("J", "shape", "L"),
    [
        (1, (8, 8), 3),
        (1, (5, 9), 2),
        (2, (8, 12), 4),
        (2, (32, 32), 8),
        (3, (32, 32), 8),
        (3, (8, 8), 2),
        (3, (16, 24), 5),
        (4, (32, 32), 2),
    ],
)
def test_coefficients_equal_those_of_kymatio(J, shape, L):
    images = torch.rand(3, 2, *shape, generator=torch.Generator().manual_seed(0))
    found = FastScattering(J, shape, L)(images)
    expected = ScatteringTorch2D(J, shape, L)(images)
    assert found.shape == expected.shape
    # kymatio itself rounds to float32; orders 1 and 2 are smaller, so each is held to its own size
    for paths in (slice(0, 1), slice(1, 1 + J * L), slice(1 + J * L, None)):
        if expected[:, :, paths].numel():
            scale = expected[:, :, paths].abs().max()
            difference = (found[:, :, paths] - expected[:, :, paths]).abs().max()
            assert difference <= 1e-5 * scale


@given(n=st.integers(1, 9), planes=st.integers(1, 7), lines=st.integers(1, 20), L=st.integers(1, 3))
def test_blocks_do_not_change_the_coefficients(n, planes, lines, L):
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(n))
    whole = FastScattering(2, (8, 8), L)(images)
    parts = FastScattering(2, (8, 8), L, planes=planes, lines=lines)(images)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


def test_a_transform_that_was_used_pickles_without_its_working_arrays():
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    transform = FastScattering(2, (16, 16), 2)
    fresh = len(pickle.dumps(transform))
    expected = transform(images)
    used = pickle.dumps(transform)
    assert len(used) < fresh + 200
    torch.testing.assert_close(pickle.loads(used)(images), expected, rtol=0, atol=0)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_wavelet_modulus_is_that_of_the_fourier_product(step):
    random = np.random.default_rng(step)
    hats, u = random.normal(size=(3, 16, 8)), random.normal(size=(16, 8, 2))
    stage = WaveletModulus.build(hats, step)
    buffers = Buffers()
    half = HalfSpectrum.build(16, 8)
    mirrored = torch.from_numpy(u[mirror_order(16)][:, mirror_order(8)]).float().contiguous()
    lines = half.lines(mirrored, "lines", buffers)
    (found,) = stage.moduli(half(lines, "spectrum", buffers), buffers)
    found = found.unflatten(2, (3, 2))
    products = np.fft.fft2(u, axes=(0, 1))[:, :, None] * hats.transpose(1, 2, 0)[..., None]
    expected = np.abs(np.fft.ifft2(products, axes=(0, 1)))[::step, ::step]
    expected = expected[mirror_order(16 // step)][:, mirror_order(8 // step)]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(("J", "L", "shape"), [(2, 8, (20, 24)), (3, 4, (16, 16))])
def test_filters_are_those_of_kymatio(J, L, shape):
    bank = filter_bank(*shape, J, L)
    for psi in bank["psi"]:
        hat = morlet_hat(shape, psi["j"], psi["theta"], L)
        for level, expected in enumerate(psi["levels"]):
            np.testing.assert_allclose(at_resolution(hat, level), expected, atol=2e-6)
    for level, expected in enumerate(bank["phi"]["levels"]):
        np.testing.assert_allclose(
            at_resolution(low_pass_hat(shape, J), level), expected, atol=2e-6
        )


@given(size=st.integers(8, 40), J=st.integers(1, 3))
def test_the_padded_grid_reflects_the_image(size, J):
    pixels = reflection(size, J)
    assert len(pixels) == padded_size(size, J)
    image = np.arange(size)
    start = (len(pixels) - size) // 2
    np.testing.assert_array_equal(pixels[start : start + size], image)
    if start < size:
        np.testing.assert_array_equal(pixels[:start][::-1], image[1 : start + 1])
