"""Lazy training, linearized networks and empirical tangent kernels.

Four groups: models (`linearize` and networks), the kernel, scikit-learn estimators, and laziness.
The rest has rooms of its own: `tangent.solve` (any symmetric kernel), `tangent.training`,
`tangent.theory`, `tangent.nets`, `tangent.operations`.
"""

from typing import TYPE_CHECKING, Any

from tangent.capture.description import describe
from tangent.kernel import stored_tangent_kernel, tangent_features, tangent_kernel
from tangent.laziness import LazinessReport, laziness
from tangent.models import ScaledDifference, linearize
from tangent.nets import mlp, resnet18, vgg11
from tangent.operations import register_rule
from tangent.training import stability_edge, stability_of_activations

if TYPE_CHECKING:
    from tangent.estimators import (
        LazyClassifier,
        LazyRegressor,
        TangentFeatures,
        TangentKernel,
        TangentKernelClassifier,
        TangentKernelRegressor,
    )
    from tangent.kernel import TangentOperator

__all__ = [  # noqa: RUF022 (in groups, as the page of the reference shows them)
    # models
    "ScaledDifference",
    "describe",
    "linearize",
    "mlp",
    "register_rule",
    "resnet18",
    "vgg11",
    # kernel
    "TangentOperator",
    "stored_tangent_kernel",
    "tangent_features",
    "tangent_kernel",
    # estimators
    "LazyClassifier",
    "LazyRegressor",
    "TangentFeatures",
    "TangentKernel",
    "TangentKernelClassifier",
    "TangentKernelRegressor",
    # laziness
    "LazinessReport",
    "laziness",
    "stability_edge",
    "stability_of_activations",
]


def __getattr__(name: str) -> Any:
    """Import where it is asked for what needs scikit-learn or SciPy, which take longer than all."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = "tangent.kernel" if name == "TangentOperator" else "tangent.estimators"
    globals()[name] = found = getattr(import_module(room), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
