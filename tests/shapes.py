"""The runtime check of array shapes that the suite runs under."""

from __future__ import annotations

import types
import typing

from beartype import beartype


def _mentions_an_array(hint: object) -> bool:
    if getattr(type(hint), "__module__", "").startswith("jaxtyping"):
        return True
    return any(_mentions_an_array(part) for part in typing.get_args(hint))


def checked(function):
    """Check the array annotations of ``function`` and no others.

    The others are left out because the public border has errors of its own to raise, which the
    tests look at.
    """
    if not isinstance(function, types.FunctionType):
        return function
    try:
        hints = typing.get_type_hints(function)
    except NameError:  # a name imported for type checkers only
        return function
    arrays = {name: hint for name, hint in hints.items() if _mentions_an_array(hint)}
    if not arrays:
        return function
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__module__ = function.__module__
    copy.__qualname__ = function.__qualname__
    copy.__doc__ = function.__doc__
    copy.__annotations__ = arrays
    return beartype(copy)
