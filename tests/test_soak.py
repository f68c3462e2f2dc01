"""Soak: many fits in a process leave its memory and its file descriptors where they were."""

from __future__ import annotations

import pytest

from tests.faults.__main__ import page
from tests.faults.soak import Soak, soaked

# MiB that resident memory may differ between two parts of a run: the allocator's own ups and
# downs. A fit's data, forgotten in each of the fits between, would be six times that.
ALLOWED = 16


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_two_hundred_fits_leave_memory_and_descriptors_level():
    found = soaked()
    early, late = found.parts
    assert late - early < ALLOWED
    assert len(set(found.open_files)) == 1


def test_what_is_left_is_of_the_fits_after_the_first_quarter():
    found = Soak([9.0, 9.0, 3.0, 3.0, 3.0, 4.0, 5.0, 7.0], [9, 9, 3, 4, 3, 3, 3, 3])
    assert found.parts == (3.0, 6.0)
    assert found.open_files == (3, 4)


def test_the_page_says_what_the_soak_left():
    machine = {"cpu": "a CPU", "versions": {"torch": "1"}, "commit": "c"}
    faults = {"trials": 1, "damages": 1, "seed": 0, "seconds": 60, "machine": machine, "rows": []}
    assert "## Soak" not in page(faults)
    soak = {"memory": [9.0, 9.0, 3.0, 3.0, 3.0, 4.0, 5.0, 7.0], "descriptors": [9, 9, *6 * [3]]}
    text = page({**faults, "soak": {**soak, "seconds": 120, "machine": machine}})
    assert "8 fits of five estimators in one process" in text
    assert "from 3 MiB (the median over the second quarter of the fits) to 6 MiB" in text
    assert "from 3 to 3 files are open" in text
