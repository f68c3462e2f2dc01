"""Hostile input: every estimator and function refuses it in words or answers with finite numbers.

A few examples each in the suite, hundreds with ``-m faults``.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile import LABELS, arrays, check_fit, labels, made
from tests.test_every_estimator import ESTIMATORS

MANY = 150


def hostile(name, array, kind, seed):
    rng = np.random.default_rng(seed)
    X = made(**array, rng=rng)
    return check_fit(ESTIMATORS[name], X, labels(kind, X, rng))


drawn = given(array=arrays, kind=st.sampled_from(LABELS[:1] * 5 + LABELS), seed=st.integers(0, 9))


@pytest.mark.parametrize("name", ESTIMATORS)
@settings(max_examples=4)
@drawn
def test_an_estimator_refuses_in_words_or_answers(name, array, kind, seed):
    assert hostile(name, array, kind, seed) in ("refused", "answered")


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ESTIMATORS)
@settings(max_examples=MANY)
@drawn
def test_an_estimator_refuses_in_words_or_answers_often(name, array, kind, seed):
    assert hostile(name, array, kind, seed) in ("refused", "answered")
