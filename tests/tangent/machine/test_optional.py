"""What stands without the packages that only the experiments, or a few functions, need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tangent.machine.optional import optional

# What tangent and baselines are installed without: the rest of the project's dependencies.
_ABSENT = ["filelock", "jinja2", "kymatio", "matplotlib", "pandas", "PIL", "torchvision", "tyro"]
_SCRIPT = """
import sys
from pkgutil import walk_packages

sys.modules |= dict.fromkeys(sys.argv[2:])  # an import of one of them fails

import numpy as np
import torch
import baselines
import tangent

for package in (baselines, tangent):
    for module in walk_packages(package.__path__, package.__name__ + "."):
        __import__(module.name)

x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
print(tuple(tangent.tangent_kernel(tangent.mlp(3, 2, hidden=(5,)), x).shape))
X = np.random.default_rng(0).normal(size=(20, 64))
baselines.scattering_classifier(1, L=2, image_shape=(1, 8, 8)).fit(X, np.arange(20) % 2)
for wants in (
    lambda: baselines.ScatteringFeatures(1, image_shape=(1, 8, 8), backend="kymatio").fit(X),
    lambda: tangent.stored_tangent_kernel(sys.argv[1], tangent.mlp(3, hidden=(5,)), x),
):
    try:
        wants()
    except ModuleNotFoundError as error:
        print(error)
"""


def test_the_library_stands_without_what_the_experiments_need(tmp_path):
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path / "kernel"), *_ABSENT]
    root = Path(__file__).parents[3]
    out = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, timeout=250
    )
    assert out.returncode == 0, out.stderr
    shape, kymatio, filelock = out.stdout.splitlines()
    assert shape == "(4, 2, 4, 2)"
    assert "backend='kymatio' needs the package kymatio" in kymatio
    assert kymatio.endswith("pip install kymatio")
    assert filelock.endswith("pip install filelock")


def test_a_package_that_is_there_and_broken_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_there_at_all'"):
        optional("broken_package", "this test")
