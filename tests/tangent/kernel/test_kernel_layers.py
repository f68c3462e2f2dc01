from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tangent.kernel.engine.factors
from tangent.kernel.engine.cost import Problem
from tangent.kernel.engine.passes import planned_factors
from tangent.kernel.engine.plan import network_of
from tangent.kernel.features import tangent_features
from tangent.kernel.matrix import tangent_kernel
from tangent.machine import products
from tests.tangent.naive import naive_features, naive_kernel
from tests.tangent.networks import MODELS, example

ORDERS = ("jacobian", "half", "gram")


def force(monkeypatch, order: str) -> None:
    """Let every layer take ``order``, where that has a meaning for it."""

    def chosen(shape, problem, rates, *, one_hot=False):
        if order == "half" and not problem.full:
            return "gram"
        return order

    monkeypatch.setattr(tangent.kernel.engine.factors, "cheapest", chosen)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_gives_the_full_kernel(name, order, monkeypatch):
    force(monkeypatch, order)
    model, x = example(name, 5, seed=1)
    expected = naive_kernel(model, x)
    torch.testing.assert_close(tangent_kernel(model, x), expected)
    torch.testing.assert_close(tangent_kernel(model, x[:2], x[1:]), expected[:2, :, 1:])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("order", ["jacobian", "gram"])
@pytest.mark.parametrize("outputs", ["diagonal", "trace", "pseudo", 1])
def test_every_order_gives_the_parts_of_the_kernel(name, order, outputs, monkeypatch):
    force(monkeypatch, order)
    model, x = example(name, 4, seed=2)
    full = naive_kernel(model, x)
    diagonal = torch.einsum("iaja->ija", full)
    expected = {
        "diagonal": diagonal,
        "trace": diagonal.sum(2),
        "pseudo": full.sum((1, 3)) / full.shape[1],
        1: diagonal[:, :, 1],
    }[outputs]
    torch.testing.assert_close(tangent_kernel(model, x, outputs=outputs), expected)
    rectangle = tangent_kernel(model, x[:3], x[2:], outputs=outputs)
    torch.testing.assert_close(rectangle, expected[:3, 2:])


@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(sorted(MODELS)))
def test_the_chosen_orders_give_the_kernel(seed, name):
    model, x = example(name, 3, seed)
    torch.testing.assert_close(tangent_kernel(model, x), naive_kernel(model, x))


def layers_without_a_rule(name: str) -> set[str]:
    model, x = example(name, 3, seed=4)
    plan, _ = planned_factors(network_of(model, "full"), Problem(3, 3, True, True), x)
    return plan.opaque


def test_no_parameter_is_left_to_the_jacobian_but_where_gradients_are_cut():
    for name in MODELS:
        left = layers_without_a_rule(name)
        assert ("second.weight" in left) if name == "no_grad branch" else not left


class ByHand(torch.nn.Module):
    """A linear layer written as a product."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(3, 400))
        self.b = torch.nn.Parameter(torch.randn(3))

    def forward(self, x):
        return x @ self.w.T + self.b


class Masked(torch.nn.Module):
    """An embedding whose padding is overwritten in place."""

    def __init__(self):
        super().__init__()
        self.w, self.head = torch.nn.Embedding(500, 8), torch.nn.Linear(8, 2)

    def forward(self, i):
        h = self.w(i)
        h.masked_fill_((i == 0)[..., None], 0.0)
        return self.head(h.mean(1))


class Padded(torch.nn.Module):
    """An embedding that learns nothing of its padding."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Embedding(500, 8, padding_idx=0)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, i):
        return self.head(self.w(i).mean(1).tanh())


def table(read, mode="mean"):
    """A network whose first parameter, ``w.weight``, is a table of rows that ``read`` looks at."""

    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.EmbeddingBag(500, 8, mode=mode, padding_idx=3)
            self.head = torch.nn.Linear(8, 2)

        def forward(self, i):
            return self.head(read(self.w, i).tanh())

    return Table


def weighted(w, i):
    return w(i, per_sample_weights=(i + 1).to(w.weight) / 500)


def selected(w, i):
    return w.weight.index_select(0, i.flatten()).unflatten(0, i.shape).mean(1)


TABLES = {
    "mean of a bag": table(lambda w, i: w(i)),
    "sum of a bag": table(lambda w, i: w(i), "sum"),
    "weighted sum of a bag": table(weighted, "sum"),
    "index": table(lambda w, i: w.weight[i].mean(1)),
    "index from the end": table(lambda w, i: w.weight[i - 500].mean(1)),
    "index_select": table(selected),
    "index of a transposed table": table(lambda w, i: w.weight.T.T[i].mean(1)),
}


LARGE = {"by hand": ByHand, "masked": Masked, "padded": Padded, **TABLES}


@pytest.mark.parametrize("name", LARGE)
def test_no_gradient_of_a_large_weight_is_written_out(name):
    kind = LARGE[name]
    model = kind().double()
    x = torch.randn(6, 400).double() if kind is ByHand else torch.randint(0, 500, (6, 4))
    if kind is not ByHand:
        x[0] = torch.tensor([3, 3, 0, 1])
        x[1] = 3
    plan, factors = planned_factors(network_of(model, "full"), Problem(6, 6, True, True), x)
    assert not plan.opaque
    (large,) = (factor for name, factor in factors.items() if name.startswith("w"))
    assert large.gradients.numel() == 0
    torch.testing.assert_close(tangent_kernel(model, x), naive_kernel(model, x))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("order", ORDERS)
def test_tables_give_the_kernel_in_every_order(name, order, monkeypatch):
    force(monkeypatch, order)
    model = TABLES[name]().double()
    x = torch.randint(0, 6, (5, 7))
    expected = naive_kernel(model, x)
    torch.testing.assert_close(tangent_kernel(model, x), expected)
    phi = torch.cat(list(naive_features(model, x).values()), 2)
    torch.testing.assert_close(tangent_features(model, x), phi)


def test_a_path_that_differs_between_inputs_has_zeros_where_it_does_not_lead(generator):
    class Forked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)

        def forward(self, x):
            return torch.stack([self.one(v) if v[0] > 0 else self.two(v) for v in x])

    model = Forked().double()
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    assert 0 < int((x[:, 0] > 0).sum()) < 6
    torch.testing.assert_close(tangent_kernel(model, x), naive_kernel(model, x))
    torch.testing.assert_close(
        tangent_kernel(model, x[:2], x[2:], batch_size=1), naive_kernel(model, x[:2], x[2:])
    )


def test_rows_with_gaps_do_not_go_to_the_library_that_is_slow_on_them(monkeypatch, generator):
    def unreachable():
        raise AssertionError("asked for oneDNN")

    monkeypatch.setattr(products, "_has_onednn", unreachable)
    a = torch.randn(40, 3, 512, generator=generator)
    torch.testing.assert_close(products.product(a[:, 1], a[:, 2]), a[:, 1] @ a[:, 2].T)


class TwoUses(nn.Module):
    """A matrix and a vector that several operations take, one by one."""

    def __init__(self, function):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))
        self.function = function

    def forward(self, x):
        return self.function(x, self.w, self.b)


def _addmm(x, w, b):
    return torch.addmm(b, x, w, beta=0.5, alpha=2.0)


TWO_USES = {
    "bias and PReLU": lambda x, w, b: F.prelu(F.linear(x, w, b), b),
    "sum and PReLU": lambda x, w, b: F.prelu(x @ w + b, b),
    "chosen and summed": lambda x, w, b: torch.where(x > 0, x, b) + b,
    "maximum and norm": lambda x, w, b: F.layer_norm(torch.maximum(x, b), (8,), b, b),
    "matrix and scaled matrix": lambda x, w, b: _addmm(torch.tanh(x @ w), w, b),
    "both twice": lambda x, w, b: _addmm(torch.tanh(F.linear(x, w, b)), w, b),
    "turned matrix": lambda x, w, b: _addmm(torch.tanh(x @ w), w.t(), b),
    "matrix and distances": lambda x, w, b: torch.cdist(F.linear(x, w), w),
    "embedding and output": lambda x, w, b: F.linear(
        torch.sin(F.embedding((x[:, 0] > 0).long(), w) * x), w
    ),
    "matrix made of itself": lambda x, w, b: F.linear(F.linear(x, w), w / w.norm()),
}


@pytest.mark.parametrize("name", TWO_USES)
def test_a_parameter_with_uses_of_several_kinds_has_all_of_its_gradient(name, generator):
    network = TwoUses(TWO_USES[name]).double()
    x = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    phi = torch.cat(list(naive_features(network, x).values()), 2)
    found = tangent_features(network, x)
    torch.testing.assert_close(found, phi)
    torch.testing.assert_close(tangent_features(network, x, batch_size=2), phi)
    kernel = torch.einsum("iap,jbp->iajb", phi, phi)
    torch.testing.assert_close(tangent_kernel(network, x), kernel)
    diagonal = torch.einsum("iajb,ab->ij", kernel, torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(tangent_kernel(network, x, outputs="trace"), diagonal)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_parameters_without_entries_have_no_share(generator):
    network = nn.AdaptiveLogSoftmaxWithLoss(4, 9, [3, 6])  # whose last part has no weights
    network.forward = network.log_prob
    network = network.double()
    assert any(p.numel() == 0 for p in network.parameters())
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    phi = torch.cat(list(naive_features(network, x).values()), 2)
    torch.testing.assert_close(tangent_features(network, x), phi)
    kernel = torch.einsum("iap,jbp->iajb", phi, phi)
    torch.testing.assert_close(tangent_kernel(network, x), kernel)
    torch.testing.assert_close(sum(tangent_kernel(network, x, per_layer=True).values()), kernel)


class Reading(torch.nn.Module):
    """A table and layers behind it, used in a way that the input's values decide."""

    def __init__(self, way):
        super().__init__()
        self.w, self.mid = torch.nn.Embedding(300, 8), torch.nn.Linear(8, 8)
        self.head, self.way = torch.nn.Linear(8, 2), way

    def forward(self, i):
        hidden = [self.way(self, self.w(row), bool((row > 3).all())).mean(0) for row in i]
        return self.head(torch.stack(hidden))


WAYS = {
    "elsewhere": lambda m, h, large: m.mid(h).tanh() if large else h.sin(),
    "the parameters alike": lambda m, h, large: m.mid(h.tanh() if large else h.sin()),
    "one twice": lambda m, h, large: m.mid(m.mid(h) if large else h).tanh(),
    "turned": lambda m, h, large: (m.mid(h) if large else h @ m.mid.weight).tanh(),
    "scaled": lambda m, h, large: (h @ (m.mid.weight * (2 if large else 3)).T).tanh(),
    "fewer tokens": lambda m, h, large: m.mid(h[: 2 if large else 3]).tanh(),
    "the first never": lambda m, h, large: (h if large else m.mid(h)).tanh(),
    "the first alone": lambda m, h, large: (m.mid(h) if not large else h).tanh(),
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("order", ["jacobian", "gram", "as planned"])
def test_networks_that_look_at_values_have_the_kernel(name, order, monkeypatch):
    if order != "as planned":
        force(monkeypatch, order)
    model = Reading(WAYS[name]).double()
    x = torch.tensor([[5, 7, 9, 4], [1, 7, 9, 5], [8, 8, 2, 5], [9, 9, 9, 4], [0, 2, 2, 1]])
    for some in (x, x.flip(0)):
        expected = naive_kernel(model, some)
        torch.testing.assert_close(tangent_kernel(model, some), expected)
        parts = tangent_kernel(model, some[:3], some[2:], batch_size=2)
        torch.testing.assert_close(parts, expected[:3, :, 2:])


def test_where_values_change_nothing_for_a_large_table_it_is_not_written_out():
    model = Reading(WAYS["the parameters alike"]).double()
    x = torch.tensor([[5, 7, 9, 4], [1, 7, 9, 5]])
    network = network_of(model, "full")
    _, factors = planned_factors(network, Problem(2, 2, True, True), x, alike=True)
    assert factors["w.weight"].gradients.numel() == 0
    other = network_of(Reading(WAYS["elsewhere"]).double(), "full")
    with pytest.raises(tangent.kernel.engine.factors.Differing):
        planned_factors(other, Problem(2, 2, True, True), x, alike=True)
