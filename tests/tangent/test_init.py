"""The package's names, and what importing it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tangent

_CHILD = (
    "import sys, tangent; "
    "print(*(name in sys.modules for name in ('sklearn', 'pandas', 'scipy.sparse')))"
)


def test_scikit_learn_is_loaded_where_an_estimator_is_asked_for():
    """It takes longer to import than all of this package, and so does SciPy's sparse algebra."""
    said = subprocess.run(
        [sys.executable, "-c", _CHILD], capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["False"] * 3
    assert "LinearOperator" in [base.__name__ for base in tangent.TangentOperator.__mro__]
    asked = _CHILD.replace("print", "tangent.LazyClassifier; print")
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert said.stdout.split()[0] == "True"


@pytest.mark.parametrize("name", tangent.__all__)
def test_every_name_is_there_and_listed(name):
    assert getattr(tangent, name).__name__ == name
    assert name in dir(tangent)


def test_a_name_that_is_none_is_said():
    with pytest.raises(AttributeError, match="no attribute 'TangentKernels'"):
        tangent.TangentKernels  # noqa: B018
    with pytest.raises(ImportError, match="TangentKernels"):
        from tangent import TangentKernels  # noqa: F401
