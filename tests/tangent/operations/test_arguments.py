"""Arguments taken apart and put together again, as torch's pytree does it."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_map

from tangent.operations.arguments import flattened, leaves_of, over_leaves, rebuilt
from tangent.operations.registry import Pair


class Point(NamedTuple):
    x: object
    y: object


TREES = {
    "a leaf": 3,
    "positional and named": ((1, [2, None], "a"), {"b": (), "a": [torch.float32]}),
    "a size": (torch.Size((2, 3)), slice(1, 2)),
    "named tuples": ([Point(1, (2, 3))], {"z": Point(None, [])}),
    "other dicts": (OrderedDict(b=1, a=[2]), {}),
    "nothing": ((), {}),
}


@pytest.mark.parametrize("name", TREES)
def test_leaves_are_those_of_torch(name):
    tree = TREES[name]
    leaves, structure = flattened(tree)
    assert leaves == leaves_of(tree) == tree_flatten(tree)[0]
    assert rebuilt(leaves, structure) == tree
    assert type(rebuilt(leaves, structure)) is type(tree)
    assert rebuilt([(leaf,) for leaf in leaves], structure) == tree_map(lambda a: (a,), tree)
    assert over_leaves(lambda a: (a,), tree) == tree_map(lambda a: (a,), tree)


def test_a_pair_is_a_leaf_wherever_it_is():
    pair = Pair(torch.ones(2))
    tree = ([pair], {"a": Point(pair, 1)})
    leaves, structure = flattened(tree)
    assert [leaf is pair for leaf in leaves] == [True, True, False]
    assert rebuilt(leaves, structure)[1]["a"].x is pair
    assert over_leaves(lambda a: a is pair, tree) == ([True], {"a": Point(True, False)})
