"""Operations made of others: the same values, and second derivatives that are right both ways."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.func import jvp, vjp

from tangent.operations.elementary import twice_differentiable

F64 = torch.float64


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


W, B, G = draw(4, seed=1), draw(4, seed=2), draw(3, 1, seed=3).abs() + 1
INDEX = torch.tensor([[0, 2, 0], [1, 0, 0]])
BAGS = torch.tensor([[0, 2, 2], [1, 0, 3]])

WRONG_FORWARDS = {
    "layer norm": (lambda x: F.layer_norm(x, (4,), W, B), (2, 3, 4)),
    "layer norm of two axes": (lambda x: torch.layer_norm(x, (3, 4)), (2, 3, 4)),
    "instance norm": (lambda x: F.instance_norm(x, weight=W, bias=B), (2, 4, 3)),
    "instance norm of torch": (
        lambda x: torch.instance_norm(x, W, B, None, None, True, 0.1, 1e-5, False),
        (2, 4, 3),
    ),
    "batch norm": (lambda x: F.batch_norm(x, None, None, W, B, True), (3, 4, 3)),
    "batch norm of torch": (
        lambda x: torch.batch_norm(x, W, B, None, None, True, 0.1, 1e-5, False),
        (3, 4, 3),
    ),
    "solve": (lambda x: torch.linalg.solve(x, x * x), (3, 3)),
    "solve from the right": (lambda x: torch.linalg.solve(x, x * x, left=False), (3, 3)),
    "solve a vector": (lambda x: torch.linalg.solve(x, x[0] ** 2), (3, 3)),
    "det": (torch.det, (3, 3)),
    "logdet": (lambda x: torch.logdet(x @ x.T), (3, 3)),
    "slogdet": (lambda x: torch.linalg.slogdet(x).logabsdet, (2, 3, 3)),
    "products by index": (
        lambda x: (x[0, 0] ** 2 + draw(3, 3)).scatter_reduce(0, INDEX, x, "prod"),
        (2, 3),
    ),
    "products by index alone": (
        lambda x: torch.scatter_reduce(x, 1, INDEX, x * x, "prod", include_self=False),
        (2, 3),
    ),
    "products by index in place": (
        lambda x: torch.ones(3, 3, dtype=F64).scatter_reduce_(-1, INDEX, x, "prod"),
        (2, 3),
    ),
    "householder": (lambda x: torch.linalg.householder_product(x, x[0] ** 2), (4, 3)),
}
MISSING = {
    "distances": (lambda x: torch.cdist(x, x.flip(1) + 0.3), (2, 3, 2)),
    "distances by absolute values": (lambda x: torch.cdist(x, x * x + 0.3, p=1.0), (2, 3, 2)),
    "largest distances": (lambda x: torch.cdist(x, x * x + 9, p=float("inf")), (2, 3, 2)),
    "glu": (lambda x: F.glu(x, 1), (2, 4, 3)),
    "hardsigmoid": (lambda x: F.hardsigmoid(x * x), (2, 4)),
    "embedding bag": (lambda x: F.embedding_bag(BAGS, x * x), (4, 2)),
    "weight norm": (lambda x: torch._weight_norm(x, G * x[:, :1] ** 2, 0), (3, 4)),
    "attention": (lambda x: F.scaled_dot_product_attention(x, 2 * x, x + 1), (2, 1, 3, 4)),
}
RIGHT = {
    "group norm": (lambda x: F.group_norm(x, 2, W, B), (2, 4, 3)),
    "RMS norm": (lambda x: F.rms_norm(x, (4,), W), (2, 3, 4)),
    "batch norm of fixed statistics": (
        lambda x: F.batch_norm(x * x, W, W * W, W, B, False),
        (2, 4, 3),
    ),
    "instance norm of fixed statistics": (
        lambda x: F.instance_norm(x * x, B, W * W, W, B, use_input_stats=False),
        (2, 4, 3),
    ),
    "softmax": (lambda x: F.softmax(x, -1), (2, 4)),
    "log-softmax": (lambda x: F.log_softmax(x, -1), (2, 4)),
    "GELU": (F.gelu, (2, 4)),
    "GELU of tanh": (lambda x: F.gelu(x, approximate="tanh"), (2, 4)),
    "SiLU": (F.silu, (2, 4)),
    "Mish": (F.mish, (2, 4)),
    "softplus": (F.softplus, (2, 4)),
    "normalize": (F.normalize, (2, 4)),
    "deviation": (lambda x: x.std(1), (2, 4)),
}
EVERY = {**WRONG_FORWARDS, **MISSING, **RIGHT}


def gradient(f, x, c):
    x = x.detach().requires_grad_()
    return torch.autograd.grad((f(x) * c).sum(), x)[0]


def forwards(f, x, v, other):
    return jvp(lambda a: jvp(f, (a,), (v,))[1], (x,), (other,))[1]


def backwards(f, x, v, c):
    x = x.detach().requires_grad_()
    (first,) = torch.autograd.grad((f(x) * c).sum(), x, create_graph=True)
    return torch.autograd.grad((first * v).sum(), x)[0]


def case(name):
    """Function, point, two directions, a cotangent, and the Hessian of <c, f> times a direction."""
    f, shape = EVERY[name]
    x, v, other = (draw(*shape, seed=seed) for seed in (4, 5, 6))
    c = draw(*f(x).shape, seed=7)
    step = 1e-5  # central differences of one gradient, which torch has right
    moved = (gradient(f, x + step * v, c) - gradient(f, x - step * v, c)) / (2 * step)
    return f, x, v, other, c, moved


@pytest.mark.parametrize("name", EVERY)
def test_twice_differentiable_functions_are_the_same_and_right_in_every_order(name):
    f, x, v, other, c, expected = case(name)
    g = twice_differentiable(f)
    torch.testing.assert_close(g(x), f(x))
    near = {"rtol": 1e-5, "atol": 1e-6 * float(expected.abs().max() + 1)}
    torch.testing.assert_close(
        (forwards(g, x, v, other) * c).sum(), (expected * other).sum(), **near
    )
    torch.testing.assert_close(backwards(g, x, v, c), expected, **near)
    mixed = vjp(lambda a: jvp(g, (a,), (v,))[1], x)[1](c)[0]
    torch.testing.assert_close(mixed, expected, **near)
    mixed = jvp(lambda a: vjp(g, a)[1](c)[0], (x,), (v,))[1]
    torch.testing.assert_close(mixed, expected, **near)


@pytest.mark.skipif(not torch.__version__.startswith("2.14"), reason="of another torch")
@pytest.mark.parametrize("name", WRONG_FORWARDS)
def test_torch_has_these_wrong_forwards_twice(name):
    f, x, v, other, c, expected = case(name)
    right = float((expected * other).sum())
    assert abs(float((forwards(f, x, v, other) * c).sum()) - right) > 0.01 * abs(right)


@pytest.mark.skipif(not torch.__version__.startswith("2.14"), reason="of another torch")
def test_torch_has_weight_norm_wrong_backwards_twice():
    f, x, v, _, c, expected = case("weight norm")
    assert (backwards(f, x, v, c) - expected).abs().max() > 0.01 * expected.abs().max()


def test_what_changes_running_statistics_is_left_to_torch():
    x, mean, variance = draw(3, 4, 3), torch.zeros(4, dtype=F64), torch.ones(4, dtype=F64)
    twice_differentiable(lambda t: F.batch_norm(t, mean, variance, training=True))(x)
    torch.testing.assert_close(mean, 0.1 * x.mean((0, 2)))
    twice_differentiable(lambda t: F.instance_norm(t, mean, variance))(x)
    assert not torch.allclose(mean, 0.1 * x.mean((0, 2)))
