"""Every example runs, says something and draws its picture."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.processes import as_torchrun

_ROOT = Path(__file__).parents[2]
_SCRIPTS = sorted((_ROOT / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def _same_random_state():
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs_and_draws_its_picture(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip()
    assert (tmp_path / f"{script.stem}.png").stat().st_size > 5_000


def started_by_torchrun(script, folder):
    """What both processes say."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, script, str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [done.stdout]


@pytest.mark.parametrize(
    "started", [as_torchrun, pytest.param(started_by_torchrun, marks=pytest.mark.slow)]
)
def test_two_processes_end_with_the_loss_of_one(started, tmp_path, monkeypatch, capsys):
    script = str(_ROOT / "examples" / "two_processes.py")
    monkeypatch.setattr(sys, "argv", [script, str(tmp_path)])
    runpy.run_path(script, run_name="__main__")
    alone = capsys.readouterr().out
    (tmp_path / "two_processes.png").unlink()
    said = "".join(started(script, tmp_path))
    assert "2 process(es)" in said
    assert said.count("loss") == 1  # the first process alone speaks
    assert said.split("loss")[1] == alone.split("loss")[1]
    assert (tmp_path / "two_processes.png").stat().st_size > 5_000


def test_the_page_of_examples_names_every_script():
    page = (_ROOT / "examples" / "README.md").read_text()
    assert all(f"`{script.name}`" in page for script in _SCRIPTS)


def test_the_transformer_to_be_named_in_commands_depends_on_its_generator_alone():
    pytest.importorskip("torchvision")
    build = runpy.run_path(str(_ROOT / "examples" / "networks" / "small_vit.py"))["small_vit"]
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ends = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(ends))
        network = build((3, 32, 32), 10, torch.Generator().manual_seed(seed)).eval()
        ends.append(network(x).detach())
    assert ends[0].shape == (2, 10)
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
