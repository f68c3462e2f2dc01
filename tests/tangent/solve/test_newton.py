import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tangent.solve.conjugate import UnconvergedWarning
from tangent.solve.newton import cross_entropy_solution
from tests.tangent.kernels import full, problem, trace

close = torch.testing.assert_close


@pytest.fixture
def labels(generator):
    return torch.randint(0, 3, (30,), generator=generator)


@pytest.fixture
def phi(generator):
    return problem(generator, n=30, k=3)[0]


def test_minimum_satisfies_its_equation(phi, labels):
    kernel = trace(phi, phi)
    fit = cross_entropy_solution(kernel.matmul, labels, 0.3, tolerance=1e-9)
    onehot = torch.nn.functional.one_hot(labels, 3).double()
    close(fit.coefficients, (onehot - torch.softmax(fit.outputs, 1)) / 0.3)
    close(fit.outputs, kernel @ fit.coefficients)


def test_shared_kernel_matches_logistic_regression_on_its_features(phi, labels):
    features = phi[:, 0]  # the kernel of one output, shared by three classes
    theirs = LogisticRegression(C=1 / 0.3, fit_intercept=False, tol=1e-10, max_iter=10_000)
    theirs.fit(features.numpy(), labels.numpy())
    kernel = features @ features.T
    fit = cross_entropy_solution(kernel.matmul, labels, 0.3, tolerance=1e-9)
    expected = torch.from_numpy(theirs.predict_proba(features.numpy()))
    close(torch.softmax(fit.outputs, 1), expected, rtol=1e-4, atol=1e-5)


def test_full_kernel_matches_an_optimizer_on_the_linearized_network(phi, labels, generator):
    kernel = full(phi, phi).reshape(90, 90)
    f0 = torch.randn(30, 3, generator=generator, dtype=torch.float64)

    def product(v):
        return (kernel @ v.reshape(-1)).reshape(v.shape)

    fit = cross_entropy_solution(product, labels, 0.5, initial_output=f0, tolerance=1e-9)
    delta = torch.zeros(phi.shape[2], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [delta], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def loss():
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(f0 + phi @ delta, labels, reduction="sum")
        value = value + 0.25 * delta @ delta
        value.backward()
        return value

    optimizer.step(loss)
    close(fit.outputs, f0 + phi @ delta.detach(), rtol=1e-4, atol=1e-5)
    assert fit.objective == pytest.approx(loss().item(), rel=1e-9)


def test_sample_weight_two_is_the_input_twice(phi, labels):
    weight = torch.ones(30, dtype=torch.float64)
    weight[:5] = 2
    twice = torch.cat([torch.arange(30), torch.arange(5)])
    one = cross_entropy_solution(
        trace(phi, phi).matmul, labels, 0.3, sample_weight=weight, tolerance=1e-10
    )
    two = cross_entropy_solution(
        trace(phi[twice], phi[twice]).matmul, labels[twice], 0.3, tolerance=1e-10
    )
    close(one.outputs, two.outputs[:30])


def test_warm_start_saves_steps(phi, labels):
    kernel = trace(phi, phi)
    first = cross_entropy_solution(kernel.matmul, labels, 0.3)
    again = cross_entropy_solution(kernel.matmul, labels, 0.3, initial=first.coefficients)
    assert again.iterations == 0 < first.iterations


def test_separable_data_with_a_small_ridge_converge(phi):
    labels = (phi[:, 0, 0] > 0).long()
    fit = cross_entropy_solution(trace(phi, phi).matmul, labels, 1e-6, tolerance=1e-5)
    assert (fit.outputs.argmax(1) == labels).all()
    assert fit.converged


def test_running_out_of_steps_warns(phi, labels):
    with pytest.warns(UnconvergedWarning, match="stopped after 1 steps"):
        fit = cross_entropy_solution(trace(phi, phi).matmul, labels, 1e-4, max_iterations=1)
    assert not fit.converged


@pytest.mark.parametrize(
    ("labels", "ridge", "message"),
    [
        (torch.tensor([0, 1]), 0.0, "ridge must be positive for cross entropy"),
        (torch.tensor([0, 5]), 1.0, r"labels must be in 0..2; got 0..5"),
        (torch.tensor([[0.5, float("nan"), 0.5]]), 1.0, "labels must be finite"),
    ],
)
def test_bad_input_is_named(labels, ridge, message):
    with pytest.raises(ValueError, match=message):
        cross_entropy_solution(lambda v: v, labels, ridge, num_classes=3)
