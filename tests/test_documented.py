"""Every documented example runs: those of the docstrings, and every page's blocks of Python."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shlex
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import baselines
import experiments
import tangent

_ROOT = Path(__file__).parents[1]
PAGES = [page for at in ("", "docs/", "examples/") for page in sorted(_ROOT.glob(f"{at}*.md"))]


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


def python_blocks() -> list[tuple[str, str]]:
    """Every block of Python on every page, with the place it stands at."""
    blocks = []
    for page in PAGES:
        found = re.findall(r"^( *)```python\n(.*?)^ *```$", page.read_text("utf-8"), re.M | re.S)
        blocks += [
            (f"{page.name}, block {place}", textwrap.dedent(code))
            for place, (_, code) in enumerate(found)
        ]
    return blocks


def few_rows():
    """What the pages leave to the reader: a network, its data and targets, small."""
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


@pytest.mark.parametrize("code", [pytest.param(code, id=place) for place, code in python_blocks()])
def test_a_documented_block_runs(code, monkeypatch, capsys):
    import sklearn.datasets
    import sklearn.model_selection

    rows, labels = np.random.default_rng(0).random((40, 64)), np.arange(40) % 2
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda **_: (rows, labels))
    exec(compile(code, "a documented block", "exec"), few_rows())


def commands() -> list[tuple[str, list[str]]]:
    """Every experiment's command in a block of shell on a page, and the page's name."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
            lines = block.replace("\\\n", " ").splitlines()
            for line in lines:
                words = shlex.split(line.partition("python -m experiments ")[2], comments=True)
                if words:
                    found.append((page.name, words))
    return found


@pytest.mark.parametrize(("page", "words"), commands())
def test_a_documented_command_is_one_that_the_command_line_takes(page, words, monkeypatch, capsys):
    from experiments.command import cli

    asked = []
    monkeypatch.setattr(cli, "execute", lambda command: asked.append(command) or 0)
    if words[0] in ("list", "completion"):
        assert cli.run(words) == 0, page
        return
    assert words[0] in experiments_and_verbs(), page
    if words[0] not in ("plot", "table", "report", "pack"):
        assert cli.run(words) == 0, page
        assert asked


def experiments_and_verbs() -> list[str]:
    from experiments.command import cli, registry

    return [*registry.available(), *cli._VERBS]


def test_links_between_the_pages_lead_somewhere():
    for page in PAGES:
        links = re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8"))
        broken = [x for x in links if "://" not in x and not (page.parent / x).exists()]
        assert not broken, f"{page.name}: {broken}"
