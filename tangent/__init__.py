"""Lazy training, linearized networks and empirical tangent kernels."""

from tangent.difference import Pair, ScaledDifference, linearize, register_gate, register_rule
from tangent.nets import mlp, network, resnet18, two_layer, vgg11

__all__ = [
    "Pair",
    "ScaledDifference",
    "linearize",
    "mlp",
    "network",
    "register_gate",
    "register_rule",
    "resnet18",
    "two_layer",
    "vgg11",
]
