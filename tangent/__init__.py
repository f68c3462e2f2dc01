"""Lazy training, linearized networks and empirical tangent kernels."""

from tangent.difference import Pair, ScaledDifference, linearize, register_gate, register_rule
from tangent.estimators import LazyClassifier, LazyRegressor
from tangent.lazy import DivergenceError, stability_of_activations
from tangent.learning_rate import stability_edge
from tangent.nets import mlp, network, resnet18, two_layer, vgg11

__all__ = [
    "DivergenceError",
    "LazyClassifier",
    "LazyRegressor",
    "Pair",
    "ScaledDifference",
    "linearize",
    "mlp",
    "network",
    "register_gate",
    "register_rule",
    "resnet18",
    "stability_edge",
    "stability_of_activations",
    "two_layer",
    "vgg11",
]
