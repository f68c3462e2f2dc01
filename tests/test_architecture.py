"""The picture of the architecture: rooms and arrows as the code has them."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[1] / "docs" / "architecture.py"


@pytest.fixture(scope="module")
def architecture():
    spec = importlib.util.spec_from_file_location("architecture", _SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_folder_of_the_packages_is_a_room(architecture):
    graph, _ = architecture.import_graph()
    for package in architecture.PACKAGES:
        for path in (architecture.ROOT / package).glob("*/__init__.py"):
            each = (path.parent / "settings.py").exists()
            assert f"{package}/{'each experiment' if each else path.parent.name}" in graph


def test_imports_for_annotations_do_not_count_and_those_in_functions_do(architecture):
    text = """
if TYPE_CHECKING:
    import torch
def f():
    from experiments.drawing import plots
"""
    assert list(architecture.imported(ast.parse(text))) == ["experiments.drawing.plots"]


def test_arrows_that_follow_from_others_are_left_out(architecture):
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert architecture.needed(graph) == [("a", "b"), ("b", "c")]
    assert architecture.depths(graph) == {"a": 2, "b": 1, "c": 0}


def test_tangent_imports_neither_of_the_others(architecture):
    counts = architecture.import_counts()
    wrong = [
        (one, other)
        for one, other in counts
        if one.startswith("tangent") and not other.startswith("tangent")
    ]
    assert not wrong


def test_the_picture_names_every_room(architecture):
    text = architecture.draw()
    graph, _ = architecture.import_graph()
    assert all(name.split("/")[-1] in text for name in graph)
