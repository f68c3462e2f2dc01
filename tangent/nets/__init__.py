"""Networks of the paper's experiments, and their kernel-friendly variants.

VGG-11 and ResNet-18 here have no batch normalization: every output is a function of one input
alone, which a tangent kernel needs. Weights are Xavier normal, biases zero (Chizat et al. 2019,
Section 3.2 and the published code).
"""

from tangent.nets.convolutional import resnet18, vgg11
from tangent.nets.dense import TwoLayer, mlp, two_layer
from tangent.nets.designed import DesignedCNN, designed_cnn
from tangent.nets.frozen import PooledPatches
from tangent.nets.layers import ScaledConv2d, ScaledLinear
from tangent.nets.named import network

__all__ = [
    "DesignedCNN",
    "PooledPatches",
    "ScaledConv2d",
    "ScaledLinear",
    "TwoLayer",
    "designed_cnn",
    "mlp",
    "network",
    "resnet18",
    "two_layer",
    "vgg11",
]
