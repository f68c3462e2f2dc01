"""Which parameters a network's gradients are asked for: real ones, complex ones, whole numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tangent import ScaledDifference, laziness, tangent_features, tangent_kernel
from tests.tangent.kernels import product_with_ones
from tests.zoo.plain import Net

COMPLEX = {
    "product": lambda s, x: (torch.fft.rfft(s.l(x)) @ s.a).abs(),
    "by entries": lambda s, x: (torch.fft.rfft(s.l(x)) * s.a[:, 0]).abs(),
    "einsum": lambda s, x: torch.einsum("ni,io->no", torch.fft.rfft(s.l(x)), s.a).real,
}


@pytest.mark.parametrize("alpha", [2.0, math.inf])
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_weights_move_with_their_gradients_and_have_no_kernel(name, alpha):
    torch.manual_seed(0)
    a = nn.Parameter(torch.randn(3, 2, dtype=torch.complex128))
    model = Net(COMPLEX[name], l=nn.Linear(4, 4), a=a).double()
    x, module = torch.randn(3, 4, dtype=torch.float64), ScaledDifference(model, alpha)
    generator = torch.Generator().manual_seed(1)
    for delta in module.delta:
        delta.data = torch.randn(delta.shape, generator=generator, dtype=delta.dtype)

    def loss(step: float, k: int, along: Tensor) -> Tensor:
        with torch.no_grad():
            module.delta[k].add_(step * along)
            found = module(x).square().sum()
            module.delta[k].sub_(step * along)
        return found

    module(x).square().sum().backward()
    for k, delta in enumerate(module.delta):
        along = torch.randn(delta.shape, generator=generator, dtype=delta.dtype)
        slope = (loss(1e-6, k, along) - loss(-1e-6, k, along)) / 2e-6
        found = (delta.grad.conj() * along).real.sum()
        torch.testing.assert_close(found, slope, rtol=1e-6, atol=1e-6)
    for ask in (tangent_kernel, tangent_features, product_with_ones):
        with pytest.raises(ValueError, match="parameters must be real; 'a' is"):
            ask(model, x)
    names = ["l.weight", "l.bias"]
    features = tangent_features(model, x, parameters=names)
    rows = [
        torch.autograd.grad(model(x[:1])[0, i], [model.l.weight, model.l.bias])
        for i in range(features.shape[1])
    ]
    expected = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    torch.testing.assert_close(features[0], expected)


def test_complex_outputs_are_refused():
    model = Net(lambda s, x: torch.fft.rfft(s.l(x)), l=nn.Linear(4, 4))
    for ask in (tangent_kernel, tangent_features, product_with_ones):
        with pytest.raises(ValueError, match="model must return real numbers"):
            ask(model, torch.randn(3, 4))


def test_parameters_of_whole_numbers_stay():
    torch.manual_seed(0)
    order = nn.Parameter(torch.tensor([2, 0, 1, 3]), requires_grad=False)
    model = Net(lambda s, x: s.l(x[:, s.order]), l=nn.Linear(4, 2), order=order)
    plain = Net(lambda s, x: s.l(x[:, [2, 0, 1, 3]]), l=model.l)
    x = torch.randn(5, 4)
    torch.testing.assert_close(tangent_kernel(model, x), tangent_kernel(plain, x))
    torch.testing.assert_close(product_with_ones(model, x), product_with_ones(plain, x))
    displaced = ScaledDifference(model, 2.0).displaced()
    torch.testing.assert_close(displaced(x), plain(x))
    y = torch.randn(5, 2)
    ours, theirs = (laziness(m, x, y, epochs=1) for m in (model, plain))
    assert ours.kappa == pytest.approx(theirs.kappa)
    assert ours.parameters == theirs.parameters
