"""Faults of every kind: once or twice each in the suite, many times with ``-m faults``.

``FAULT_TRIALS`` is the number of kills of each kind of work (50), and sets the others by it.
"""

from __future__ import annotations

import os
import random
import sys

import pytest

from tests.faults.damage import DAMAGES
from tests.faults.trials import FILES, claims_trial, damage_trial, disk_trial, kill_trial
from tests.faults.works import WORKS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="signals, tmpfs and a fork server"),
    pytest.mark.timeout(3600),
]
TRIALS = int(os.environ.get("FAULT_TRIALS", "50"))


def often(quick: int, many: int):
    """Cases of a seed and a number of trials: a few in the suite, many behind the marker."""
    return pytest.mark.parametrize(
        ("seed", "trials"),
        [
            pytest.param(0, quick, id="short"),
            pytest.param(1, many, id="long", marks=pytest.mark.faults),
        ],
    )


@pytest.mark.parametrize("name", WORKS)
@often(1, TRIALS)
def test_a_killed_work_goes_on_to_the_same_bits(name, seed, trials):
    rng = random.Random(f"{name}{seed}")
    for _ in range(trials):
        assert kill_trial(name, rng) in ("killed", "had ended", "a worker killed")


@pytest.mark.parametrize("kind", FILES)
@often(1, TRIALS)
def test_a_damaged_file_is_named_or_made_again(kind, seed, trials):
    for damage in DAMAGES:
        rng = random.Random(f"{kind}{damage}{seed}")
        for _ in range(trials):
            assert damage_trial(kind, damage, rng) in ("named", "made again", "nothing changed")


@pytest.mark.parametrize("mount", [True, False])
@pytest.mark.parametrize("name", [name for name in WORKS if "two" not in name])
@often(1, max(1, TRIALS // 2))
def test_a_full_disk_is_said_and_what_is_there_is_gone_on_with(name, mount, seed, trials):
    rng = random.Random(f"{name}{seed}{mount}")
    for _ in range(trials):
        assert disk_trial(name, rng, mount=mount) in ("said", "went on")


@pytest.mark.parametrize("count", [2, 4])
@often(1, max(1, TRIALS // 2))
def test_the_claim_of_a_killed_process_is_taken_over(count, seed, trials):
    rng = random.Random(f"{count}{seed}")
    for _ in range(trials):
        assert claims_trial(count, rng) in ("killed with a claim", "had no claim")
