"""The suite's settings hold where they are easily lost."""

from __future__ import annotations

import pytest
import threadpoolctl
import torch

from experiments.runs.machine import cores


@pytest.fixture(scope="module")
def before_any_test():
    """Threads while a fixture of a module is made, which comes before those of its tests."""
    torch.ones(100, 100) @ torch.ones(100, 100)
    pools = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    return torch.get_num_threads(), pools, cores()


def test_fixtures_of_modules_and_commands_compute_in_one_thread(before_any_test):
    """Threads of two workers that wait for each other took most of the suite's time."""
    assert before_any_test == (1, {1}, 1)
