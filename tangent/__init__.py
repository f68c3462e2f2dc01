"""Lazy training, linearized networks and empirical tangent kernels."""

from tangent.nets import mlp, network, resnet18, two_layer, vgg11

__all__ = ["mlp", "network", "resnet18", "two_layer", "vgg11"]
