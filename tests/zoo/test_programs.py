"""Networks drawn at random, some of them in the suite; more: ``python -m tests.zoo.programs``."""

from __future__ import annotations

import pytest

from tests.zoo import programs
from tests.zoo.programs import KINDS, Step, drawn, faults, smallest


@pytest.mark.parametrize("kind", ["function", "layer"])
def test_every_function_and_layer_alone_is_right(kind):
    for name in KINDS[kind][1]:
        found = faults((Step(kind, name, -1, 0, "whole"),), 1)
        assert found == [], name


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_programs_drawn_at_random_are_right(start):
    found = {seed: faults(drawn(seed), seed) for seed in range(start, start + 20)}
    assert not {seed: f for seed, f in found.items() if f}
    assert sum(f is not None for f in found.values()) > 8


def test_a_fault_is_found_and_made_small(monkeypatch):
    def wrong(network, x):
        found = right(network, x)
        return found * 2 if any(step.name == "tanh" for step in network.steps) else found

    right = programs.tangent_features
    monkeypatch.setattr(programs, "tangent_features", wrong)
    tanh, linear = (
        Step(k, n, -1, 0, "whole") for k, n in (("function", "tanh"), ("layer", "linear"))
    )
    assert faults((linear,), 0) == []
    assert faults((linear, tanh, linear), 0) == ["features: off by 1"]
    assert smallest((linear, tanh, linear), 0) == (tanh,)
