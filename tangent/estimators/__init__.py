"""scikit-learn estimators of lazy, linearized and tangent-kernel models."""

from tangent.estimators._explain import Explanation
from tangent.estimators.candidates import Perceptron, SinCos
from tangent.estimators.features_transformer import TangentFeatures
from tangent.estimators.kernel_classifier import TangentKernelClassifier
from tangent.estimators.kernel_function import TangentKernel
from tangent.estimators.kernel_regressor import TangentKernelRegressor
from tangent.estimators.lazy import LazyClassifier, LazyRegressor

__all__ = [
    "Explanation",
    "LazyClassifier",
    "LazyRegressor",
    "Perceptron",
    "SinCos",
    "TangentFeatures",
    "TangentKernel",
    "TangentKernelClassifier",
    "TangentKernelRegressor",
]
