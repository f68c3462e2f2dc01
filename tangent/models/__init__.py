"""Models of lazy training: alpha (h(w0 + delta/alpha) - h(w0)) without a subtraction, and losses.

A network is looked at once and then run on pairs, the base activation x of h(w0) and the scaled
difference u = alpha (x' - x), x' the activation at w0 + delta/alpha. Every operation has one small
rule (`tangent.operations`); a user adds others with `tangent.register_rule`.
"""

from tangent.models.centring import CentredModel, mean_tangent_features
from tangent.models.losses import Loss, loss_named
from tangent.models.propagation import ScaledDifference, linearize

__all__ = [
    "CentredModel",
    "Loss",
    "ScaledDifference",
    "linearize",
    "loss_named",
    "mean_tangent_features",
]
