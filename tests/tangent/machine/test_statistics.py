"""Mean and scale of columns, whatever their offset and unit."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangent.machine.statistics import checked_weights, column_statistics


@pytest.mark.parametrize(
    "wrong", [[1.0, 2.0], [[1.0], [1.0], [1.0]], [1, -1, 1], [1, np.nan, 1], [0] * 3]
)
def test_wrong_weights_are_named(wrong):
    with pytest.raises(ValueError, match="sample_weight must"):
        checked_weights(wrong, 3)
    assert checked_weights(2, 3).tolist() == [2.0, 2.0, 2.0]


def exact(X, weights):
    """Mean and deviation in rational numbers."""
    w = [Fraction(float(v)) for v in weights]
    columns = []
    for column in X.T:
        values = [Fraction(float(v)) for v in column]
        mean = sum(a * b for a, b in zip(w, values, strict=True)) / sum(w)
        variance = sum(a * (b - mean) ** 2 for a, b in zip(w, values, strict=True)) / sum(w)
        shift = max(abs(b - mean) for b in values)
        columns.append((float(mean), float(variance / shift**2) ** 0.5 * float(shift)))
    return np.array(columns).T


@given(
    seed=st.integers(0, 999),
    offset=st.sampled_from([0.0, 1.0, 1e8, -1e10]),
    unit=st.sampled_from([1.0, 1e-30, 1e-5, 1e30]),
)
def test_they_are_those_of_rational_numbers(seed, offset, unit):
    rng = np.random.default_rng(seed)
    X, weights = (rng.normal(size=(7, 3)) + offset) * unit, rng.random(7) + 0.1
    mean, scale = column_statistics(X, weights)
    expected = exact(X, weights)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-14, atol=1e-14 * unit)
    np.testing.assert_allclose(scale, expected[1], rtol=1e-13)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-30, 1e30, 255.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_has_scale_one(value, dtype):
    X = np.full((1000, 2), value, dtype=dtype)
    X[:, 1] *= 1 + np.finfo(dtype).eps * np.random.default_rng(0).integers(-3, 4, 1000)
    mean, scale = column_statistics(X, np.random.default_rng(0).random(1000))
    np.testing.assert_array_equal(scale, 1)
    np.testing.assert_allclose(mean, value, rtol=1e-6)


def test_channels_pool_their_columns_and_bytes_are_exact():
    X = np.random.default_rng(0).integers(0, 256, (20, 12), dtype=np.uint8)
    mean, scale = column_statistics(X, np.ones(20), 3)
    pooled = X.reshape(20, 3, 4).astype(float)
    np.testing.assert_allclose(mean, pooled.mean(axis=(0, 2)), rtol=1e-14)
    np.testing.assert_allclose(scale, pooled.std(axis=(0, 2)), rtol=1e-14)
