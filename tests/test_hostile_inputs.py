"""Hostile input: every estimator and function refuses it in words or answers with finite numbers.

A few examples each in the suite, hundreds with ``-m faults``.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from tests.hostile import LABELS, arrays, check_fit, labels, made
from tests.test_every_estimator import ESTIMATORS

MANY = 150


def hostile(name, array, kind, seed):
    rng = np.random.default_rng(seed)
    X = made(**array, rng=rng)
    return check_fit(ESTIMATORS[name], X, labels(kind, X, rng))


@functools.cache
def fitted(name):
    rng = np.random.default_rng(0)
    X = made("plain", "rows", "float64", rng)
    return clone(ESTIMATORS[name]).fit(X, labels("three", X, rng))


def asked(name, array, seed):
    """What an estimator fitted on ordinary rows makes of hostile ones."""
    X = made(**array, rng=np.random.default_rng(seed))
    return check_fit(None, X, None, fitted=fitted(name))


drawn = given(array=arrays, kind=st.sampled_from(LABELS[:1] * 5 + LABELS), seed=st.integers(0, 9))


@pytest.mark.parametrize("name", ESTIMATORS)
@settings(max_examples=4)
@drawn
def test_an_estimator_refuses_in_words_or_answers(name, array, kind, seed):
    assert hostile(name, array, kind, seed) in ("refused", "answered")


@pytest.mark.parametrize("name", ESTIMATORS)
@settings(max_examples=6)
@given(array=arrays, seed=st.integers(0, 9))
def test_a_fitted_estimator_refuses_in_words_or_answers(name, array, seed):
    assert asked(name, array, seed) in ("refused", "answered")


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ESTIMATORS)
@settings(max_examples=MANY)
@drawn
def test_an_estimator_refuses_in_words_or_answers_often(name, array, kind, seed):
    assert hostile(name, array, kind, seed) in ("refused", "answered")
    assert asked(name, array, seed) in ("refused", "answered")
