"""The pair that travels through a network; it lives with the rules that move it."""

from tangent.operations.registry import Pair, register_gate, register_rule

__all__ = ["Pair", "register_gate", "register_rule"]
