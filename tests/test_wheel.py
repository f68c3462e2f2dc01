"""The wheel: it builds, holds what is no module too, and runs outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
NO_NETWORK = ("No matching distribution", "Could not find a version", "Temporary failure")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel's content; dependencies are those of this interpreter."""
    source, wheels, target = (tmp_path_factory.mktemp(n) for n in ("source", "wheels", "target"))
    for name in ("tangent", "baselines", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", str(wheels), str(source)], capture_output=True, text=True
    )
    if built.returncode and any(words in built.stderr for words in NO_NETWORK):
        pytest.skip("the build backend cannot be fetched: no wheel on this machine")
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(target), str(wheel)],
        check=True,
        capture_output=True,
    )
    return target


@pytest.fixture
def run(installed, tmp_path):
    """Run the interpreter in an empty folder with the installed packages before all others."""

    def _run(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return _run


def test_the_packages_come_from_the_wheel_and_import_without_a_warning(run, installed):
    program = "import tangent, baselines; print(tangent.__file__); print(baselines.__file__)"
    places = run("-W", "error", "-c", program).split()
    assert all(Path(place).is_relative_to(installed) for place in places)


def test_the_command_line_answers(run, installed):
    assert "usage: experiments VERB" in run(str(installed / "bin" / "experiments"), "--help")
    assert "fig3b\t" in run("-m", "experiments", "list")


def test_what_is_no_module_is_inside(run):
    program = (
        "from baselines import published\n"
        "from experiments.page.build import _template, _text\n"
        "from experiments.runs.costs import kept_costs\n"
        "assert published.load('3(b)') and _template() and kept_costs()\n"
        "assert _text('style.css') and _text('tables.js')\n"
    )
    run("-W", "error", "-c", program)


def test_a_run_its_estimate_and_its_page(run, tmp_path):
    assert "would run" in run("-m", "experiments", "fig1", "smoke", "--dry-run")
    run("-m", "experiments", "fig1", "smoke", "--threads", "1")
    assert "report.html" in run("-m", "experiments", "report")
    assert "Figure 1" in (tmp_path / "results" / "report.html").read_text("utf-8")
