"""One table of operations: how each moves a difference, what it decides, how it is pulled back.

An entry (`tangent.operations.table.Operation`) is found by the ATen operation it belongs to.
Families of operations fill it: `affine`, `activations` (`smooth`), `rectifiers`, `pooling`,
`normalization`, `shape`, `arithmetic`, `writing`. What has no entry goes through `generic`.
"""

from tangent.operations.registry import (
    Pair,
    register_gate,
    register_rule,
    rule_for,
)
from tangent.operations.relu import stable_signs
from tangent.operations.smooth import smooth_rule

__all__ = [
    "Pair",
    "register_gate",
    "register_rule",
    "rule_for",
    "smooth_rule",
    "stable_signs",
]
