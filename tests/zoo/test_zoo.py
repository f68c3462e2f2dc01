"""Every network of the zoo is right, or refused for the right reason."""

from __future__ import annotations

import warnings

import pytest

pytestmark = pytest.mark.zoo

SOURCES = ("torch", "transformers", "torchvision", "timm")


@pytest.mark.parametrize("source", SOURCES)
def test_networks_are_right(source):
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    from tests.zoo.check import outcome_of
    from tests.zoo.networks import zoo

    wrong = []
    for name, entry in zoo().items():
        if entry.source == source:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the libraries that the networks come from
                outcome = outcome_of(name, entry)
            if not outcome.right:
                wrong.append(outcome)
    assert not wrong
