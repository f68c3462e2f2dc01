"""The check of arguments that several estimators share."""

from __future__ import annotations

from numbers import Real
from types import SimpleNamespace

import numpy as np
import pytest

from baselines.arguments import check_positive


@pytest.mark.parametrize("value", [1, np.int64(3)])
def test_integers_above_zero_pass(value):
    check_positive(SimpleNamespace(count=value), "count")


@pytest.mark.parametrize("value", [0, -1, 1.0, True, None, "1"])
def test_whatever_is_no_count_is_named(value):
    with pytest.raises(ValueError, match=f"count must be an integer above 0; got {value!r}"):
        check_positive(SimpleNamespace(count=value), "count")


def test_zero_may_be_allowed():
    check_positive(SimpleNamespace(bias=0.0), "bias", kind=Real, zero=True)
    with pytest.raises(ValueError, match=r"bias must be a number at least 0; got -0\.5"):
        check_positive(SimpleNamespace(bias=-0.5), "bias", kind=Real, zero=True)
