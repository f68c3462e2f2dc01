from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tangent import tangent_kernel
from tangent.kernel.engine.passes import backward
from tangent.kernel.engine.plan import network_of
from tangent.operations.partial import Partial, Span, dense, merged, widened
from tests.tangent.naive import naive_kernel


class Reader(nn.Module):
    """Attention over seven tokens, of which ``part`` is read."""

    def __init__(self, part, fused: bool):
        super().__init__()
        self.part, self.fused = part, fused
        self.place = nn.Parameter(torch.randn(7, 8))
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.inner = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        x = x + self.place
        z = self.qkv(self.norms[0](x))
        if self.fused:
            q, k, v = z.view(n, t, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            z = z.view(n, t, 3, 2, 4).permute(2, 0, 3, 1, 4).contiguous()
            q, k, v = z[0], z[1], z[2]
        weights = (q @ k.transpose(-2, -1) / 2).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, t, 8))
        x = self.norms[2](x + self.inner(self.norms[1](x)))
        read = x[:, self.part]
        return self.head(read if read.dim() == 2 else read.mean(1))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("part", [0, -1, slice(1, 3), slice(1, None), slice(None, None, 2)])
def test_a_kernel_of_what_reads_some_tokens_is_that_of_plain_autograd(part, fused):
    torch.manual_seed(0)
    model = Reader(part, fused).double()
    x = torch.randn(4, 7, 8, dtype=torch.float64)
    expected = naive_kernel(model, x)
    torch.testing.assert_close(tangent_kernel(model, x), expected)
    torch.testing.assert_close(tangent_kernel(model, x[:1], x[1:]), expected[:1, :, 1:])


def test_layers_behind_the_token_that_is_read_look_at_it_alone():
    torch.manual_seed(0)
    model, x = Reader(0, True), torch.randn(4, 7, 8)
    positions = {}

    def take(name, pieces):
        for piece in pieces:
            if piece.patches is not None:
                positions[name] = piece.patches.positions

    backward(network_of(model, "full"), x, take)
    assert positions == {
        "head.weight": 1, "inner.0.weight": 1, "inner.2.weight": 1, "out.weight": 1,
        "qkv.weight": 7,
    }  # fmt: skip


class Twice(nn.Module):
    """A token that is read twice, beside the mean of all."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 2)
        self.stack = nn.Parameter(torch.randn(2, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        turned = self.stack.transpose(1, 2).unsqueeze(0)
        h = (self.first(x) @ turned[0, 0] + turned[0, 1, 0]).tanh()
        one = h[:, 0] + 2 * h[:, 0].sin() + h[:, 1]
        return self.second(one + h[:, 1:3].mean(1)) + self.second(h.mean(1))


class Alone(nn.Module):
    """A norm of values that have no axis but its own."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(5, 5), nn.LayerNorm(5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = [self.second(self.norm(self.first(one))) for one in x]
        return torch.stack(rows)


def test_gradients_that_are_kept_are_not_written_into():
    torch.manual_seed(0)
    model, x = Alone().double(), torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(tangent_kernel(model, x), naive_kernel(model, x))


def test_parts_that_overlap_and_a_whole_are_summed():
    torch.manual_seed(0)
    model, x = Twice().double(), torch.randn(3, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(tangent_kernel(model, x), naive_kernel(model, x))


def test_parts_and_wholes_sum_alike_in_any_order():
    generator = torch.Generator().manual_seed(0)
    spans = [((Span(0, 1, 2),), (2, 5)), ((Span(0, 2, 1), Span(1, 0, 3)), (1, 3))]
    draws = [(torch.randn(2, 3, *shape, generator=generator), at) for at, shape in spans]
    parts = [Partial((4, 5), (draw,)) for draw in draws]
    whole = torch.randn(2, 3, 4, 5, generator=generator)
    expected = whole.clone()
    expected[:, :, 1:3] += draws[0][0]
    expected[:, :, 2:3, 0:3] += draws[1][0]
    before = whole.clone()
    one = merged(merged(parts[0], parts[1], False), whole, False)
    two = merged(merged(whole, parts[0], False), parts[1], False)
    for found in (one, two, dense(merged(parts[1], merged(parts[0], whole, False), False))):
        torch.testing.assert_close(found, expected)
    assert torch.equal(whole, before)
    mine = whole.clone()
    assert merged(mine, parts[0], True) is mine


def test_a_part_of_a_part_lies_where_both_say():
    d = torch.ones(1, 1, 2)
    inner = Partial((3,), ((d, (Span(0, 1, 2),)),))
    found = widened(inner, Span(0, 4, 3), (9,)).dense()
    assert found.flatten().tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0]
