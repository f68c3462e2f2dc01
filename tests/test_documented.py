"""Every documented example runs: those of the docstrings, and the README's blocks of Python."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import baselines
import experiments
import tangent

README = Path(__file__).parents[1] / "README.md"


def modules_with_examples() -> list[str]:
    found = []
    for package in (tangent, baselines, experiments):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            source = importlib.util.find_spec(module.name).origin
            if ">>> " in Path(source).read_text(encoding="utf-8"):
                found.append(module.name)
    return found


def test_there_are_examples():
    assert "tangent.estimators.lazy" in modules_with_examples()


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_give_what_they_say(name):
    module = importlib.import_module(name)
    tests = [t for t in doctest.DocTestFinder().find(module) if t.examples]
    assert tests
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in tests:
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def python_blocks() -> list[str]:
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```$", README.read_text("utf-8"), re.M | re.S)
    return [textwrap.dedent(code) for _, code in blocks]


def few_rows():
    """What the README leaves to the reader: a network, its data and targets, small."""
    from sklearn.datasets import load_iris

    X, y = load_iris(return_X_y=True)
    X, y = X[::5], y[::5]
    network = tangent.mlp(4, 3, hidden=(5,), generator=torch.Generator().manual_seed(0))
    return {
        "X": X,
        "y": y,
        "model": network,
        "network": network,
        "x": torch.from_numpy(X).float(),
        "x_test": torch.from_numpy(X[:4]).float(),
        "times": [1.0, 10.0],
    }


@pytest.mark.parametrize("place", range(len(python_blocks())))
def test_a_block_of_the_readme_runs(place, monkeypatch, capsys):
    import sklearn.datasets
    import sklearn.model_selection

    names = few_rows()
    rows, labels = np.random.default_rng(0).random((40, 64)), np.arange(40) % 2
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda **_: (rows, labels))
    code = python_blocks()[place]
    if "training_path(" in code:  # targets of the solvers are numbers, not class names
        names["y"] = np.eye(3)[names["y"]]
        code = code.replace(".fit(X, y)", ".fit(X, y.argmax(1))")
    exec(compile(code, f"README.md, block {place}", "exec"), names)
