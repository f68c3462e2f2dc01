"""Operations run on many inputs at once, beside the same input by input."""

from __future__ import annotations

import itertools

import pytest
import torch

from tangent.operations.batched import Many, run_batched

BAG = torch.ops.aten._embedding_bag.default
STARTS = ([0], [0, 2], [0, 2, 2], [0, 6])
FACTORS = {"none": None, "shared": torch.arange(6.0), "each": Many(torch.rand(5, 6))}
SUM, MEAN, LARGEST = range(3)


@pytest.mark.parametrize(
    ("mode", "factors"),
    [(SUM, "none"), (SUM, "shared"), (SUM, "each"), (MEAN, "none"), (LARGEST, "none")],
)
@pytest.mark.parametrize("padding", [-1, 3])
@pytest.mark.parametrize("starts", STARTS, ids=str)
def test_bags_of_many_inputs_are_those_of_each(mode, factors, padding, starts, generator):
    weight = torch.randn(9, 4, generator=generator)
    index = torch.randint(9, (5, 6), generator=generator)

    def args(index, factors):
        return weight, index, torch.tensor(starts), False, mode, False, factors, False, padding

    found = run_batched(BAG, args(Many(index), FACTORS[factors]), {})
    given = FACTORS[factors]
    rows = given.t if isinstance(given, Many) else itertools.repeat(given)
    for i, (one, row) in enumerate(zip(index, rows, strict=False)):
        for some, expected in zip(found, BAG(*args(one, row)), strict=True):
            torch.testing.assert_close(some[i], expected)
