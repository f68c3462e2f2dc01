"""Ridge regression on weighted shares, against refits without each input."""

import pytest
import torch

from tangent.solve.share_ridge import share_ridge


@pytest.fixture
def features(generator):
    first = torch.randn(14, 30, generator=generator, dtype=torch.float64)
    second = torch.randn(14, 3, generator=generator, dtype=torch.float64) + 1
    return first, second


@pytest.fixture
def y(features, generator):
    score = features[1][:, 0] + 0.5 * torch.randn(14, generator=generator, dtype=torch.float64)
    return torch.nn.functional.one_hot((score > 1).long() + (score > 2).long(), 3).double()


def kernels(features, rows=slice(None)):
    return [f[rows] @ f.T for f in features]


def ridge_with_constant(phi, y, ridge):
    """Primal weights and constant by least squares, the constant without penalty."""
    n, p = phi.shape
    rows = torch.cat([phi, ridge**0.5 * torch.eye(p, dtype=phi.dtype)])
    ones = torch.cat([torch.ones(n), torch.zeros(p)]).double()[:, None]
    right = torch.cat([y, torch.zeros(p, y.shape[1], dtype=y.dtype)])
    solution = torch.linalg.lstsq(torch.cat([rows, ones], 1), right).solution
    return solution[:-1], solution[-1]


def scaled(features, weights):
    """One feature matrix whose kernel is the weighted sum of shares of unit centred trace."""
    parts = []
    for f, w in zip(features, weights, strict=True):
        trace = (f - f.mean(0)).square().sum() / len(f)
        parts.append(f * (w / trace).sqrt())
    return torch.cat(parts, 1)


@pytest.mark.parametrize("weights", [(1.0, 0.25), (0.0, 2.0)])
def test_predictions_are_those_of_the_primal_fit_with_a_constant(features, y, weights):
    fit = share_ridge(kernels(features), y, [weights], [0.3])
    phi = scaled(features, weights)
    w, b = ridge_with_constant(phi, y, 0.3)
    torch.testing.assert_close(fit.predict(kernels(features)), phi @ w + b)
    torch.testing.assert_close(fit.dual.sum(0), torch.zeros(3).double(), atol=1e-12, rtol=0)


def test_leave_one_out_is_that_of_refits_without_each_input(features, y):
    choices, ridges = [(1.0, 0.1), (0.2, 1.0)], [0.01, 0.3]
    fit = share_ridge(kernels(features), y, choices, ridges)
    for choice in choices:
        phi = scaled(features, choice)
        for ridge in ridges:
            right = 0
            for i in range(len(y)):
                others = torch.arange(len(y)) != i
                w, b = ridge_with_constant(phi[others], y[others], ridge)
                right += int((phi[i] @ w + b).argmax() == y[i].argmax())
            assert fit.left_out[choice, ridge] == pytest.approx(right / len(y))
    best = fit.left_out[fit.weights, fit.ridge]
    assert best == max(fit.left_out.values())
    right = fit.left_out_outputs.argmax(1) == y.argmax(1)
    assert right.double().mean() == pytest.approx(best)


def test_new_inputs_are_predicted_as_the_primal_fit_predicts_them(features, y):
    fit = share_ridge([k[:10, :10] for k in kernels(features)], y[:10], [(1.0, 0.5)], [0.1])
    scale = [(f[:10] - f[:10].mean(0)).square().sum() / 10 for f in features]
    phi = torch.cat(
        [f * (w / s).sqrt() for f, w, s in zip(features, (1, 0.5), scale, strict=True)], 1
    )
    w, b = ridge_with_constant(phi[:10], y[:10], 0.1)
    new = [k[:, :10] for k in kernels(features, slice(10, None))]
    torch.testing.assert_close(fit.predict(new), phi[10:] @ w + b)


def test_the_condition_number_is_that_of_the_centred_kernel(features, y):
    fit = share_ridge(kernels(features), y, [(0.0, 1.0)], [0.2])
    f = scaled(features, (0, 1))
    centred = f - f.mean(0)
    top = torch.linalg.eigvalsh(centred @ centred.T)[-1]
    assert fit.condition_number == pytest.approx(float(top) / 0.2 + 1, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [(1.0,)]}, "tuples of 2 numbers"),
        ({"weights": [(0.0, 0.0)]}, "not all 0"),
        ({"weights": []}, "weights must be tuples"),
        ({"ridges": [0.0]}, "ridges must be above 0"),
        ({"ridges": []}, "ridges must be above 0"),
        ({"shares": []}, "shares must hold a kernel"),
        ({"shares": [torch.eye(3), torch.eye(3)]}, r"shape \(14, 14\)"),
        ({"shares": [torch.ones(14, 14)] * 2}, "centred trace 0"),
    ],
)
def test_wrong_arguments_are_named(features, y, change, message):
    given = {"shares": kernels(features), "y": y, "weights": [(1.0, 1.0)], "ridges": [0.1]}
    with pytest.raises(ValueError, match=message):
        share_ridge(**{**given, **change})
