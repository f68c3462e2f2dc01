"""The check of array shapes is at work, and says so where it cannot be."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

import baselines
import experiments
import tangent
from tests.shapes import UncheckedShapeError, checked, require_active, takes_arrays

if TYPE_CHECKING:
    from pathlib import PurePath


def test_a_wrong_shape_is_refused_in_every_package():
    from baselines.moments import Moments
    from experiments.data.teachers import half_square
    from tangent.training.batches import crop_and_flip

    calls = [
        (crop_and_flip, torch.zeros(3, 8, 8)),
        (Moments.like, torch.zeros(3), 1),
    ]
    for function, *arguments in calls:
        with pytest.raises(TypeCheckError):
            function(*arguments)
    assert half_square(torch.ones(2, 3), torch.ones(2, 3)) is not None


def test_a_shape_whose_names_are_not_defined_is_no_silent_pass():
    def product(x: Float[Tensor, n * k]):  # noqa: F821
        return x

    with pytest.raises(UncheckedShapeError, match=r"product: the shape of 'x'.*n is not defined"):
        checked(product)


def test_names_for_type_checkers_only_do_not_stop_the_check():
    def doubled(x: Float[Tensor, " n"], path: PurePath | None = None) -> Float[Tensor, " n"]:
        return x.repeat(2)

    assert len(checked(doubled)(torch.ones(3))) == 6
    with pytest.raises(BeartypeCallHintViolation, match="doubled"):
        checked(doubled)(torch.ones(3, 3))


def test_functions_without_arrays_are_left_as_they_are_and_the_others_are_not():
    from experiments.command.registry import preset
    from tangent.training.batches import crop_and_flip

    assert not hasattr(preset, "__wrapped__")
    assert hasattr(crop_and_flip, "__wrapped__")

    def shares(x: int, h: dict[str, Float[Tensor, " p"]]) -> None: ...

    def plain(x: int, h: dict[str, Tensor]) -> None: ...

    assert takes_arrays(shares)
    assert not takes_arrays(plain)
    assert not takes_arrays(tangent)


@pytest.mark.parametrize("package", [tangent, baselines, experiments])
def test_every_module_resolves_its_shapes(package):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)  # the check raises where it cannot be made


def test_packages_that_came_too_early_are_named():
    with pytest.raises(UncheckedShapeError, match="tangent was imported before the check"):
        require_active(("tangent", "nothing"))
    require_active(("nothing",))


def test_the_suite_does_not_start_with_the_check_switched_off():
    words = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "tests/tangent/solve/test_ridge.py",
    ]
    found = subprocess.run(
        words,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "JAXTYPING_DISABLE": "1"},
        capture_output=True,
        text=True,
    )
    assert found.returncode != 0
    assert "JAXTYPING_DISABLE is set" in found.stdout + found.stderr
