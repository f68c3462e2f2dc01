"""Networks that were looked into wrongly once: each beside plain autograd and subtraction.

The oracle is float64: one backward pass for one input and one output, and the difference of two
networks, or the central difference of a small step at infinity.
"""

from __future__ import annotations

import math
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tangent import (
    ScaledDifference,
    TangentOperator,
    describe,
    linearize,
    tangent_features,
    tangent_kernel,
)
from tangent.capture import evaluated_copy
from tangent.kernel.products import KernelProduct
from tangent.machine.copies import copied
from tangent.models.direct import DirectScaling
from tests.tangent.kernels import product_with_ones
from tests.tangent.naive import naive_features
from tests.zoo.plain import NETWORKS, Net

PE = torch.linspace(-1, 1, 36).reshape(1, 9, 4)


class Cached(nn.Module):
    """Keeps what it made of its weights at the first call in evaluation mode, as LeViT does."""

    def __init__(self):
        super().__init__()
        self.bias, self.layer = nn.Parameter(torch.randn(3)), nn.Linear(4, 3)
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True):
        super().train(mode)
        if mode:
            self.cache = {}
        return self

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and "bias" not in self.cache:
            self.cache["bias"] = self.bias[torch.tensor([2, 0, 1])]
        return self.layer(x) * self.cache["bias"]


class CachedInAdvance(nn.Module):
    """Makes it when it is put in evaluation mode, as TinyViT does."""

    def __init__(self):
        super().__init__()
        self.bias, self.layer = nn.Parameter(torch.randn(3)), nn.Linear(4, 3)

    @torch.no_grad()
    def train(self, mode: bool = True):
        super().train(mode)
        if mode:
            self.__dict__.pop("made", None)
        else:
            self.made = self.bias[torch.tensor([2, 0, 1])]
        return self

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias[torch.tensor([2, 0, 1])] if self.training else self.made
        return self.layer(x) * bias


def _mask_in_place(net: Net, i: Tensor) -> Tensor:
    h = net.e(i)
    h.mul_((i > 0)[..., None])
    return h.sum(1)


def _residual(net: Net, x: Tensor) -> Tensor:
    x = net.a(x)
    return net.c(x) + x


def _same_layer_twice() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.ReLU(), layer)


def _old_style(norm: str) -> nn.Module:
    """A weight that a hook makes before every call, as torch did before parametrizations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a newer way
        return nn.Sequential(getattr(nn.utils, norm)(nn.Linear(4, 3)), nn.Tanh())


def _scalar_mixture(net: Net, x: Tensor) -> Tensor:
    return torch.where(net.l(x) > 0.1, net.l(x) ** 2, net.l(x).exp())


def _slope(net: Net, x: Tensor) -> Tensor:
    """The derivative of the output in the input, gradients turned on by whoever calls."""
    x = x.detach().requires_grad_()
    out = net.m(torch.tanh(net.l(x)))
    return torch.autograd.grad(out.sum(), x, create_graph=True)[0]


def _against_the_mean(net: Net, x: Tensor) -> Tensor:
    return _slope(net, x) - x.mean(0)


CASES = {
    "numbers among the weights": (
        lambda: Net(
            lambda s, x: (s.scale * s.l(x) + s.shift) / s.temperature.exp(), l=nn.Linear(4, 2),
            scale=nn.Parameter(torch.tensor(1.5)), shift=nn.Parameter(torch.tensor(0.5)),
            temperature=nn.Parameter(torch.tensor(0.3)),
        ),
        lambda: torch.randn(3, 4),
    ),
    "slope": (
        lambda: Net(_slope, l=nn.Linear(4, 5), m=nn.Linear(5, 1)), lambda: torch.randn(3, 4),
    ),
    "mask in place": (
        lambda: Net(_mask_in_place, e=nn.Embedding(3, 2)),
        lambda: torch.tensor([[1, 2], [2, 0]]),
    ),
    "written and read elsewhere": (
        lambda: Net(
            _residual, a=nn.Linear(2, 2), c=nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 2))
        ),
        lambda: torch.randn(3, 2),
    ),
    "integer index": (
        lambda: Net(lambda s, x: s.l(x)[:, s.p], l=nn.Linear(2, 2), p=torch.tensor([1, 0])),
        lambda: torch.randn(3, 2),
    ),
    "one module at two places": (_same_layer_twice, lambda: torch.randn(3, 3)),
    "sum with a factor": (
        lambda: Net(lambda s, x: torch.add(s.l(x), x, alpha=2), l=nn.Linear(4, 4)),
        lambda: torch.randn(3, 4),
    ),
    "buffer cut by a shape": (
        lambda: Net(
            lambda s, x: torch.tanh(s.l(x + s.pe[:, : x.size(1)])), l=nn.Linear(4, 4), pe=PE
        ),
        lambda: torch.randn(3, 5, 4),
    ),
    "squeezed output": (
        lambda: Net(lambda s, x: s.l(x).squeeze(), l=nn.Linear(4, 1)),
        lambda: torch.randn(3, 4),
    ),
    "dict": (
        lambda: Net(lambda s, x: {"logits": s.l(x), "other": 1}, l=nn.Linear(4, 2)),
        lambda: torch.randn(3, 4),
    ),
    "product with a weight": (
        lambda: Net(
            lambda s, x: x @ s.w.T + s.b, w=nn.Parameter(torch.randn(3, 4)),
            b=nn.Parameter(torch.randn(3)),
        ),
        lambda: torch.randn(3, 4),
    ),
    "checkpoint without reentrance": (
        lambda: Net(
            lambda s, x: s.b(checkpoint(torch.tanh, s.a(x), use_reentrant=False)),
            a=nn.Linear(4, 4), b=nn.Linear(4, 2),
        ),
        lambda: torch.randn(3, 4),
    ),
    "choice by values": (
        lambda: Net(_scalar_mixture, l=nn.Linear(4, 3)), lambda: torch.randn(3, 4),
    ),
    "attention of torch": (
        lambda: Net(
            lambda s, x: F.scaled_dot_product_attention(s.q(x), s.k(x), x, is_causal=True),
            q=nn.Linear(4, 4), k=nn.Linear(4, 4),
        ),
        lambda: torch.randn(2, 3, 4),
    ),
    "spectral norm of a hook": (lambda: _old_style("spectral_norm"), lambda: torch.randn(3, 4)),
    "weight norm of a hook": (lambda: _old_style("weight_norm"), lambda: torch.randn(3, 4)),
    "cache": (Cached, lambda: torch.randn(3, 4)),
    "cache in advance": (CachedInAdvance, lambda: torch.randn(3, 4)),
    "decoder": (
        lambda: Net(lambda s, x: s.t(x, x), t=nn.Transformer(4, 2, 1, 1, 8, batch_first=True)),
        lambda: torch.randn(2, 3, 4),
    ),
}  # fmt: skip
CASES |= {
    name: (build, lambda inputs=inputs: inputs(3))
    for name, (build, inputs, refused) in NETWORKS.items()
    if not refused
}


def case(name: str) -> tuple[nn.Module, Tensor]:
    build, inputs = CASES[name]
    torch.manual_seed(0)
    model, x = build().double(), inputs()
    model.eval()
    return model, x.double() if x.is_floating_point() else x


class Outputs(nn.Module):
    """What an oracle differentiates: in training mode, where nothing is cached."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = copied(model).train() if "Cached" in type(model).__name__ else model

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.model, Cached):
            return self.model.layer(x) * self.model.bias[torch.tensor([2, 0, 1])]
        out = self.model(x)
        return out["logits"] if isinstance(out, dict) else out


def features(model: nn.Module, x: Tensor) -> Tensor:
    rows = []
    outputs = Outputs(copied(model).requires_grad_(True))
    parameters = list(outputs.parameters())
    for one in x:
        row = []
        for f in outputs(one.unsqueeze(0)).flatten():
            if f.requires_grad:
                f.backward(retain_graph=True)
            row.append(
                torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                           for p in parameters])
            )  # fmt: skip
            for p in parameters:
                p.grad = None
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("name", CASES)
def test_kernel_features_and_products_are_those_of_plain_autograd(name):
    model, x = case(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    phi = features(model, x)
    expected = torch.einsum("iap,jbp->iajb", phi, phi)
    torch.testing.assert_close(tangent_kernel(model, x), expected)
    trace = torch.einsum("iaja->ij", expected)
    torch.testing.assert_close(tangent_kernel(model, x, outputs="trace", batch_size=2), trace)
    torch.testing.assert_close(tangent_features(model, x), phi)
    product = KernelProduct(model, x, batch_size=2)
    v = torch.linspace(-1, 1, product.rows, dtype=torch.float64)
    torch.testing.assert_close(product(v), expected.reshape(len(v), -1) @ v)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(isinstance(p, nn.Parameter) and p.requires_grad == (k != "base")
               for k, p in ((n.split(".")[0], p) for n, p in model.named_parameters()))  # fmt: skip


def _without_gradient(s: Net, x: Tensor) -> Tensor:
    h = s.l(x)
    with torch.no_grad():
        gate = torch.tanh(s.l(x))
    return s.m(h * gate)


CUT = {
    "a weight's data": lambda s, x: s.m(torch.tanh(F.linear(x, s.l.weight + 2 * s.l.weight.data))),
    "a value's data": lambda s, x: s.m(torch.tanh(s.l(x)) * s.l(x).data),
    "a detached value": lambda s, x: s.m(torch.tanh(s.l(x)) * s.l(x).detach()),
    "no gradient": _without_gradient,
    "a fixed part": lambda s, x: s.m(torch.tanh(s.l(x)).detach()),
    "all": lambda s, x: s.m(s.l(x)).detach(),
}


@pytest.mark.parametrize("name", CUT)
def test_gradients_stop_where_the_network_cuts_them(name):
    torch.manual_seed(0)
    model = Net(CUT[name], l=nn.Linear(4, 3), m=nn.Linear(3, 2)).double().eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    phi = features(model, x)
    expected = torch.einsum("iap,jbp->iajb", phi, phi)
    torch.testing.assert_close(tangent_kernel(model, x), expected)
    torch.testing.assert_close(tangent_kernel(model, x, batch_size=2), expected)
    torch.testing.assert_close(tangent_features(model, x), phi)
    product = KernelProduct(model, x, batch_size=2)
    v = torch.linspace(-1, 1, product.rows, dtype=torch.float64)
    torch.testing.assert_close(product(v), expected.reshape(len(v), -1) @ v)
    torch.testing.assert_close(product.displacement(v)["l.weight"].flatten(),
                               phi.flatten(0, 1).T[:12] @ v)  # fmt: skip
    some = KernelProduct(model, x, outputs="trace", parameters=["m.weight", "l.bias"])
    own = torch.cat([phi[..., 12:15], phi[..., 15:21]], dim=2)
    trace = torch.einsum("iap,jap->ij", own, own)
    torch.testing.assert_close(some(v[:5]), trace @ v[:5])


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
# float64 asks the same of more digits than the rules can lose; float32 is the hard one.
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("alpha", [1.0, 1e3, 1e7, math.inf])
@pytest.mark.parametrize("name", CASES)
def test_differences_are_those_of_two_networks(name, alpha, dtype):
    wide, x = case(name)
    model = copied(wide).to(dtype)
    module = ScaledDifference(model, alpha)
    generator = torch.Generator().manual_seed(1)
    for delta in module.delta:
        delta.data = 0.3 * torch.randn(delta.shape, generator=generator, dtype=dtype)
    moving = dict(zip(module.names, module.delta, strict=True))
    weights = {n: p.detach().clone() for n, p in wide.named_parameters()}

    def outputs(step: float) -> Tensor:
        moved = copied(wide)
        with torch.no_grad():
            for n, p in moved.named_parameters():
                if n in moving:
                    p.copy_(weights[n] + step * moving[n].double())
        return Outputs(moved)(x).detach().clone()

    with torch.no_grad():
        got = module.pair(x.to(dtype) if x.is_floating_point() else x)
    torch.testing.assert_close(got.base.double(), outputs(0.0), rtol=1e-5, atol=1e-6)
    if math.isinf(alpha):
        expected = (outputs(1e-6) - outputs(-1e-6)) / 2e-6
    else:
        expected = alpha * (outputs(1 / alpha) - outputs(0.0))
    error = (got.difference.double() - expected).abs().max() / expected.abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 1e-7)


REFUSED = {
    "batch statistics": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        "mixes the inputs of a batch",
    ),
    "mean over the batch": (
        lambda: Net(lambda s, x: s.l(x - x.mean(0)), l=nn.Linear(4, 2)),
        r"mixes the inputs of a batch in aten\.mean",
    ),
    "earlier inputs": (
        lambda: Net(lambda s, x: s.l(x).cumsum(0), l=nn.Linear(4, 2)),
        r"mixes the inputs of a batch in aten\.cumsum",
    ),
    "slope beside a mean over the batch": (
        lambda: Net(_against_the_mean, l=nn.Linear(4, 5), m=nn.Linear(5, 1)),
        r"mixes the inputs of a batch in aten\.mean",
    ),
    "batch second": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8),
        "mixes the inputs of a batch",
    ),
    "dropout that stays": (
        lambda: Net(lambda s, x: F.dropout(s.l(x)), l=nn.Linear(4, 2)),
        "draws a new network at every call",
    ),
    "noise": (
        lambda: Net(lambda s, x: s.l(x) + torch.randn(2).to(x), l=nn.Linear(4, 2)),
        "draws a new network at every call",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("ask", ["kernel", "features", "product", "difference"])
def test_what_has_no_tangent_kernel_is_refused_for_the_right_reason(name, ask):
    build, words = REFUSED[name]
    model = build().double().eval()
    x = torch.randn(3, 5, 4) if name == "batch second" else torch.randn(3, 4)
    x = x.double()
    calls = {
        "product": lambda: product_with_ones(model, x),
        "difference": lambda: linearize(model)(x),
        "kernel": lambda: tangent_kernel(model, x),
        "features": lambda: tangent_features(model, x),
    }
    with pytest.raises(ValueError, match=words):
        calls[ask]()


@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
def test_gradients_by_frequency_in_the_batch_are_refused(layer):
    model = Net(
        lambda s, x: s.l(s.e(x).flatten(1)),
        e=layer(5, 4, scale_grad_by_freq=True), l=nn.LazyLinear(2),
    )  # fmt: skip
    tokens = torch.tensor([[0, 1, 1], [2, 3, 4]])
    model(tokens)
    with pytest.raises(ValueError, match="scale_grad_by_freq must be False"):
        tangent_kernel(model, tokens)


@pytest.mark.parametrize("name", ["slope", "choice by values"])
def test_predictions_need_no_gradients_of_the_callers(name):
    model, x = case(name)
    for module in (ScaledDifference(model, 2.0), DirectScaling(model, 2.0)):
        with torch.no_grad():
            assert not module(x).requires_grad


def test_a_kernel_that_float16_cannot_hold_is_in_float32():
    x = torch.full((2, 4), 300.0).half()
    kernel = tangent_kernel(nn.Linear(4, 3).half(), x, outputs="trace")
    assert float(kernel[0, 0]) == pytest.approx(3 * (4 * 300.0**2 + 1), rel=1e-2)


def test_the_callers_inference_mode_does_not_matter():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    x = torch.randn(3, 4)
    expected = tangent_kernel(model, x), linearize(model)(x)
    with torch.inference_mode():
        inside = tangent_kernel(model, x.clone()), linearize(model)(x.clone())
        product = product_with_ones(model, x.clone())
    for a, b in zip(inside, expected, strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(product, expected[0].reshape(6, 6).sum(1))


def test_a_module_at_two_places_keeps_its_weights():
    model = _same_layer_twice()
    x = torch.randn(3, 3)
    (
        tangent_kernel(model, x),
        tangent_features(model, x),
        TangentOperator(model, x),
        linearize(model)(x),
    )
    assert isinstance(model[0].weight, nn.Parameter)
    assert model[0].weight.requires_grad


def test_several_inputs_keywords_and_a_named_output():
    def forward(net: Net, a: Tensor, b: Tensor, mask: Tensor | None = None) -> dict:
        y = net.l(b) if mask is None else net.l(b).masked_fill(mask, 0.0)
        return {"y": net.k(a) * y, "z": (net.k(a),)}

    model = Net(forward, k=nn.Linear(4, 3), l=nn.Linear(2, 3)).double()
    a, b = torch.randn(3, 4).double(), torch.randn(3, 2).double()
    mask = torch.tensor([[True, False, False]] * 3)
    module = ScaledDifference(model, 10.0, output="y")
    for delta in module.delta:
        nn.init.normal_(delta)
    moved = module.displaced()
    expected = 10 * (moved(a, b, mask=mask)["y"] - model(a, b, mask=mask)["y"])
    torch.testing.assert_close(module(a, b, mask=mask), expected)
    other = ScaledDifference(model, 10.0, output=("z", 0))
    other.delta = module.delta
    torch.testing.assert_close(other(a, b), 10 * (moved(a, b)["z"][0] - model(a, b)["z"][0]))
    with pytest.raises(ValueError, match=r"output 'q' is not among .*'y', 'z'"):
        ScaledDifference(model, 1.0, output="q")(a, b)
    with pytest.raises(TypeError, match="output= names the one"):
        linearize(model)(a, b)


def test_wrappers_are_opened():
    model = nn.Sequential(nn.Linear(4, 2))
    x = torch.randn(3, 4)
    expected = tangent_kernel(model, x)
    assert torch.equal(tangent_kernel(nn.DataParallel(model), x), expected)
    assert torch.equal(tangent_kernel(torch.compile(model), x), expected)
    assert linearize(nn.DataParallel(model)).names == ("0.weight", "0.bias")


def test_a_description_says_what_is_exact_and_who_calls_it():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten())
    found = describe(model, torch.randn(2, 2, 7, 7))
    by_name = {use.operation: use for use in found.operations}
    assert by_name["aten.convolution"].difference == "exact"
    assert by_name["aten.convolution"].modules == ("0",)
    assert by_name["aten.relu"].kinked
    assert found.generic == ("aten.adaptive_max_pool2d",)
    assert "aten.adaptive_max_pool2d" in str(found)
    assert not found.reads


def test_features_of_the_oracle_agree_with_those_of_the_other_tests():
    model, x = case("siren")
    ours = torch.cat(list(naive_features(model, x).values()), dim=2)
    torch.testing.assert_close(features(model, x), ours)


class Locked(nn.Linear):
    """A layer that holds what cannot be copied, and says so."""

    def __init__(self):
        super().__init__(3, 3)
        self.lock = threading.Lock()

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "lock"}


def test_a_copy_asks_the_class_shares_what_is_shared_and_nothing_else():
    layer = Locked()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    model.notes = ["kept", torch.ones(2)]
    layer.register_forward_hook(lambda module, args, output: 2 * output)
    twin = evaluated_copy(model)
    x = torch.randn(2, 3)
    torch.testing.assert_close(twin(x), model(x))
    assert twin[0] is twin[2]
    assert twin[0] is not layer
    assert not hasattr(twin[0], "lock")
    assert twin[0].weight.data_ptr() == layer.weight.data_ptr()
    assert twin.notes is not model.notes
    assert twin.notes[1].data_ptr() != model.notes[1].data_ptr()
    twin[1].register_forward_hook(lambda module, args, output: 0 * output)
    assert not model[1]._forward_hooks


class _Chosen(nn.Module):
    """The hidden layer at places that the input says, by number or by a mask."""

    def __init__(self, masked: bool):
        super().__init__()
        self.hidden, self.last, self.masked = nn.Linear(4, 6), nn.Linear(3, 2), masked

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.hidden(x))
        if self.masked:
            largest = h >= h.sort(1).values[:, 3:4]
            return self.last(h[largest].reshape(len(x), 3))
        rows = torch.arange(len(x))[:, None]
        return self.last(h[rows, (x[:, :3] > 0).long() + torch.arange(3)])


@pytest.mark.parametrize("masked", [False, True])
def test_places_by_number_are_no_reading_and_masks_are(masked):
    torch.manual_seed(0)
    model, x = _Chosen(masked).double(), torch.randn(7, 4).double()
    assert describe(model, x).reads == masked
    phi = torch.cat(list(naive_features(model, x).values()), dim=2).flatten(0, 1)
    kernel = tangent_kernel(model, x).flatten(2).flatten(0, 1)
    assert torch.allclose(kernel, phi @ phi.T, rtol=1e-10)


def test_torch_still_asks_a_mode_whether_to_import_its_compiler():
    # A name of torch's own: were it another, the first record would take seconds more.
    assert hasattr(torch.utils._python_dispatch.TorchDispatchMode, "_should_skip_dynamo")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("made", ["script", "trace"])
def test_torchscript_has_kernels_and_is_refused_in_words_where_weights_are_exchanged(
    made, generator
):
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)]
    network = nn.Sequential(*layers).double().eval()
    x = torch.randn(3, 2, 4, 4, generator=generator, dtype=torch.float64)
    scripted = torch.jit.script(network) if made == "script" else torch.jit.trace(network, x)
    torch.testing.assert_close(tangent_kernel(scripted, x), tangent_kernel(network, x))
    torch.testing.assert_close(tangent_features(scripted, x), tangent_features(network, x))
    found = TangentOperator(scripted, x).apply(torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(found, product_with_ones(network, x).flatten())
    assert "aten.convolution" in str(describe(scripted, x))
    with pytest.raises(TypeError, match="must not be TorchScript"):
        linearize(scripted)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_a_scripted_function_of_a_network_is_as_any_other(generator):
    class Activated(nn.Module):
        def __init__(self, activation):
            super().__init__()
            self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)
            self.activation = activation

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.activation(self.first(x)))

    def swish(z: Tensor) -> Tensor:
        return z * torch.sigmoid(z)

    network, plain = Activated(torch.jit.script(swish)), Activated(swish)
    plain.load_state_dict(network.state_dict())
    x = torch.randn(3, 5, generator=generator)
    torch.testing.assert_close(tangent_kernel(network, x), tangent_kernel(plain, x))
    made, other = linearize(network), linearize(plain)
    with torch.no_grad():
        for d, e in zip(made.delta, other.delta, strict=True):
            e.copy_(d.normal_(generator=generator))
    torch.testing.assert_close(made(x), other(x))


@pytest.mark.parametrize(
    "of", [tangent_kernel, tangent_features, TangentOperator, describe, lambda m, x: linearize(m)]
)
def test_what_is_no_network_is_refused_by_name(of):
    with pytest.raises(TypeError, match=r"must be an nn\.Module; got function"):
        of(lambda x: 2 * x, torch.ones(2, 3))
    with pytest.raises(ValueError, match="no shape yet"):
        of(nn.LazyLinear(2), torch.ones(2, 3))


def _complex(z: Tensor) -> Tensor:
    return torch.complex(z, z.roll(1, -1))


def _written(z: Tensor) -> Tensor:
    c = _complex(z)
    turned = c.conj()
    c.mul_(2 + 1j)  # the lazy conjugate reads what was written
    return turned.imag * c.real


def _written_through(z: Tensor) -> Tensor:
    c = _complex(z)
    c.conj()[:, :2].mul_(2 + 1j)
    return c.imag * c.real


def _real_part_written(z: Tensor) -> Tensor:
    c = _complex(z)
    c.real[:, 1:].mul_(2)
    c.imag[:, :2] = z[:, :2] ** 2
    return (c * c).imag + c.conj().imag


def _pairs_written(z: Tensor) -> Tensor:
    c = _complex(z).conj()
    pairs = torch.view_as_real(c.resolve_conj())
    pairs[:, ::2, 0] += z[:, 1:3]
    return torch.view_as_complex(pairs).abs() + pairs[..., 1]


def _complex_written(z: Tensor) -> Tensor:
    pairs = torch.stack([z, z.flip(1)], -1)
    c = torch.view_as_complex(pairs)
    c[:, :2] *= 1j * c[:, 2:]
    c.conj()[:, 3] = c[:, 0]
    return pairs[..., 0] * pairs[..., 1]


def _constant_written(z: Tensor) -> Tensor:
    c = torch.ones(4, dtype=torch.complex128)
    c.imag[:2] = 2.0
    c.conj()[3] = 1j
    return (c * z).imag + c.real * z


CONJUGATES = {
    "real part written": _real_part_written,
    "pairs written": _pairs_written,
    "complex numbers written in pairs": _complex_written,
    "constant written": _constant_written,
    "power": lambda z: (_complex(z) * _complex(z).conj()).real,
    "power of one value": lambda z: (lambda c: (c * c.conj()).real)(_complex(z)),
    "a part of the conjugate beside that of the value": lambda z: (
        lambda c: c.imag * (c.conj().imag + 1)
    )(_complex(z)),
    "power spectrum": lambda z: (lambda c: (c * c.conj()).real @ torch.ones(3, 4).to(z))(
        torch.fft.rfft(z)
    ),
    "Gram matrix": lambda z: (lambda c: (c @ c.mH).imag.sum(-1))(_complex(z.unsqueeze(-1))),
    "phase": lambda z: torch.polar(z, z.roll(1, -1)).imag,
    "as pairs of real numbers": lambda z: torch.view_as_real(_complex(z).conj().resolve_conj())[
        ..., 1
    ],
    "written": _written,
    "written through": _written_through,
}


@pytest.mark.parametrize("name", CONJUGATES)
def test_a_value_and_its_lazy_conjugate_are_two(name, generator):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(CONJUGATES[name](self.first(x)))

    network = Network().double()
    x = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    phi = torch.cat(list(naive_features(network, x).values()), 2)
    torch.testing.assert_close(linearize(network).pair(x).base, network(x))
    torch.testing.assert_close(tangent_features(network, x), phi)
    kernel = torch.einsum("iap,jbp->iajb", phi, phi)
    torch.testing.assert_close(tangent_kernel(network, x), kernel)
    found = KernelProduct(network, x)(torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(found.reshape(3, 3), kernel.sum((2, 3)))
    for alpha in (1.0, math.inf):
        made = ScaledDifference(network, alpha)
        with torch.no_grad():
            for d in made.delta:
                d.add_(0.1 * torch.randn(d.shape, generator=generator, dtype=d.dtype))
        expected = phi @ torch.cat([d.detach().flatten() for d in made.delta])
        if alpha == 1:
            expected = made.displaced()(x) - network(x)
        torch.testing.assert_close(made(x), expected)
