"""What is written in place, and the operation that returns it instead."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tangent import ScaledDifference, tangent_features, tangent_kernel
from tangent.capture.writes import _Cloned, functional
from tests.tangent.naive import naive_features

aten = torch.ops.aten


def in_place():
    schemas = torch._C._jit_get_all_schemas()
    names = {s.name for s in schemas if s.name.startswith("aten::") and s.name.endswith("_")}
    for name in sorted(n for n in names if not n.endswith("__")):
        packet = getattr(aten, name.removeprefix("aten::"))
        yield from (getattr(packet, overload) for overload in packet.overloads())


def test_what_returns_instead_takes_the_same_arguments():
    checked = 0
    for func in in_place():
        found = functional(func)
        if isinstance(found, _Cloned) or not hasattr(found, "_schema"):
            continue
        mine, theirs = ([str(a.type) for a in f._schema.arguments] for f in (func, found))
        assert mine == theirs, (func, found)
        checked += 1
    assert checked > 200


class Within(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)
        self.function = function

    def forward(self, x):
        return self.last(self.function(1 * self.first(x)))


@pytest.mark.parametrize(
    "function",
    [
        lambda z: z.square_(),
        lambda z: z.pow_(3),
        lambda z: z.square().add_(1).float_power_(1.5),
        lambda z: z.ldexp_(torch.tensor([1, 2, 0, 1])),
    ],
)
def test_powers_in_place_are_as_others(function, generator):
    network = Within(function).double()
    x = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    phi = torch.cat([g.flatten(2) for g in naive_features(network, x).values()], 2)
    torch.testing.assert_close(tangent_features(network, x), phi)
    torch.testing.assert_close(tangent_kernel(network, x), torch.einsum("iap,jbp->iajb", phi, phi))
    for alpha in (1.0, 1e3, math.inf):
        made = ScaledDifference(network, alpha)
        with torch.no_grad():
            for d in made.delta:
                d.add_(0.1 * torch.randn(d.shape, generator=generator, dtype=d.dtype))
        if math.isinf(alpha):
            expected = phi @ torch.cat([d.detach().flatten() for d in made.delta])
        else:
            expected = alpha * (made.displaced()(x) - network(x))
        torch.testing.assert_close(made(x), expected, rtol=1e-8, atol=1e-9)
