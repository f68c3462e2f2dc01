"""Faults of torch that this project routes around: each shown, with the way around it.

Where a test that shows one fails, torch has mended it, and the way around can go.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jacrev, vmap

from tangent import TangentOperator, tangent_features, tangent_kernel
from tangent.kernel import KernelProduct
from tangent.laziness.curvature import weight_function
from tangent.models import mean_tangent_features
from tangent.models.direct import DirectScaling
from tangent.operations.pointwise import called


def normalized(x):
    """Batch norm of fixed statistics, its gradient in x for some cotangent, and the right one."""
    weight, mean, variance = torch.tensor([[1.0, 2, 3], [3, 2, 1], [1, 4, 2]], dtype=x.dtype)
    x = x.detach().requires_grad_()
    out = F.batch_norm(x, mean, variance, weight, None)
    cotangent = torch.randn(out.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad(out, x, cotangent)
    return found, cotangent * (weight * (variance + 1e-5).rsqrt())[:, None, None]


def test_torch_has_the_backward_pass_of_batch_norm_wrong_for_one_input_of_these_strides():
    x = torch.randn(36, dtype=torch.float64).as_strided((1, 3, 3, 4), (3, 1, 12, 3))
    found, right = normalized(x)
    if torch.__version__.startswith("2.14"):
        assert (found - right).abs().max() > 0.1 * right.abs().max()
    found, right = normalized(torch.cat([x, x]))  # two inputs: the way around
    torch.testing.assert_close(found, right)


def one_by_one(model, x):
    """Features by autograd, an output at a time, each input twice."""
    rows = []
    for i in range(len(x)):
        outputs = model(torch.cat([x[i : i + 1]] * 2))[0]
        grads = [
            torch.autograd.grad(o, list(model.parameters()), retain_graph=True) for o in outputs
        ]
        rows.append(torch.stack([torch.cat([g.flatten() for g in gs]) for gs in grads]))
    return torch.stack(rows)


class Wrapped(nn.Module):
    """Not one of torch's own: its record is checked against autograd at one input."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        # One input comes out with strides (C, 1, W C, C), as of a crop of channels-last images.
        n, c, h, w = x.shape
        x = (
            x.permute(0, 2, 3, 1)
            .contiguous()
            .as_strided((n, c, h, w), (c if n == 1 else c * h * w, 1, w * c, c))
        )
        return self.layers(x)


def test_a_right_batch_norm_is_not_left_to_the_jacobian(monkeypatch):
    torch.manual_seed(0)
    model = Wrapped(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(36, 2)).double().eval()
    x = torch.randn(4, 3, 3, 4, dtype=torch.float64)
    monkeypatch.setattr(
        "tangent.kernel.engine.passes.jacobians",
        lambda *a, **k: pytest.fail("a layer that is right was distrusted"),
    )
    torch.testing.assert_close(tangent_features(model, x), one_by_one(model, x))


class Distrusted(nn.Module):
    """A weight before batch norm, gradients cut in between, and one input with these strides."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(3, 1, 1) + 0.5)
        self.layers = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(36, 2))

    def forward(self, x):
        with torch.no_grad():
            cut = x.mean((1, 2, 3), keepdim=True)
        x = (self.scale * x + cut).permute(0, 2, 3, 1).contiguous()
        n, h, w, c = x.shape
        strides = (c if n == 1 else c * h * w, 1, w * c, c)
        return self.layers(x.as_strided((n, c, h, w), strides))


def test_what_is_left_to_the_jacobian_is_right_behind_batch_norm(monkeypatch):
    torch.manual_seed(0)
    model = Distrusted().double().eval()
    model.layers[0].running_var.uniform_(0.5, 2)
    nn.init.normal_(model.layers[0].weight)
    x = torch.randn(4, 3, 3, 4, dtype=torch.float64)
    phi = one_by_one(model, x)
    everything = frozenset(name for name, _ in model.named_parameters())
    for user in ("passes", "gradients"):
        monkeypatch.setattr(f"tangent.kernel.engine.{user}.mistaken", lambda *a: everything)
    torch.testing.assert_close(tangent_features(model, x), phi)
    torch.testing.assert_close(tangent_kernel(model, x), torch.einsum("iap,jbp->iajb", phi, phi))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_right_batch_norm_of_a_suspect_record_is_believed(n, monkeypatch):
    torch.manual_seed(0)
    model = Distrusted().double().eval()
    monkeypatch.setattr(
        "tangent.kernel.engine.passes.jacobians",
        lambda *a, **k: pytest.fail("a layer that is right was distrusted"),
    )
    x = torch.randn(n, 3, 3, 4, dtype=torch.float64)
    phi = one_by_one(model, x)
    torch.testing.assert_close(tangent_features(model, x), phi)
    torch.testing.assert_close(tangent_kernel(model, x), torch.einsum("iap,jbp->iajb", phi, phi))


class Scaled(nn.Module):
    """A weight before batch norm, whose output has the strides of its input."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(3, 1, 1) + 0.5)
        self.layers = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(36, 2))

    def forward(self, x):
        return self.layers(self.scale * x)


def product(model, x):
    return KernelProduct(model, x)(torch.tensor([1.0, -2.0], dtype=x.dtype))


def mean(model, x):
    return torch.cat([part.flatten(1) for part in mean_tangent_features(model, [x])], dim=1)


def of_weights(model, x):
    h, w = weight_function(model, x)
    return jacrev(h)(w)


def of_direct_training(model, x):
    module = DirectScaling(model, 1.0)
    gradients = [torch.autograd.grad(module(x)[0, a], list(module.moving.parameters()))
                 for a in range(2)]  # fmt: skip
    return torch.stack([torch.cat([g.flatten() for g in gs]) for gs in gradients])


ASKED = {
    "product": (product, lambda phi: phi @ (phi.T @ phi.new_tensor([1.0, -2.0]))),
    "kernel": (tangent_kernel, lambda phi: (phi @ phi.T)[None, :, None]),
    "features": (tangent_features, lambda phi: phi[None]),
    "mean features": (mean, lambda phi: phi),
    "weights": (of_weights, lambda phi: phi),
    "direct training": (of_direct_training, lambda phi: phi),
}


@pytest.mark.parametrize("what", ASKED)
def test_one_image_turned_round_has_the_gradients_of_the_same_image(what):
    torch.manual_seed(0)
    model = Scaled().double().eval()
    model.layers[0].running_var.uniform_(0.5, 2)
    nn.init.normal_(model.layers[0].weight)
    x = torch.randn(3, 4, 3, dtype=torch.float64).permute(2, 0, 1)[None]
    assert x.stride() == (3, 1, 12, 3)
    ask, expected = ASKED[what]
    torch.testing.assert_close(ask(model, x), expected(one_by_one(model, x)[0]))


class Turned(nn.Module):
    """A norm before products of positions, whose gradient comes back in another order."""

    def __init__(self, norm):
        super().__init__()
        self.scale, self.norm = nn.Parameter(torch.rand(3, 1, 1) + 0.5), norm
        self.mix, self.head = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.mixed(self.norm(self.scale * x))

    def mixed(self, x):
        """Rows of the image come first, as some attention has them."""
        rows = F.layer_norm(x.permute(2, 0, 3, 1), (3,))
        rows = self.mix(rows).square().cumsum(2).cumsum(0)
        return self.head(rows.mean((0, 2)))


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
@pytest.mark.parametrize("size", [(1, 3, 3, 4), (1, 3, 1, 4), (1, 3, 4, 1)])
def test_a_norm_of_one_image_has_the_right_gradients_in_any_order(what, norm, size):
    torch.manual_seed(0)
    model = Turned(norm(3)).double().eval()
    if norm is nn.BatchNorm2d:
        model.norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(model.norm.weight)
    x = torch.randn(size, dtype=torch.float64)
    ask, expected = ASKED[what]
    torch.testing.assert_close(ask(model, x), expected(one_by_one_apart(model, x)))


def one_by_one_apart(model, x):
    """Features of one input, the norm written out."""
    norm = model.norm

    def written_out(z):
        if isinstance(norm, nn.InstanceNorm2d):
            away = z - z.mean((2, 3), keepdim=True)
            return away / (away.square().mean((2, 3), keepdim=True) + norm.eps).sqrt()
        mean, variance, weight, bias = (
            t[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return (z - mean) * (variance + norm.eps).rsqrt() * weight + bias

    outputs = model.mixed(written_out(model.scale * x))[0]
    grads = [torch.autograd.grad(o, list(model.parameters()), retain_graph=True) for o in outputs]
    return torch.stack([torch.cat([g.flatten() for g in gs]) for gs in grads])


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(*[st.sampled_from([1, 2, 3])] * 4),
    orders=st.tuples(*[st.permutations(range(4))] * 2),
    training=st.booleans(),
)
def test_batch_norm_called_has_its_gradient_whatever_the_order_in_memory(size, orders, training):
    generator = torch.Generator().manual_seed(0)
    n, c, h, w = size
    assume(not training or n * h * w > 1)

    def ordered(order):
        t = torch.randn([size[i] for i in order], dtype=torch.float64, generator=generator)
        return t.permute([order.index(i) for i in range(4)])

    x, cotangent = ordered(orders[0]).requires_grad_(), ordered(orders[1])
    norm = nn.BatchNorm2d(c).double().train(training)
    norm.running_var.fill_(2.0)
    found = torch.autograd.grad(called(norm, None, (x,)), (x, norm.weight), cotangent)
    mean, variance = torch.zeros(c).double(), torch.full((c,), 2.0).double()
    if training:
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    out = (x - mean[:, None, None]) * (variance + norm.eps).rsqrt()[:, None, None]
    out = out * norm.weight[:, None, None]
    right = torch.autograd.grad(out, (x, norm.weight), cotangent)
    torch.testing.assert_close(found, right)


def test_torch_cannot_take_the_gradient_of_prelu_for_many_inputs():
    layer, x = nn.PReLU(3).double(), torch.randn(5, 3, dtype=torch.float64)

    def output(weights, one):
        return functional_call(layer, weights, (one[None],))[0]

    weights = {"weight": layer.weight.detach()}
    right = torch.stack([jacrev(output)(weights, one)["weight"] for one in x])
    try:
        found = vmap(jacrev(output), in_dims=(None, 0))(weights, x)["weight"]
    except RuntimeError:
        return
    assert not torch.allclose(found, right)


@pytest.mark.parametrize("count", [1, 4])
def test_prelu_can_be_differentiated_for_many_inputs_by_torch_func(count):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU(count), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def outputs(parameters, one):
        return called(model, parameters, (one.unsqueeze(0),)).reshape(-1)

    jacobians = vmap(jacrev(outputs), in_dims=(None, 0))(weights, x)
    found = torch.cat([j.flatten(2) for j in jacobians.values()], dim=2)
    torch.testing.assert_close(found, one_by_one(model, x))


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("convolution", [False, True])
def test_prelu_has_kernel_features_and_products(count, convolution):
    torch.manual_seed(0)
    if convolution:
        layers = [nn.Conv2d(2, 4, 3), nn.PReLU(count), nn.Flatten(), nn.Linear(16, 2)]
        x = torch.randn(5, 2, 4, 4, dtype=torch.float64)
    else:
        layers = [nn.Linear(3, 4), nn.PReLU(count), nn.Linear(4, 2)]
        x = torch.randn(5, 3, dtype=torch.float64)
    model = nn.Sequential(*layers).double()
    phi = one_by_one(model, x)
    torch.testing.assert_close(tangent_features(model, x), phi)
    kernel = torch.einsum("iap,jbp->iajb", phi, phi)
    torch.testing.assert_close(tangent_kernel(model, x), kernel)
    operator = TangentOperator(model, x)
    matrix = operator.apply(torch.eye(10, dtype=torch.float64))
    torch.testing.assert_close(matrix, kernel.reshape(10, 10))
