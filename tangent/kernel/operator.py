"""The tangent kernel as an operator: products without the matrix, eigenvalues, trace."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

from tangent.capture.functional import first_weight
from tangent.kernel.products import KernelProduct
from tangent.machine.modes import check_network
from tangent.solve.centring import centred_product

__all__ = ["TangentOperator", "kernel_eigenvalues", "kernel_trace", "largest_eigenvalue"]

_NOT_FINITE = (
    "operator must be finite; a product with it is not: its entries exceed the range of {}, or "
    "inputs or weights are NaN"
)
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


class TangentOperator(LinearOperator):
    """A SciPy linear operator (symmetric, positive semidefinite) that never forms the kernel.

    Parameters
    ----------
    model : nn.Module
        Read at its present weights, in evaluation mode, and left as found; float32 or float64.
    x : Tensor of shape (n, *input)
    outputs : {"full", "pseudo"} or int
        As in `tangent.tangent_kernel`. ``"full"`` has n * k rows, the k outputs of an input
        together (``tangent_kernel(model, x).reshape(n * k, n * k)``); the others n.
    batch_size : int
        Inputs handled at once.
    centred : bool
        Subtract the mean over the inputs of the tangent features, output by output.

    Notes
    -----
    ``K v`` is one vector-Jacobian product, summed over mini-batches, and one Jacobian-vector
    product a mini-batch. Take it where n * k is so large that the matrix does not fit, or where
    a few products are enough; a product costs about as much as two to three backward passes over
    the data, a column.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        *,
        outputs: str | int = "full",
        batch_size: int = 256,
        centred: bool = False,
    ):
        if outputs in ("trace", "diagonal"):
            raise ValueError(
                f"outputs must be 'full', 'pseudo' or the index of an output; got {outputs!r}; "
                "sum the operators of the outputs for the trace"
            )
        check_network(model)
        weight = first_weight(model)
        if weight is None:
            raise ValueError("model must have real parameters; it has none, so it has no kernel")
        if weight.dtype not in _NUMPY:
            raise ValueError(f"model must be float32 or float64; got {weight.dtype}")
        self._like = weight.detach()
        product = KernelProduct(model, x, outputs=outputs, batch_size=batch_size)
        self.product: Callable[[Tensor], Tensor] = product
        if centred:
            self.product = centred_product(product, len(product.x))
        super().__init__(dtype=np.dtype(_NUMPY[weight.dtype]), shape=(product.rows, product.rows))

    def apply(self, v: Float[Tensor, " m *r"]) -> Float[Tensor, " m *r"]:
        """Return ``K v`` for a vector, or for the columns of a matrix."""
        return self.product(v.to(self._like))

    def _matmat(self, v: np.ndarray) -> np.ndarray:
        columns = torch.from_numpy(np.ascontiguousarray(v))
        return self.apply(columns).cpu().numpy()

    def _matvec(self, v: np.ndarray) -> np.ndarray:
        return self._matmat(v.reshape(-1, 1)).reshape(-1)

    def _adjoint(self) -> TangentOperator:
        return self


def kernel_eigenvalues(
    operator: LinearOperator,
    count: int = 6,
    *,
    largest: bool = True,
    tolerance: float = 1e-6,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " count"]:
    """Eigenvalues at one end of the spectrum by Lanczos iterations, largest first.

    Parameters
    ----------
    operator : LinearOperator
        A `TangentOperator`, or any symmetric operator.
    count : int
        Below the number of rows.
    largest : bool
        The smallest ones converge slowly where the kernel is ill-conditioned.
    tolerance : float
        Relative accuracy.
    generator : torch.Generator, optional
        A CPU generator for the starting vector.

    Raises
    ------
    ValueError
        If ``count`` does not lie between 1 and the number of rows less one, or a product is not
        finite.
    """
    rows = operator.shape[0]
    if not 1 <= count < rows:
        raise ValueError(f"count must be between 1 and {rows - 1} here; got {count}")
    start = torch.randn(rows, generator=generator, dtype=torch.float64).numpy()
    if not np.isfinite(operator.matvec(start.astype(operator.dtype))).all():
        raise ValueError(_NOT_FINITE.format(operator.dtype))
    which = "LA" if largest else "SA"
    values = eigsh(
        operator,
        k=count,
        which=which,
        v0=start.astype(operator.dtype),
        tol=tolerance,
        return_eigenvectors=False,
    )
    return torch.from_numpy(np.sort(values)[::-1].astype(np.float64).copy())


def largest_eigenvalue(
    operator: LinearOperator, *, generator: torch.Generator | None = None
) -> float:
    """Largest eigenvalue, to 1e-6: the bound that decides the largest stable learning rate."""
    if operator.shape[0] == 1:
        return float(operator.matvec(np.ones(1, dtype=operator.dtype))[0])
    return kernel_eigenvalues(operator, 1, generator=generator).item()


def kernel_trace(
    operator: LinearOperator,
    products: int = 60,
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Trace from about ``products`` products with vectors, by Hutch++ (Meyer et al. 2021).

    The trace on a random subspace that holds the large eigenvalues is exact, and the rest is
    estimated by Hutchinson's method: unbiased, with a relative error of order 1 / products.

    Raises
    ------
    ValueError
        If ``products`` is below 3, or a product is not finite.
    """
    if products < 3:
        raise ValueError(f"products must be at least 3; got {products}")
    rows = operator.shape[0]
    size = min(products // 3, rows)

    def signs() -> np.ndarray:
        bits = torch.randint(0, 2, (rows, size), generator=generator)
        return (2 * bits - 1).numpy().astype(operator.dtype)

    image = operator.matmat(signs())
    if not np.isfinite(image).all():
        raise ValueError(_NOT_FINITE.format(operator.dtype))
    basis = np.linalg.qr(image)[0]
    inside = np.vdot(basis, operator.matmat(basis))
    rest = signs()
    rest -= basis @ (basis.T @ rest)
    return float(inside + np.vdot(rest, operator.matmat(rest)) / size)
