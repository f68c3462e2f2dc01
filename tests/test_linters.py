"""The linters refuse names that are not defined, in every room."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNDEFINED = '''"""A module."""


def doubled(x: int) -> int:
    """Twice an undefined name."""
    return 2 * y
'''


@pytest.mark.parametrize("package", ["tangent/solve", "baselines", "experiments/data", "tests"])
def test_ruff_refuses_an_undefined_name(package):
    pytest.importorskip("ruff")
    words = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise"]
    words += ["--stdin-filename", f"{package}/undefined.py", "-"]
    found = subprocess.run(words, input=UNDEFINED, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 1
    assert "F821 Undefined name `y`" in found.stdout


def test_mypy_refuses_an_undefined_name(tmp_path):
    pytest.importorskip("mypy")
    path = tmp_path / "undefined.py"
    path.write_text(UNDEFINED)
    words = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    words += ["--cache-dir", str(tmp_path / "cache"), str(path)]
    found = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 1
    assert 'Name "y" is not defined  [name-defined]' in found.stdout


def test_no_room_is_let_off_undefined_names_or_types():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert settings["mypy"]["disallow_untyped_defs"]
    for rules in (settings["mypy"], *settings["mypy"].get("overrides", [])):
        assert "name-defined" not in rules.get("disable_error_code", [])
        assert not rules.get("ignore_errors")
        assert rules.get("disallow_untyped_defs", True)
    lint = settings["ruff"]["lint"]
    for ignored in (lint["ignore"], *lint["per-file-ignores"].values()):
        assert not {"F", "F8", "F82", "F821"} & set(ignored)
