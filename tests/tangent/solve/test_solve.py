"""The solvers against the networks that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tangent import solve
from tangent.kernel.matrix import tangent_kernel
from tangent.models import linearize
from tangent.nets import two_layer
from tests.tangent.kernels import full, problem, trace

close = torch.testing.assert_close


def test_every_public_name_is_there():
    assert all(hasattr(solve, name) for name in solve.__all__)


def test_linearized_two_layer_network_is_the_random_feature_model(generator):
    """Chizat et al. 2019, Appendix A.2: features s(b.x) and a s'(b.x) x, times alpha(m)."""
    m, scale = 12, 12**-0.5
    model = two_layer(3, m, scale=scale, symmetric=False, generator=generator)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    new = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(20, 1, generator=generator, dtype=torch.float64)
    b, a = model.hidden.weight.detach(), model.output.weight.detach()[0]

    def random_features(x):
        z = x @ b.T
        inner = (a * (z > 0))[:, :, None] * x[:, None, :]
        return scale * torch.cat([z.relu(), inner.flatten(1)], dim=1)

    phi, psi = random_features(x), random_features(new)
    ridge = 0.1
    gram = phi.T @ phi + ridge * torch.eye(phi.shape[1], dtype=torch.float64)
    expected = psi @ torch.linalg.solve(gram, phi.T @ y)
    kernel = tangent_kernel(model, x, outputs="trace")
    close(kernel, phi @ phi.T)
    fit = solve.kernel_ridge(kernel, y, ridge)
    close(fit.predict(tangent_kernel(model, new, x, outputs="trace")), expected)


def test_flow_is_the_linearized_network_trained_by_tiny_steps(generator):
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    x = torch.randn(10, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(10, 2, generator=generator, dtype=torch.float64)
    linear = linearize(model)
    lr, steps = 2e-3, 500
    sgd = torch.optim.SGD(linear.parameters(), lr=lr)
    for _ in range(steps):
        sgd.zero_grad()
        nn.functional.mse_loss(linear(x), y).backward()
        sgd.step()
    kernel = tangent_kernel(model, x, outputs="full")
    spectrum = solve.spectrum(kernel)
    scale = 2 / y.numel()
    flow = solve.training_path(spectrum, y, [lr * steps], scale=scale).train_predictions[0]
    steps_taken = solve.training_path(spectrum, y, [steps], lr=lr, scale=scale)
    close(steps_taken.train_predictions[0], linear(x).detach(), rtol=1e-6, atol=1e-8)
    close(flow, linear(x).detach(), rtol=0, atol=2e-3)  # first order in lr


@pytest.mark.slow
def test_flow_predicts_what_a_lazy_classifier_at_infinite_alpha_learns():
    from sklearn.datasets import make_moons

    from tangent import LazyClassifier

    X, labels = make_moons(60, noise=0.2, random_state=0)
    lr, epochs = 0.01, 300
    lazy = LazyClassifier(
        width=0.1,
        loss="square",
        lr=lr,
        momentum=0.0,
        epochs=epochs,
        batch_size=60,
        dtype="float64",
        random_state=0,
    ).fit(X, labels)
    x = torch.from_numpy((X - lazy.mean_) / lazy.scale_)
    kernel = tangent_kernel(lazy.module_.network, x, outputs="full")
    y = torch.eye(2, dtype=torch.float64)[torch.from_numpy(labels)]
    spectrum = solve.spectrum(kernel)
    path = solve.training_path(spectrum, y, [epochs], lr=lr, scale=2 / y.numel())
    f = path.train_predictions[0]
    close(torch.from_numpy(lazy.decision_function(X)), f[:, 1] - f[:, 0], rtol=1e-6, atol=1e-8)


@pytest.mark.peers
def test_neural_tangents_predicts_the_same_from_the_same_kernel(generator):
    nt = pytest.importorskip("neural_tangents")
    phi, psi, y = problem(generator)
    kernel, cross = trace(phi, phi), trace(psi, phi)
    predict = nt.predict.gradient_descent_mse(kernel.numpy(), y.numpy())
    zero_train, zero_test = np.zeros_like(y.numpy()), np.zeros((len(psi), 2))
    train, test = predict(3.0, zero_train, zero_test, cross.numpy())
    ours = solve.training_path(
        solve.spectrum(kernel), y, [3.0], cross_kernel=cross, scale=1 / y.numel()
    )
    np.testing.assert_allclose(ours.train_predictions[0], train, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours.test_predictions[0], test, rtol=1e-3, atol=1e-4)


def test_full_and_shared_solvers_agree_for_independent_outputs(generator):
    """The Kronecker product of a kernel with the identity is that kernel, shared."""
    phi, psi, y = problem(generator)
    shared, cross = trace(phi, phi), trace(psi, phi)
    eye = torch.eye(2, dtype=torch.float64)
    wide = torch.einsum("ij,ab->iajb", shared, eye)
    wide_cross = torch.einsum("ij,ab->iajb", cross, eye)
    one, two = solve.kernel_ridge(shared, y, 0.2), solve.kernel_ridge(wide, y, 0.2)
    close(one.predict(cross), two.predict(wide_cross))
    close(one.leave_one_out, two.leave_one_out)
    assert full(phi, phi).shape == wide.shape
