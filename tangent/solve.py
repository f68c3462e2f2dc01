"""The solvers of linearized networks, in one place, and which to take.

With K the tangent kernel of the training inputs, m = n rows for a kernel shared across outputs and
m = n k for a full one:

========================= ============================ ===================== ==================
task                      take                         arithmetic            memory, 8 bytes
========================= ============================ ===================== ==================
one ridge value           `kernel_ridge`               m^3                   3 m^2
many ridge values         ``spectrum(K).ridge``        9 m^3, then m^2 each  4 m^2
training to any time      `training_path`              m^2 a time            as `spectrum`
K does not fit            `conjugate_gradients` on     iterations times a    m times rank of the
                          `KernelProduct`              product with K        preconditioner
cross entropy             `cross_entropy_solution`     some hundred products m k and a product's
========================= ============================ ===================== ==================

All solve in float64 whatever the dtype of K. Leave-one-out comes with `kernel_ridge` and
``spectrum`` in closed form and with `cross_entropy_leave_one_out` to first order.

A badly conditioned kernel is helped, in this order, by centring (`KernelCentring`,
`centred_product`, `CentredModel`), by per-layer scales (`balancing_scales`), and by a
preconditioner (`nystrom_preconditioner`).
"""

from tangent.centring import CentredModel, KernelCentring, centred_product, mean_tangent_features
from tangent.conjugate import (
    ConjugateGradients,
    Iteration,
    UnconvergedWarning,
    conjugate_gradients,
)
from tangent.flow import (
    TrainingPath,
    descent_filter,
    flow_filter,
    stable_lr,
    training_path,
)
from tangent.leave_one_out import cross_entropy_leave_one_out
from tangent.newton import CrossEntropySolution, cross_entropy_solution
from tangent.preconditioner import NystromPreconditioner, nystrom_preconditioner
from tangent.products import KernelProduct
from tangent.ridge import IllConditionedWarning, RidgeSolution, kernel_ridge
from tangent.scaling import balancing_scales, parameter_groups, scaled_kernel
from tangent.spectrum import RidgePath, Spectrum, spectrum

__all__ = [
    "CentredModel",
    "ConjugateGradients",
    "CrossEntropySolution",
    "IllConditionedWarning",
    "Iteration",
    "KernelCentring",
    "KernelProduct",
    "NystromPreconditioner",
    "RidgePath",
    "RidgeSolution",
    "Spectrum",
    "TrainingPath",
    "UnconvergedWarning",
    "balancing_scales",
    "centred_product",
    "conjugate_gradients",
    "cross_entropy_leave_one_out",
    "cross_entropy_solution",
    "descent_filter",
    "flow_filter",
    "kernel_ridge",
    "mean_tangent_features",
    "nystrom_preconditioner",
    "parameter_groups",
    "scaled_kernel",
    "spectrum",
    "stable_lr",
    "training_path",
]
