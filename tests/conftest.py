"""Fixtures and settings of the suite."""

from __future__ import annotations

import gc
import os

# One thread a worker and a process it starts: the suite runs one worker a core, and threads that
# wait for each other there spend many times the work. Before any library counts the cores.
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import matplotlib
import threadpoolctl

from tests.shapes import check

threadpoolctl.threadpool_limits(1)  # of numpy, which a plugin may have imported before
matplotlib.use("Agg")
# Before the packages are imported: their array annotations are checked while the tests run.
check(("tangent", "baselines", "experiments"))

import pytest  # noqa: E402  (after the hook)
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "suite",
    deadline=None,  # a first call compiles or allocates; times are for benchmarks
    max_examples=15,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")


def pytest_collection_finish():
    """Leave what was imported and collected out of every later garbage collection.

    It stays to the end; a full collection, which every run of an experiment begins with, would go
    through its some million objects each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread():
    """One thread again after a test that takes more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """Folder of the CIFAR-10 archive, from the variable TANGENT_TEST_DATA."""
    folder = os.environ.get("TANGENT_TEST_DATA")
    if not folder:
        pytest.skip("TANGENT_TEST_DATA is not set: no CIFAR-10 on this machine")
    return Path(folder)
