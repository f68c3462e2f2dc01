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
                          a product with it            product with K        preconditioner
K does not fit, stopped   `least_squares_steps` on     as many               m + 3 p, p weights
early                     J and its transpose
cross entropy             `cross_entropy_solution`     some hundred products m k and a product's
========================= ============================ ===================== ==================

All solve in float64 whatever the dtype of K. Leave-one-out comes with `kernel_ridge` and
``spectrum`` in closed form and with `cross_entropy_leave_one_out` to first order.

A badly conditioned kernel is helped, in this order, by centring (`KernelCentring`,
`centred_product`, `tangent.models.CentredModel`), by per-layer scales
(`tangent.kernel.balancing_scales`), and by a preconditioner (`nystrom_preconditioner`).

Nothing here knows of networks: any symmetric kernel will do.
"""

from tangent.solve.centring import KernelCentring, centred_product
from tangent.solve.conjugate import (
    ConjugateGradients,
    Iteration,
    UnconvergedWarning,
    conjugate_gradients,
)
from tangent.solve.flow import (
    TrainingPath,
    descent_filter,
    flow_filter,
    stability_edge,
    training_path,
)
from tangent.solve.lanczos import EigenvalueBounds, lanczos, largest_eigenvalue_bounds
from tangent.solve.least_squares import LeastSquaresStep, least_squares_steps
from tangent.solve.leave_one_out import cross_entropy_leave_one_out
from tangent.solve.newton import CrossEntropySolution, cross_entropy_solution
from tangent.solve.normal_equations import NormalEquations, NormalSolution
from tangent.solve.nystrom import NystromPreconditioner, nystrom_preconditioner
from tangent.solve.ridge import IllConditionedWarning, RidgeSolution, kernel_ridge
from tangent.solve.share_ridge import ShareRidge, share_ridge
from tangent.solve.spectrum import RidgePath, Spectrum, spectrum

__all__ = [
    "ConjugateGradients",
    "CrossEntropySolution",
    "EigenvalueBounds",
    "IllConditionedWarning",
    "Iteration",
    "KernelCentring",
    "LeastSquaresStep",
    "NormalEquations",
    "NormalSolution",
    "NystromPreconditioner",
    "RidgePath",
    "RidgeSolution",
    "ShareRidge",
    "Spectrum",
    "TrainingPath",
    "UnconvergedWarning",
    "centred_product",
    "conjugate_gradients",
    "cross_entropy_leave_one_out",
    "cross_entropy_solution",
    "descent_filter",
    "flow_filter",
    "kernel_ridge",
    "lanczos",
    "largest_eigenvalue_bounds",
    "least_squares_steps",
    "nystrom_preconditioner",
    "share_ridge",
    "spectrum",
    "stability_edge",
    "training_path",
]
