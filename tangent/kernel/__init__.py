"""Tangent features and kernels of networks: as a matrix, as products, on disk, layer by layer."""

from tangent.kernel.features import (
    tangent_features,
)
from tangent.kernel.matrix import (
    tangent_kernel,
)
from tangent.kernel.operator import (
    TangentOperator,
    kernel_eigenvalues,
    kernel_trace,
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
