"""Networks of the user's own: ``file.py:function`` or ``package.module:function``.

The function is called with (input_shape, n_outputs, generator) and returns a torch module. It is
known by the content of its file: edited, it is another network. What it made can be unpickled in
another process, where `tangent` is imported and the file is the same.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from torch import nn

SIGNATURE = "(input_shape, n_outputs, generator)"
_PREFIX = "tangent_network_"


class NetworkNameError(ValueError):
    """A name that stands for no network, or for a function that does not make one."""


def _parts(model: str) -> tuple[str, str]:
    place, _, function = model.rpartition(":")
    if not place or not function:
        raise NetworkNameError(
            f"model {model!r}: give file.py:function or package.module:function; the function is "
            f"called with {SIGNATURE}"
        )
    return place, function


def _file(model: str) -> Path:
    """The file that defines ``file.py:function`` or ``package.module:function``."""
    place = _parts(model)[0]
    if place.endswith(".py"):
        if not (path := Path(place).expanduser()).is_file():
            raise NetworkNameError(
                f"model {model!r} cannot be imported: there is no file {place!r}"
            )
        return path.resolve()
    try:
        spec = importlib.util.find_spec(place)
    except Exception as error:  # a package on the way is imported, and can raise anything
        raise NetworkNameError(f"model {model!r} cannot be imported: {error}") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise NetworkNameError(
            f"model {model!r} cannot be imported: there is no module {place!r} in a file"
        )
    return Path(spec.origin)


def source(model: str) -> str:
    """Checksum of the file that defines the network; not of what that imports.

    Raises
    ------
    NetworkNameError
        When there is no such file.
    """
    return hashlib.sha256(_file(model).read_bytes()).hexdigest()[:12]


def own_network(model: str, known: str | None = None) -> Callable[..., nn.Module]:
    """Return the function that ``model`` names, which makes a network or says what is wrong.

    Parameters
    ----------
    model : str
    known : str, optional
        A `source` of before; a file with another one is refused.

    Raises
    ------
    NetworkNameError
        When it cannot be imported or called, when its file has changed since ``known``, and, once
        called, when it does not return a torch module.
    """
    if known is not None and source(model) != known:
        raise NetworkNameError(
            f"model {model!r}: its file has changed since it was named; start anew"
        )
    place, name = _parts(model)
    try:
        module = _module(_file(model)) if place.endswith(".py") else importlib.import_module(place)
    except NetworkNameError:
        raise
    except Exception as error:  # their code
        raise NetworkNameError(
            f"model {model!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    build = getattr(module, name, None)
    if not callable(build):
        raise NetworkNameError(
            f"model {model!r} cannot be imported: {place!r} has no function {name!r}; it is called "
            f"with {SIGNATURE}"
        )
    _check_signature(model, build)
    return _Checked(model, build)


def _module(path: Path) -> Any:
    """The module of a file, imported once for each of its contents."""
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # what lies beside it can be imported
    return importlib.import_module(_module_name(path))


def _module_name(path: Path) -> str:
    """A name that says where the file is and what is in it, for unpickling."""
    mark = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return f"{_PREFIX}{mark}_{str(path).encode().hex()}"


class _Finder(MetaPathFinder):
    """Finds the modules of own networks by the paths in their names."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(_PREFIX):
            return None
        file = Path(bytes.fromhex(fullname.rpartition("_")[2]).decode())
        if not file.is_file() or _module_name(file) != fullname:
            raise ModuleNotFoundError(
                f"a network was made by {file}, which is gone or has changed since; bring the "
                "file back, or fit anew",
                name=fullname,
            )
        return importlib.util.spec_from_file_location(fullname, file)


sys.meta_path.append(_Finder())


def _check_signature(model: str, build: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):  # of what is written in C
        return
    try:
        signature.bind(None, None, None)
    except TypeError as error:
        raise NetworkNameError(
            f"model {model!r}: the function is called with {SIGNATURE}; its own signature is "
            f"{signature} ({error})"
        ) from error


class _Checked:
    """A function that makes a network; what it returns is looked at."""

    def __init__(self, model: str, build: Callable[..., Any]):
        self._model, self._build = model, build

    def __call__(self, input_shape: tuple[int, ...], n_outputs: int, generator: Any) -> nn.Module:
        made = self._build(input_shape, n_outputs, generator)
        if not isinstance(made, nn.Module):
            raise NetworkNameError(
                f"model {self._model!r}: it must return a torch.nn.Module; got "
                f"{type(made).__name__}"
            )
        return made
