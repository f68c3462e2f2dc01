"""The runtime check of array shapes that the suite runs under."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Container
from typing import Any

import jaxtyping
from beartype import beartype

_ARRAY = re.compile(r"\b(Shaped|Float\w*|Int\w*|UInt\w*|Integer|Bool|Num|Real|Complex\w*)\[")


class UncheckedShapeError(RuntimeError):
    """An annotated shape that no test would check."""


def _mentions_an_array(hint: object) -> bool:
    if getattr(type(hint), "__module__", "").startswith("jaxtyping"):
        return True
    return any(_mentions_an_array(part) for part in typing.get_args(hint))


class _Unseen(type):
    """A name imported for type checkers only: anything is one, and so is what it holds."""

    def __instancecheck__(cls, instance: object) -> bool:
        return True

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Any


class _Anything(metaclass=_Unseen):
    pass


def _hints(function: types.FunctionType) -> dict[str, object]:
    """The annotations, with a stand-in for names that are imported for type checkers only.

    An annotation of an array must resolve in full: one that does not would never be checked.
    """
    known: dict[str, object] = {}
    while True:
        try:
            return typing.get_type_hints(function, localns=known)
        except NameError as error:
            name = str(error.name)
            for argument, hint in function.__annotations__.items():
                if _ARRAY.search(str(hint)) and re.search(rf"\b{name}\b", str(hint)):
                    where = f"{function.__module__}.{function.__qualname__}"
                    raise UncheckedShapeError(
                        f"{where}: the shape of {argument!r}, {hint}, cannot be checked: "
                        f"{name} is not defined where it is read"
                    ) from error
            known[name] = _Anything


def require_active(packages: tuple[str, ...], modules: Container[str] = sys.modules) -> None:
    """Raise unless the shapes of ``packages``, not yet imported, are going to be checked."""
    if jaxtyping.config.jaxtyping_disable:
        raise UncheckedShapeError(
            "shapes are not checked: JAXTYPING_DISABLE is set in the environment; unset it"
        )
    early = [name for name in packages if name in modules]
    if early:
        raise UncheckedShapeError(
            f"shapes are not checked: {', '.join(early)} was imported before the check was "
            "installed; take it out of the plugin or conftest that imports it"
        )


def check(packages: tuple[str, ...]) -> None:
    """Check the shapes of ``packages``, not yet imported, in every call from now on.

    jaxtyping's hook decorates every function, and binds the arguments of each at every call: a
    fifth of the suite's time and more of its imports. Here it decorates those of arrays alone.
    """
    require_active(packages)
    jaxtyping.install_import_hook(packages, "tests.shapes.checked")
    decorator = jaxtyping.jaxtyped

    def of_arrays_alone(*, typechecker: Any) -> Callable[[Any], Any]:
        decorate = decorator(typechecker=typechecker)
        return lambda made: decorate(made) if takes_arrays(made) else made

    jaxtyping.jaxtyped = of_arrays_alone


def takes_arrays(made: Any) -> bool:
    """Whether a function, or the fields of a dataclass, are annotated as arrays anywhere."""
    if inspect.isclass(made):
        made = made.__init__ if dataclasses.is_dataclass(made) else None
    if not isinstance(made, types.FunctionType):
        return False
    return any(_mentions_an_array(hint) for hint in _hints(made).values())


def checked(function):
    """Check the array annotations of ``function`` and no others.

    The others are left out because the public border has errors of its own to raise, which the
    tests look at.
    """
    if not isinstance(function, types.FunctionType):
        return function
    hints = _hints(function)
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
