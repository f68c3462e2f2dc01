"""Difference propagation: alpha (h(w0 + delta/alpha) - h(w0)) without a subtraction.

A network is looked at once and then run on pairs, the base activation x of h(w0) and the scaled
difference u = alpha (x' - x), x' the activation at w0 + delta/alpha. Every operation has one small
rule (`tangent.operations`); a user adds others with `register_rule`.
"""

from tangent.difference.interpreter import ScaledDifference, linearize
from tangent.operations import winograd
from tangent.operations.activations import smooth_rule, stable_signs
from tangent.operations.registry import Pair, register_gate, register_rule, rule_for

__all__ = [
    "Pair",
    "ScaledDifference",
    "linearize",
    "register_gate",
    "register_rule",
    "rule_for",
    "smooth_rule",
    "stable_signs",
    "winograd",
]
