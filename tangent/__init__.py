"""Lazy training, linearized networks and empirical tangent kernels."""

from tangent.batches import Inputs
from tangent.capture.description import describe
from tangent.difference import (
    Pair,
    ScaledDifference,
    linearize,
    register_gate,
    register_rule,
)
from tangent.estimators import (
    LazyClassifier,
    LazyRegressor,
    TangentFeatures,
    TangentKernel,
    TangentKernelClassifier,
    TangentKernelRegressor,
)
from tangent.features import (
    tangent_features,
)
from tangent.kernel import (
    tangent_kernel,
)
from tangent.laziness import LazinessReport, laziness
from tangent.lazy import (
    DivergenceError,
    stability_of_activations,
)
from tangent.learning_rate import (
    stability_edge,
)
from tangent.losses import Loss, loss_named
from tangent.nets import (
    mlp,
    network,
    resnet18,
    two_layer,
    vgg11,
)
from tangent.operator import (
    TangentOperator,
    kernel_eigenvalues,
    kernel_trace,
)
from tangent.solve import (
    CentredModel,
    ConjugateGradients,
    CrossEntropySolution,
    IllConditionedWarning,
    Iteration,
    KernelCentring,
    KernelProduct,
    NystromPreconditioner,
    RidgePath,
    RidgeSolution,
    Spectrum,
    TrainingPath,
    UnconvergedWarning,
    balancing_scales,
    centred_product,
    conjugate_gradients,
    cross_entropy_leave_one_out,
    cross_entropy_solution,
    descent_filter,
    flow_filter,
    kernel_ridge,
    mean_tangent_features,
    nystrom_preconditioner,
    parameter_groups,
    scaled_kernel,
    spectrum,
    stable_lr,
    training_path,
)
from tangent.stored import stored_tangent_kernel

__all__ = [
    "CentredModel",
    "ConjugateGradients",
    "CrossEntropySolution",
    "DivergenceError",
    "IllConditionedWarning",
    "Inputs",
    "Iteration",
    "KernelCentring",
    "KernelProduct",
    "LazinessReport",
    "LazyClassifier",
    "LazyRegressor",
    "Loss",
    "NystromPreconditioner",
    "Pair",
    "RidgePath",
    "RidgeSolution",
    "ScaledDifference",
    "Spectrum",
    "TangentFeatures",
    "TangentKernel",
    "TangentKernelClassifier",
    "TangentKernelRegressor",
    "TangentOperator",
    "TrainingPath",
    "UnconvergedWarning",
    "balancing_scales",
    "centred_product",
    "conjugate_gradients",
    "cross_entropy_leave_one_out",
    "cross_entropy_solution",
    "descent_filter",
    "describe",
    "flow_filter",
    "kernel_eigenvalues",
    "kernel_ridge",
    "kernel_trace",
    "laziness",
    "linearize",
    "loss_named",
    "mean_tangent_features",
    "mlp",
    "network",
    "nystrom_preconditioner",
    "parameter_groups",
    "register_gate",
    "register_rule",
    "resnet18",
    "scaled_kernel",
    "spectrum",
    "stability_edge",
    "stability_of_activations",
    "stable_lr",
    "stored_tangent_kernel",
    "tangent_features",
    "tangent_kernel",
    "training_path",
    "two_layer",
    "vgg11",
]
