"""Difference propagation: alpha (h(w0 + delta/alpha) - h(w0)) without a subtraction.

A network is traced once and then run on pairs, the base activation x of h(w0) and the scaled
difference u = alpha (x' - x), x' the activation at w0 + delta/alpha. Every operation has one small
rule; a user adds others with `register_rule`.
"""

from tangent.difference import activations, affine, normalization, pooling, structure
from tangent.difference.activations import smooth_rule, stable_signs
from tangent.difference.interpreter import ScaledDifference, linearize
from tangent.difference.pair import Pair, register_gate, register_rule, rule_for

__all__ = [
    "Pair",
    "ScaledDifference",
    "linearize",
    "register_gate",
    "register_rule",
    "rule_for",
    "smooth_rule",
    "stable_signs",
]

# Imported for the rules that they register.
del activations, affine, normalization, pooling, structure
