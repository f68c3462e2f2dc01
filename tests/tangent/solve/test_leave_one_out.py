import pytest
import torch

from tangent.solve.leave_one_out import cross_entropy_leave_one_out
from tangent.solve.newton import cross_entropy_solution
from tests.tangent.kernels import problem, trace


@pytest.mark.parametrize("k", [2, 3])
def test_leave_one_out_of_cross_entropy_is_near_n_refits(k, generator):
    phi, _, _ = problem(generator, n=24, k=k)
    kernel = trace(phi, phi)
    labels = torch.randint(0, k, (24,), generator=generator)
    target = torch.nn.functional.one_hot(labels, k).double()
    ridge = 2 * float(kernel.diagonal().mean())
    fit = cross_entropy_solution(kernel.matmul, labels, ridge, tolerance=1e-6, num_classes=k)
    refits = []
    for i in range(24):
        kept = [j for j in range(24) if j != i]
        rest = cross_entropy_solution(
            kernel[kept][:, kept].matmul, labels[kept], ridge, tolerance=1e-6, num_classes=k
        )
        refits.append(kernel[i, kept] @ rest.coefficients)
    exact = torch.stack(refits)
    left = cross_entropy_leave_one_out(kernel, fit.outputs, target, ridge)
    moved = (exact - fit.outputs).norm()
    assert (left - exact).norm() < 0.1 * moved  # it is of first order
    loss = torch.nn.functional.cross_entropy
    assert float(loss(left, labels)) == pytest.approx(float(loss(exact, labels)), rel=0.05)


def test_weight_two_counts_twice(generator):
    phi, _, _ = problem(generator, n=20)
    kernel = trace(phi, phi)
    labels = torch.randint(0, 2, (20,), generator=generator)
    target = torch.nn.functional.one_hot(labels, 2).double()
    weight = torch.full((20,), 2.0, dtype=torch.float64)
    one = cross_entropy_solution(kernel.matmul, labels, 1.0, tolerance=1e-9)
    two = cross_entropy_solution(kernel.matmul, labels, 2.0, sample_weight=weight, tolerance=1e-9)
    torch.testing.assert_close(
        cross_entropy_leave_one_out(kernel, one.outputs, target, 1.0),
        cross_entropy_leave_one_out(kernel, two.outputs, target, 2.0, weight),
        rtol=1e-5,
        atol=1e-5,
    )
