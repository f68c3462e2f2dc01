"""What is left of a command, said with every run."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.runs import countdown
from experiments.runs.costs import Cost


@pytest.fixture
def three(monkeypatch):
    known = Cost("toy", {"number": 1}, 600.0, None, 1)
    monkeypatch.setattr(countdown, "kept_costs", lambda: [known])
    paths = [Path(f"{i}.json") for i in range(3)]
    return countdown.Countdown("toy", [({"number": 1, "seed": i}, paths[i]) for i in range(3)]), paths  # fmt: skip  # noqa: E501


def test_what_is_left_comes_from_estimates_until_runs_correct_them(three):
    left, paths = three
    assert left.left(paths) == ", about 30 minutes of CPU time left"
    left.took(paths[0], 300.0)  # twice as fast as expected
    assert left.left(paths[1:]) == ", about 10 minutes of CPU time left"


def test_runs_of_unknown_length_are_counted_or_nothing_is_said(three):
    left, paths = three
    other = Path("other.json")
    assert left.left([paths[0], other]).endswith("left and 1 runs of unknown length")
    assert left.left([other]) == ""
