"""Difference rules, one operation at a time, beside the subtraction in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tangent import ScaledDifference, stability_of_activations, tangent_kernel
from tangent.kernel.products import KernelProduct
from tangent.operations import smooth
from tangent.operations.registry import Pair
from tests.zoo.plain import Net


def _square(z: Tensor) -> Tensor:
    """A positive definite matrix an input."""
    rows = z.unflatten(1, (2, 3))
    return rows @ rows.mT + 2 * torch.eye(2, dtype=z.dtype)


_PLACES = torch.tensor([0, 1, 0, 2, 3, 3])


def _chosen(z: Tensor) -> Tensor:
    """The largest two entries among infinities, as routers of experts have them."""
    values, where = z.topk(2, 1)
    return torch.full_like(z, -math.inf).scatter(1, where, values)


OPERATIONS = {
    "abs": torch.abs,
    "cholesky": lambda z: torch.linalg.cholesky(_square(z)).flatten(1),
    "determinant": lambda z: torch.linalg.det(_square(z))[:, None],
    "logarithm of a determinant": lambda z: torch.linalg.slogdet(_square(z)).logabsdet[:, None],
    "inverse": lambda z: torch.linalg.inv(_square(z)).flatten(1),
    "solution": lambda z: torch.linalg.solve(_square(z), z.unflatten(1, (2, 3))).flatten(1),
    "eigenvalues": lambda z: torch.linalg.eigvalsh(_square(z)),
    "exponential of a matrix": lambda z: torch.matrix_exp(0.1 * _square(z)).flatten(1),
    "distances by absolute values": lambda z: torch.cdist(
        z.view(-1, 3, 2), z.view(-1, 3, 2).flip(1) + 0.3, p=1.0
    ).flatten(1),
    "distances of few points": lambda z: torch.cdist(
        z.view(-1, 3, 2), z.view(-1, 3, 2).flip(1) + 0.3
    ).flatten(1),
    "complex product": lambda z: (torch.complex(z, z.flip(1)) ** 2).real,
    "products by index": lambda z: torch.ones_like(z).scatter_reduce(
        1, _PLACES.expand_as(z), z, "prod"
    ),
    "largest by index": lambda z: torch.full_like(z, -9.0).scatter_reduce(
        1, _PLACES.expand_as(z), z, "amax"
    ),
    "sums by index": lambda z: torch.zeros_like(z).index_add(1, _PLACES, z * z),
    "cumulated product": lambda z: z.cumprod(1),
    "soft plus": F.softplus,
    "soft plus, cut off early": lambda z: F.softplus(z, 3.0, 1.0),
    "sampled at moving places": lambda z: F.grid_sample(
        z.view(-1, 1, 2, 3),
        0.5 * torch.stack([z, z.flip(1)], -1).tanh().view(-1, 2, 3, 2),
        align_corners=False,
    ).flatten(1),
    "amax": lambda z: z.amax(1, keepdim=True),
    "celu": lambda z: F.celu(z, 0.7),
    "clamp": lambda z: z.clamp(-0.2, 0.4),
    "clamp between infinities": lambda z: z.clamp(-math.inf, math.inf).exp(),
    "clamp from below to infinity": lambda z: z.clamp(0.0, math.inf),
    "clamp from below": lambda z: z.clamp(min=0.1),
    "clamp from above": lambda z: z.clamp(max=0.1),
    "cosine similarity": lambda z: F.cosine_similarity(z, z.flip(1))[:, None],
    "chosen entries": lambda z: _chosen(z).sigmoid() * z,
    "chosen entries, normalized": lambda z: _chosen(z).softmax(1),
    "cumulated sum": lambda z: z.cumsum(1),
    "distance": lambda z: torch.cdist(z[:, None], z[:, None].flip(2))[:, 0],
    "elu": lambda z: F.elu(z, 1.3),
    "exponential less one": torch.expm1,
    "fourier": lambda z: torch.fft.rfft(z).abs(),
    "gated": F.glu,
    "gather": lambda z: z.gather(1, (torch.arange(6) % 3).expand(len(z), 6)),
    "hard shrink": lambda z: F.hardshrink(z, 0.3),
    "hard sigmoid": F.hardsigmoid,
    "hard swish": F.hardswish,
    "log": lambda z: (z.abs() + 0.5).log(),
    "log of one more": lambda z: z.abs().log1p(),
    "log sigmoid": F.logsigmoid,
    "log softmax": lambda z: z.log_softmax(1),
    "log sum exp": lambda z: z.logsumexp(1, keepdim=True),
    "masked softmax": lambda z: z.masked_fill(torch.arange(6) > 3, -math.inf).softmax(1),
    "maximum": lambda z: torch.maximum(z, 0.5 * z.flip(1)),
    "median": lambda z: z.median(1, keepdim=True).values,
    "minimum": lambda z: torch.minimum(z, 0.5 * z.flip(1)),
    "mish": F.mish,
    "norm": lambda z: z.norm(dim=1, keepdim=True),
    "normalize": F.normalize,
    "power": lambda z: z**3,
    "power of a half": lambda z: (z.abs() + 0.2) ** 1.5,
    "product of entries": lambda z: z.prod(1, keepdim=True),
    "reciprocal": lambda z: 1 / (2 + z * z),
    "relu6": lambda z: F.relu6(8 * z),
    "selu": F.selu,
    "soft shrink": lambda z: F.softshrink(z, 0.3),
    "softmax": lambda z: z.softmax(1),
    "soft sign": F.softsign,
    "sort": lambda z: z.sort(1).values,
    "square root": lambda z: (z.abs() + 0.3).sqrt(),
    "standard deviation": lambda z: z.std(1, keepdim=True),
    "tanh shrink": F.tanhshrink,
    "threshold": lambda z: F.threshold(z, 0.1, 0.1),
    "top": lambda z: z.topk(2, 1).values,
    "where": lambda z: torch.where(z > 0.1, z * z, z.exp()),
    "where others decide": lambda z: torch.where(z.flip(1) > 0, z, -z),
}


def network(name: str) -> Net:
    torch.manual_seed(0)
    return Net(lambda net, x: OPERATIONS[name](net.layer(x)), layer=nn.Linear(4, 6)).double()


def outputs(net: Net, delta: dict[str, Tensor], step: float, x: Tensor) -> Tensor:
    weights = {n: p.detach() + step * delta[n] for n, p in net.named_parameters()}
    return torch.func.functional_call(net, weights, (x,)).detach()


@pytest.mark.parametrize("alpha", [1.0, 1e3, 1e7, 1e12, math.inf])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_moves_as_the_network_does(name, alpha):
    net = network(name)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    module = ScaledDifference(net, alpha)
    for d in module.delta:
        d.data = torch.randn(d.shape, generator=generator, dtype=torch.float64)
    delta = dict(zip(module.names, (d.detach() for d in module.delta), strict=True))
    with torch.no_grad():
        got = module(x)
    if alpha > 1e9:  # beyond the oracle's digits: the derivative, by a central difference
        expected = (outputs(net, delta, 1e-6, x) - outputs(net, delta, -1e-6, x)) / 2e-6
    else:
        expected = alpha * (outputs(net, delta, 1 / alpha, x) - outputs(net, delta, 0.0, x))
    error = (got - expected).abs().max() / expected.abs().max()
    assert error < (1e-12 + 1e-14 * alpha if alpha < 1e9 else 1e-7)


@pytest.mark.parametrize("alpha", [1.0, 50.0, math.inf])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_the_gradient_of_the_moved_network(name, alpha):
    net = network(name)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    module = ScaledDifference(net, alpha)
    for d in module.delta:
        d.data = torch.randn(d.shape, generator=generator, dtype=torch.float64)
    out = module(x)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad(out, list(module.delta), cotangent)
    at = net if math.isinf(alpha) else module.displaced()
    expected = torch.autograd.grad(at(x), list(at.parameters()), cotangent)
    # torch keeps the constants of two of them in float32, whatever the dtype
    rtol = 2e-7 if name in ("celu", "hard sigmoid") else 1e-8
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=10 * rtol)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_the_kernel_of_its_gradients(name):
    net = network(name)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(o, list(net.parameters()))])
        for one in x
        for o in [net(one[None])[0, a] for a in range(net(x).shape[1])]
    ]
    kernel = torch.stack(rows) @ torch.stack(rows).T
    rtol = 2e-7 if name in ("celu", "hard sigmoid") else 1e-9
    near = {"rtol": rtol, "atol": rtol * float(kernel.abs().max())}
    found = tangent_kernel(net, x).reshape(kernel.shape)
    torch.testing.assert_close(found, kernel, **near)
    v = torch.cos(torch.arange(len(kernel)).double())
    torch.testing.assert_close(KernelProduct(net, x)(v), kernel @ v, **near)


def test_what_torch_has_no_derivative_of_moves_at_infinity_too():
    def net(infinity: float) -> Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(4, 6)
        parts = Net(lambda net, x: torch.special.bessel_j0(net.layer(x)), layer=layer).double()
        module = ScaledDifference(parts, infinity)
        generator = torch.Generator().manual_seed(2)
        for d in module.delta:
            d.data = torch.randn(d.shape, generator=generator, dtype=torch.float64)
        return module(torch.randn(5, 4, generator=generator, dtype=torch.float64)).detach()

    torch.testing.assert_close(net(math.inf), net(1e6), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", [1e-3, 5.0, 1e4, 1e7, 1e12])
@pytest.mark.parametrize("sign", [-1, 1])
def test_saturating_activations_keep_their_digits_at_any_step(step, sign):
    z = torch.linspace(-3, 3, 25)
    v = torch.full_like(z, sign * step)
    for rule, function in ((smooth.tanh, torch.tanh), (smooth.sigmoid, torch.sigmoid)):
        got = rule(Pair(z, v), 1.0).difference.double()
        expected = function(z.double() + sign * step) - function(z.double())
        assert (got - expected).abs().max() < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("function", [torch.exp, torch.expm1])
def test_exponentials_may_move_a_long_way_up_from_a_small_one(function):
    model = Net(lambda s, x: function(x + s.shift), shift=nn.Parameter(torch.zeros(3)))
    module = ScaledDifference(model, 1.0)
    module.delta[0].data = torch.tensor([150.0, -150.0, 0.0])
    x = torch.tensor([[-200.0, 3.0, -math.inf]])
    expected = torch.tensor([[math.exp(-50), -math.exp(3), 0.0]])
    out = module(x)
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    assert module.delta[0].grad.isfinite().all()


def test_the_share_of_a_sigmoid_that_was_wrong():
    moved = smooth.sigmoid(Pair(torch.tensor([0.3]), torch.tensor([2e6])), 1.0)
    assert float(moved.difference) == pytest.approx(0.4255575, rel=1e-6)


def test_a_choice_by_the_largest_entry_is_a_gate():
    class Choice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.linear(x)
            return scores.gather(1, scores.argmax(1, keepdim=True))

    model = Choice().double()
    with torch.no_grad():
        model.linear.weight.copy_(torch.eye(3))
    module = ScaledDifference(model, 1.0)
    with torch.no_grad():
        module.delta[0][2, 0] = 2.0  # the third score of the first input becomes the largest
    x = torch.eye(3, dtype=torch.float64)[:2]
    assert stability_of_activations(module, x) == {"argmax": 0.5}


class Experts(nn.Module):
    """Every input goes to the expert of its largest score, as in mixtures of experts."""

    def __init__(self):
        super().__init__()
        self.score, self.enter = nn.Linear(4, 3), nn.Linear(4, 8)
        self.experts = nn.Parameter(torch.randn(3, 8, 4))

    def forward(self, x: Tensor) -> Tensor:
        # One input apart from the others: places of inputs are no business of a network.
        gate, which = self.score(x).softmax(-1).max(-1)
        order = which.sort(dim=1, stable=True).indices
        ends = torch.stack([(which == e).sum(1) for e in range(3)]).cumsum(0).to(torch.int32)
        rows = self.enter(x).gather(1, order[..., None].expand(-1, -1, 8))
        out = torch.stack([self.product(r, e) for r, e in zip(rows, ends.T, strict=True)])
        back = order.argsort(1)[..., None].expand(-1, -1, 4)
        return out.gather(1, back) * gate[..., None]

    def product(self, rows: Tensor, ends: Tensor) -> Tensor:
        if rows.dtype == torch.float32:
            return torch._grouped_mm(rows, self.experts, offs=ends)
        starts = [0, *ends.tolist()[:-1]]
        return torch.cat(
            [rows[a:b] @ w for a, b, w in zip(starts, ends, self.experts, strict=True)]
        )


@pytest.mark.parametrize("alpha", [1.0, 1e3, 1e7, math.inf])
def test_products_by_groups_move_as_those_of_each_group(alpha):
    torch.manual_seed(0)
    net = Experts()
    try:
        net(torch.randn(1, 6, 4))
    except (RuntimeError, AttributeError) as error:
        pytest.skip(f"no grouped products here: {error}")
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 6, 4, generator=generator)
    module, wide = ScaledDifference(net, alpha), copy.deepcopy(net).double()
    delta = {}
    for name, d in zip(module.names, module.delta, strict=True):
        d.data = torch.randn(d.shape, generator=generator)
        delta[name] = d.detach().double()
    with torch.no_grad():
        got = module(x).double()
    weights = {n: p.detach() for n, p in wide.named_parameters()}

    def outputs(step: float) -> Tensor:
        at = {n: w + step * delta[n] for n, w in weights.items()}
        return torch.func.functional_call(wide, at, (x.double(),)).detach()

    if math.isinf(alpha):
        expected = (outputs(1e-6) - outputs(-1e-6)) / 2e-6
    else:
        expected = alpha * (outputs(1 / alpha) - outputs(0.0))
    moves = (net.score(x).argmax(-1) != displaced_scores(module, x)).any()
    assert bool(moves) == (alpha == 1.0)  # at one, some inputs change their experts
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def displaced_scores(module: ScaledDifference, x: Tensor) -> Tensor:
    at = module.network if math.isinf(module.alpha) else module.displaced()
    return at.score(x).argmax(-1)
