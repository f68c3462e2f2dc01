"""Difference propagation against the subtraction that it avoids, in float64.

The float64 oracle alpha (h(w0 + delta/alpha) - h(w0)) loses log10(alpha) of its 16 digits: at
alpha = 1e7 it is good to about 1e-8, which the tolerances allow for. Past 1e10 it is no oracle.
"""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jvp, vjp

from tangent import ScaledDifference, linearize, register_rule, resnet18, vgg11
from tangent.operations import Pair

ALPHAS = (1.0, 1e2, 1e4, 1e7)
SEEDS = st.integers(0, 2**32 - 1)


class Function(nn.Module):
    """A weight in front of any function, so that something moves."""

    def __init__(self, function, channels=4, spatial=True):
        super().__init__()
        self.first = nn.Conv2d(2, channels, 3, padding=1) if spatial else nn.Linear(6, channels)
        self.function = function

    def forward(self, x):
        return self.function(self.first(x))


class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(6, 5)
        self.register_buffer("c", torch.linspace(0, 1, 5))

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        both = torch.cat([a + b, a - 2 * b, a * b, a / (2 + b * b), self.c - a], dim=1)
        both = torch.stack([both, -both + 1], dim=1)
        return both[:, 0] * 3 + both.mean(1) + both.sum(dim=1, keepdim=True).squeeze(1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.q, self.k = nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, index):
        x = self.embed(index)
        scores = torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / math.sqrt(6), dim=-1)
        return self.norm(x + scores @ x).reshape(x.size(0), -1)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def batch_normed():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model(torch.randn(20, 2, 6, 6, generator=torch.Generator().manual_seed(1)))
    model[1].weight.data.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    return model.eval()


IMAGE = (2, 6, 6)
MODELS = {
    "linear": (lambda: nn.Linear(6, 5), (6,)),
    "linear without bias": (
        lambda: nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 2)),
        (6,),
    ),
    "convolution": (lambda: nn.Conv2d(2, 4, 3, padding=1), IMAGE),
    "grouped, strided, dilated": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=2, dilation=2, groups=2), nn.Conv2d(4, 3, (1, 2))
        ),
        IMAGE,
    ),
    "same padding": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.Conv2d(4, 2, 1)),
        IMAGE,
    ),
    "1-d convolutions": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Conv1d(3, 2, 2)),
        (2, 7),
    ),
    "functional convolution": (
        lambda: Function(lambda x: F.conv2d(x, torch.ones(3, 4, 2, 2, dtype=x.dtype))),
        IMAGE,
    ),
    "relu": (lambda: Function(F.relu), IMAGE),
    "relu method": (lambda: Function(lambda x: x.relu()), IMAGE),
    "leaky relu": (lambda: Function(nn.LeakyReLU(0.2)), IMAGE),
    "max pooling": (lambda: Function(nn.MaxPool2d(2)), IMAGE),
    "max pooling, borders left out": (lambda: Function(nn.MaxPool2d(4)), IMAGE),
    "max pooling, overlapping": (lambda: Function(nn.MaxPool2d(3, 2, padding=1)), IMAGE),
    "max pooling, dilated, ceiling": (
        lambda: Function(lambda x: F.max_pool2d(x, 2, 2, dilation=2, ceil_mode=True)),
        IMAGE,
    ),
    "adaptive max pooling": (lambda: Function(nn.AdaptiveMaxPool2d((3, None))), IMAGE),
    "average pooling": (lambda: Function(nn.AvgPool2d(2)), IMAGE),
    "adaptive average pooling": (lambda: Function(nn.AdaptiveAvgPool2d(4)), IMAGE),
    "flatten": (lambda: Function(nn.Flatten()), IMAGE),
    "view": (lambda: Function(lambda x: x.view(x.size(0), -1)), IMAGE),
    "reshape by shape": (
        lambda: Function(lambda x: x.reshape(x.shape[0], 2, -1).permute(0, 2, 1)),
        IMAGE,
    ),
    "chunks": (lambda: Function(lambda x: x.chunk(2, 1)[1] * x.chunk(2, 1)[0]), IMAGE),
    "padding with a constant": (lambda: Function(lambda x: F.pad(x, (1, 1), value=3.0)), IMAGE),
    "reflection": (lambda: Function(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")), IMAGE),
    "identity": (lambda: Function(nn.Identity()), IMAGE),
    "dropout in evaluation": (lambda: Function(nn.Dropout()).eval(), IMAGE),
    "sums and products": (Sums, (6,)),
    "batch norm in evaluation": (batch_normed, IMAGE),
    "layer norm": (lambda: Function(nn.LayerNorm([4, 6, 6])), IMAGE),
    "group norm": (lambda: Function(nn.GroupNorm(2, 4)), IMAGE),
    "softmax": (lambda: Function(nn.Softmax(dim=1)), IMAGE),
    "shared weights": (Shared, (6,)),
    "tanh": (lambda: Function(torch.tanh, spatial=False), (6,)),
    "sigmoid": (lambda: Function(nn.Sigmoid(), spatial=False), (6,)),
    "softplus": (lambda: Function(nn.Softplus(), spatial=False), (6,)),
    "softplus, beta 5": (lambda: Function(nn.Softplus(beta=5), spatial=False), (6,)),
    "gelu": (lambda: Function(nn.GELU(), spatial=False), (6,)),
    "gelu, tanh": (lambda: Function(nn.GELU("tanh"), spatial=False), (6,)),
    "silu": (lambda: Function(nn.SiLU(), spatial=False), (6,)),
    "erf": (lambda: Function(torch.erf, spatial=False), (6,)),
    "exp": (lambda: Function(torch.exp, spatial=False), (6,)),
    "sin": (lambda: Function(torch.sin, spatial=False), (6,)),
}


def displace(module: ScaledDifference, seed: int, size: float = 0.5) -> None:
    """Random displacements: of the size of the weights, so that gates switch at alpha = 1."""
    generator = torch.Generator().manual_seed(seed)
    for delta in module.delta:
        delta.data = size * torch.randn(delta.shape, generator=generator, dtype=delta.dtype)


def subtraction(module: ScaledDifference, x: torch.Tensor) -> torch.Tensor:
    """The oracle, in float64."""
    base = copy.deepcopy(module.network).double()
    moved = copy.deepcopy(base)
    weights = dict(moved.named_parameters())
    with torch.no_grad():
        for name, delta in zip(module.names, module.delta, strict=True):
            weights[name] += delta.double() / module.alpha
        x = x.double() if x.is_floating_point() else x
        return module.alpha * (moved(x) - base(x))


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    error = (actual.detach().double() - expected).abs().max()
    return (error / expected.abs().max().clamp(min=1e-300)).item()


def inputs(shape, seed, n=3, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("name", MODELS)
def test_each_rule_is_the_float64_subtraction(name, alpha):
    build, shape = MODELS[name]
    torch.manual_seed(0)  # the layers' own initialization
    module = ScaledDifference(build().double(), alpha)
    displace(module, 1)
    x = inputs(shape, 2)
    assert relative(module(x), subtraction(module, x)) < 1e-12 + 1e-14 * alpha


@pytest.mark.parametrize("name", MODELS)
def test_each_rule_at_infinity_is_the_forward_derivative(name):
    build, shape = MODELS[name]
    torch.manual_seed(0)
    module = linearize(build().double())
    displace(module, 3)
    x = inputs(shape, 4)
    assert relative(module(x), forward_derivative(module, x)) < 1e-12


@pytest.mark.parametrize("alpha", [1.0, 50.0, math.inf])
@pytest.mark.parametrize("name", MODELS)
def test_each_rules_gradient_is_the_gradient_of_the_moved_network(name, alpha):
    build, shape = MODELS[name]
    torch.manual_seed(0)
    module = ScaledDifference(build().double(), alpha)
    displace(module, 5)
    x = inputs(shape, 6)
    out = module(x)
    cotangent = inputs(out.shape, 7, n=1)[0]
    grads = torch.autograd.grad(out, list(module.delta), cotangent, materialize_grads=True)
    at = module.network if math.isinf(alpha) else module.displaced()
    weights = {n: p for n, p in at.named_parameters() if n in module.names}
    _, pullback = vjp(lambda w: functional_call(at, w, (x,)), weights)
    (expected,) = pullback(cotangent)
    for name_, grad in zip(module.names, grads, strict=True):
        torch.testing.assert_close(grad, expected[name_], rtol=1e-9, atol=1e-10)


def forward_derivative(module: ScaledDifference, x: torch.Tensor) -> torch.Tensor:
    model = copy.deepcopy(module.network).double()
    weights = {n: p.detach() for n, p in model.named_parameters() if n in module.names}
    tangents = {n: d.detach().double() for n, d in zip(module.names, module.delta, strict=True)}
    x = x.double() if x.is_floating_point() else x
    return jvp(lambda w: functional_call(model, w, (x,)), (weights,), (tangents,))[1]


@pytest.mark.parametrize("alpha", [*ALPHAS, math.inf])
def test_attention_with_an_embedding(alpha):
    torch.manual_seed(0)
    module = ScaledDifference(Attention().double(), alpha)
    displace(module, 1)
    x = torch.randint(0, 7, (3, 4), generator=torch.Generator().manual_seed(2))
    oracle = forward_derivative if math.isinf(alpha) else subtraction
    tolerance = 1e-12 if math.isinf(alpha) else 1e-12 + 1e-14 * alpha
    assert relative(module(x), oracle(module, x)) < tolerance


@given(alpha=st.sampled_from(ALPHAS), seed=SEEDS, size=st.sampled_from([0.02, 0.3]))
def test_small_networks_of_any_shape_in_float64(alpha, seed, size):
    generator = torch.Generator().manual_seed(seed)
    channels = int(torch.randint(1, 5, (), generator=generator))
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, channels, 3, stride=int(seed % 2) + 1, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 3, 2),
        nn.GELU(),
        nn.Flatten(),
    ).double()
    module = ScaledDifference(model, alpha)
    displace(module, seed, size)
    x = inputs((2, 9, 7), seed, n=1 + seed % 3)
    assert relative(module(x), subtraction(module, x)) < 1e-11 + 1e-13 * alpha


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("build", [vgg11, resnet18])
def test_float32_networks_keep_their_digits_at_every_alpha(build, alpha):
    generator = torch.Generator().manual_seed(0)
    module = ScaledDifference(build(width=0.125, generator=generator), alpha)
    displace(module, 1, 0.02)
    x = inputs((3, 32, 32), 2, dtype=torch.float32)
    # 1e-4: a gate may decide otherwise in float32 where it nearly ties; without one it is 1e-6.
    assert relative(module(x), subtraction(module, x)) < 1e-4


@given(seed=SEEDS)
def test_float32_vgg_at_infinity_is_the_forward_derivative(seed):
    generator = torch.Generator().manual_seed(seed)
    module = linearize(vgg11(width=0.05, generator=generator))
    displace(module, seed, 0.02)
    x = inputs((3, 32, 32), seed, n=2, dtype=torch.float32)
    assert relative(module(x), forward_derivative(module, x)) < 1e-3


def test_at_alpha_1e7_float32_meets_infinity_where_subtraction_does_not():
    generator = torch.Generator().manual_seed(0)
    model = vgg11(width=0.125, generator=generator)
    ours, limit = ScaledDifference(model, 1e7), linearize(model)
    for module in (ours, limit):
        displace(module, 1, 0.02)
    x = inputs((3, 32, 32), 2, n=8, dtype=torch.float32)
    expected = limit(x).detach().double()
    direct = 1e7 * (ours.displaced()(x) - model(x))
    assert relative(ours(x), expected) < 1e-3  # three digits
    assert relative(direct, expected) > 0.1  # not one


def test_smooth_activations_keep_float32_digits_everywhere():
    z = torch.linspace(-30, 30, 241)
    # torch's softplus jumps by 2e-9 at its default threshold of 20, which alpha makes visible
    softplus = nn.Softplus(threshold=60)
    for activation in (nn.Tanh(), nn.Sigmoid(), softplus, nn.SiLU(), nn.GELU("tanh")):
        for alpha in (1.0, 10.0, 1e3, 1e6):
            for step in (-5.0, -1e-3, 0.7, 40.0):
                layer = nn.Sequential(nn.Linear(1, 1), activation)
                layer[0].weight.data.fill_(1)
                layer[0].bias.data.fill_(0)
                module = ScaledDifference(layer, alpha)
                module.delta[1].data.fill_(step)
                got = module(z[:, None])[:, 0].detach().double()
                # the same rule in float64 at a scale where subtraction keeps 9 digits
                wide = copy.deepcopy(layer).double()
                base = wide(z.double()[:, None])
                wide[0].bias.data += step / alpha
                expected = alpha * (wide(z.double()[:, None]) - base)[:, 0]
                scale = expected.abs().max()
                allowed = max(3e-6 * scale, 1e-14 * alpha)  # the oracle's own digits
                assert (got - expected).abs().max() < allowed, (activation, alpha, step)


def test_zero_displacement_gives_zero_and_a_gradient():
    generator = torch.Generator().manual_seed(0)
    module = ScaledDifference(vgg11(width=0.05, generator=generator), 1e3)
    out = module(inputs((3, 32, 32), 1, dtype=torch.float32))
    assert not out.any()
    out.sum().backward()
    assert all(d.grad is not None for d in module.delta)
    assert any(d.grad.abs().max() > 0 for d in module.delta)


def test_a_frozen_weight_stays():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    module = ScaledDifference(model.double(), 2.0)
    assert module.names == ("0.bias", "2.weight", "2.bias")
    displace(module, 1)
    x = inputs((6,), 2)
    assert relative(module(x), subtraction(module, x)) < 1e-12


def test_gates_report_their_stability():
    generator = torch.Generator().manual_seed(0)
    module = ScaledDifference(vgg11(width=0.1, generator=generator).double(), 2.0)
    displace(module, 1, 0.1)
    x = inputs((3, 32, 32), 2)
    seen: dict[str, torch.Tensor] = {}
    module.pair(x, on_gate=lambda name, stable: seen.update({name: stable}))
    gates = {n for n, m in module.network.named_modules() if isinstance(m, nn.ReLU | nn.MaxPool2d)}
    assert set(seen) == gates
    moved = module.displaced()
    kept = (module.network[:1](x) > 0) == (moved[:1](x) > 0)
    assert torch.equal(seen["1"], kept)
    assert 0.4 < seen["1"].double().mean() < 1


def test_it_pickles_and_copies():
    module = ScaledDifference(vgg11(width=0.05), 10.0)
    displace(module, 1, 0.02)
    x = inputs((3, 32, 32), 2, dtype=torch.float32)
    for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        torch.testing.assert_close(twin(x), module(x), rtol=0, atol=0)


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).abs()


class Doubling(nn.Module):
    def forward(self, x):
        for _ in range(int(x.sum() > 0)):
            x = 2 * x
        return 2 * x


@pytest.mark.parametrize("alpha", [*ALPHAS, math.inf])
@pytest.mark.parametrize("layer", [Spectrum, Doubling])
def test_operations_without_a_rule_and_branches_on_values_are_right(layer, alpha):
    torch.manual_seed(0)
    module = ScaledDifference(nn.Sequential(nn.Linear(6, 3), layer()).double(), alpha)
    displace(module, 1)
    oracle = forward_derivative if math.isinf(alpha) else subtraction
    x = inputs((6,), 1)
    for sign in (1, -1):
        got, expected = module(sign * x[:1]), oracle(module, sign * x[:1])
        assert relative(got, expected) < 1e-12 + 1e-14 * alpha if alpha < 1e9 else 1e-12


def test_a_module_with_a_rule_of_its_own_is_one_operation():
    class Tripling(nn.Module):
        def forward(self, x):
            return 3 * x

    seen = []

    @register_rule(Tripling)
    def _(alpha, module, weights, x):
        seen.append(type(module))
        return Pair(3 * x.base, 5 * x.difference)

    module = ScaledDifference(nn.Sequential(nn.Linear(6, 3), Tripling()).double(), 1.0)
    displace(module, 1)
    x = inputs((6,), 1)
    assert relative(module(x), subtraction(module, x) * 5 / 3) < 1e-12
    assert seen[0].__name__ == "Tripling"


@pytest.mark.parametrize("alpha", [0, -1.0, math.nan, "1"])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ValueError, match="alpha must be positive"):
        ScaledDifference(nn.Linear(2, 2), alpha)


@pytest.mark.parametrize(
    ("layer", "message"),
    [(nn.BatchNorm1d(4), "mixes the inputs of a batch"), (nn.Dropout(), r"call model\.eval")],
)
def test_training_mode_is_refused_with_the_way_out(layer, message):
    module = ScaledDifference(nn.Sequential(nn.Linear(6, 4), layer).double(), 1.0)
    with pytest.raises(ValueError, match=message):
        module(inputs((6,), 1))


def test_a_network_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="nothing can move"):
        ScaledDifference(nn.Linear(2, 2).requires_grad_(False), 1.0)


class TwoReaders(nn.Module):
    """A ReLU that a pooling and a sum read: it has to stay where it is."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.first(x))
        return F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)


@pytest.mark.parametrize("alpha", [1.0, 1e4, math.inf])
@pytest.mark.parametrize(
    "model",
    [
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 3, 3)
        ),
        lambda: Function(lambda x: F.max_pool2d(x.relu(), 4)),
        TwoReaders,
    ],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_before_relu_changes_no_value_and_no_gradient(generator, model, alpha, layout):
    module = ScaledDifference(model().double(), alpha).to(memory_format=layout)
    for delta in module.delta:
        nn.init.normal_(delta, generator=generator)
    x = torch.randn(3, *IMAGE, generator=generator, dtype=torch.float64)
    x = x.contiguous(memory_format=layout)
    fast = module(x)
    slow = module.pair(x, on_gate=lambda name, stable: None).difference
    torch.testing.assert_close(fast, slow)
    weights = torch.randn(fast.shape, generator=generator, dtype=torch.float64)
    grads = [torch.autograd.grad(u, list(module.delta), weights) for u in (fast, slow)]
    torch.testing.assert_close(*grads)


def test_the_gates_are_watched_in_the_order_of_the_network():
    seen = []
    module = ScaledDifference(vgg11(width=0.02, generator=torch.Generator().manual_seed(0)), 10.0)
    with torch.no_grad():
        module.delta[0].normal_(generator=torch.Generator().manual_seed(1))
        module.pair(torch.ones(1, 3, 32, 32), on_gate=lambda name, stable: seen.append(stable))
    assert [tuple(s.shape[2:]) for s in seen[:4]] == [(32, 32), (16, 16), (16, 16), (8, 8)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("alpha", [1.0, math.inf])
def test_where_the_caller_wants_no_gradients_no_graph_is_kept(mode, alpha):
    model = ScaledDifference(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), alpha)
    x = torch.randn(3, 6)
    assert model(x).requires_grad
    with mode():
        pair = model.pair(x)
        assert not model(x).requires_grad
    assert not pair.base.requires_grad
    assert pair.difference.grad_fn is None
    assert model(x).requires_grad


def test_a_loop_that_calls_train_trains_the_linearization_of_the_evaluated_network(generator):
    layers = [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.ReLU(), nn.Linear(5, 2)]
    network = nn.Sequential(*layers).eval()
    linear, x = linearize(network), torch.randn(7, 6, generator=generator)
    optimizer = torch.optim.SGD(linear.parameters(), 0.1)
    linear.train()
    linear(x).sum().backward()
    optimizer.step()
    assert linear.training
    trained = linear(x)
    assert trained.abs().max() > 0
    assert torch.equal(linear.eval()(x), trained)
    # given in training mode it is refused, and eval() helps
    other = linearize(network.train())
    with pytest.raises(ValueError, match="training mode"):
        other.train()(x)
    assert torch.equal(other.eval().train()(x), torch.zeros(7, 2))
