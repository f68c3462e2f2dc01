"""One look inside a network: any module and its inputs -> the operations it calls, in order."""

from tangent.capture.graph import Call, Custom, Graph, Value
from tangent.capture.network import captured, evaluated_copy, picked, picking, unwrapped

__all__ = [
    "Call",
    "Custom",
    "Graph",
    "Value",
    "captured",
    "evaluated_copy",
    "picked",
    "picking",
    "unwrapped",
]
