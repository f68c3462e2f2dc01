"""Arguments that several estimators take: their types, and the check of those that count."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np

Flips = Literal["none", "average", "double"]
Seed = int | np.random.RandomState | None
Ridges = float | Sequence[float]  # one, or those that are tried


def check_positive(estimator: Any, *names: str, kind: type = Integral, zero: bool = False) -> None:
    """Refuse arguments that are no number of this kind above 0 (with ``zero``: at least 0)."""
    for name in names:
        value = getattr(estimator, name)
        right = isinstance(value, kind) and not isinstance(value, bool)
        if not right or value < 0 or (value == 0 and not zero):
            what = "an integer" if kind is Integral else "a number"
            rule = "at least 0" if zero else "above 0"
            raise ValueError(f"{name} must be {what} {rule}; got {value!r}")
