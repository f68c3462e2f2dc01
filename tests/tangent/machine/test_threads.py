"""Work side by side: the answers of a plain loop, one thread each, everything left as found."""

from __future__ import annotations

import pytest
import torch

from tangent.machine.threads import side_by_side


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_answers_come_in_the_order_of_the_items(threads):
    assert side_by_side(lambda i: i**2, range(20)) == [i**2 for i in range(20)]
    assert torch.get_num_threads() == threads


def test_every_item_computes_on_one_thread(threads):
    found = side_by_side(lambda _: torch.get_num_threads(), range(2 * threads))
    assert set(found) == {1}


def test_an_error_comes_out_and_the_threads_are_given_back(threads):
    def work(item):
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        side_by_side(work, range(4))
    assert torch.get_num_threads() == threads
