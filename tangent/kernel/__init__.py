"""Tangent features and kernels of networks: as a matrix, as products, on disk, layer by layer."""

from typing import TYPE_CHECKING, Any

from tangent.kernel.features import (
    tangent_features,
)
from tangent.kernel.matrix import (
    tangent_kernel,
)
from tangent.kernel.products import (
    KernelProduct,
)
from tangent.kernel.scaling import (
    balancing_scales,
    parameter_groups,
    scaled_kernel,
)
from tangent.kernel.stored import (
    stored_tangent_kernel,
)

if TYPE_CHECKING:
    from tangent.kernel.operator import (
        TangentOperator,
        kernel_eigenvalues,
        kernel_trace,
    )

__all__ = [
    "KernelProduct",
    "TangentOperator",
    "balancing_scales",
    "kernel_eigenvalues",
    "kernel_trace",
    "parameter_groups",
    "scaled_kernel",
    "stored_tangent_kernel",
    "tangent_features",
    "tangent_kernel",
]


def __getattr__(name: str) -> Any:
    """The operator is imported where it is asked for: SciPy's takes as long as all the rest."""
    if name not in ("TangentOperator", "kernel_eigenvalues", "kernel_trace"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = found = getattr(import_module("tangent.kernel.operator"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
