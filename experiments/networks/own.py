"""Networks of the user's own: ``file.py:function`` or ``package.module:function``.

The function is called with (input_shape, n_outputs, generator), as the estimators call theirs, and
returns a torch module. A run knows it by the content of its file too: edited, it is another run.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.usage import UsageError

__all__ = ["SIGNATURE", "own_model", "source"]

SIGNATURE = "(input_shape, n_outputs, generator)"


def _parts(model: str) -> tuple[str, str]:
    place, _, function = model.rpartition(":")
    if not place or not function:
        raise UsageError(
            f"--model {model}: give file.py:function or package.module:function; the function is "
            f"called with {SIGNATURE}"
        )
    return place, function


def _file(model: str) -> Path:
    """The file that defines ``file.py:function`` or ``package.module:function``."""
    place = _parts(model)[0]
    if place.endswith(".py"):
        if not (path := Path(place).expanduser()).is_file():
            raise UsageError(f"--model {model} cannot be imported: there is no file {place!r}")
        return path.resolve()
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        spec = importlib.util.find_spec(place)
    except Exception as error:  # a package on the way is imported, and can raise anything
        raise UsageError(f"--model {model} cannot be imported: {error}") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise UsageError(
            f"--model {model} cannot be imported: there is no module {place!r} in a file"
        )
    return Path(spec.origin)


def source(model: str) -> str:
    """Checksum of the file that defines the network; not of what that imports.

    Raises
    ------
    UsageError
        When there is no such file.
    """
    return hashlib.sha256(_file(model).read_bytes()).hexdigest()[:12]


def own_model(model: str, known: str | None = None) -> Callable[..., Any]:
    """Return the function that ``model`` names, which makes a network or says what is wrong.

    Parameters
    ----------
    model : str
    known : str, optional
        The `source` that the run was planned with.

    Raises
    ------
    UsageError
        When it cannot be imported or called, when its file has changed since the run was planned,
        and, once called, when it does not return a torch module.
    """
    if known is not None and source(model) != known:
        raise UsageError(
            f"--model {model}: its file has changed since the command began; start anew"
        )
    place, name = _parts(model)
    try:
        module = _module(_file(model)) if place.endswith(".py") else importlib.import_module(place)
    except UsageError:
        raise
    except Exception as error:  # their code
        raise UsageError(
            f"--model {model} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    build = getattr(module, name, None)
    if not callable(build):
        raise UsageError(
            f"--model {model} cannot be imported: {place!r} has no function {name!r}; it is called "
            f"with {SIGNATURE}"
        )
    _check_signature(model, build)
    return _Checked(model, build)


def _module(path: Path) -> Any:
    """The module of a file, imported once for each of its contents."""
    mark = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:12]
    name = f"own_model_{path.stem}_{mark}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None  # its name ends with .py
        assert spec.loader is not None
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # what lies beside it can be imported
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _check_signature(model: str, build: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):  # of what is written in C
        return
    try:
        signature.bind(None, None, None)
    except TypeError as error:
        raise UsageError(
            f"--model {model}: the function is called with {SIGNATURE}; its own signature is "
            f"{signature} ({error})"
        ) from error


class _Checked:
    """A function that makes a network; what it returns is looked at."""

    def __init__(self, model: str, build: Callable[..., Any]):
        self._model, self._build = model, build

    def __call__(self, input_shape: tuple[int, ...], n_outputs: int, generator: Any) -> Any:
        from torch import nn

        from tangent.solve.system import allocations_of

        way_out = "make the network smaller"
        with allocations_of(f"--model {self._model}: the function", way_out):
            made = self._build(input_shape, n_outputs, generator)
        if not isinstance(made, nn.Module):
            raise UsageError(
                f"--model {self._model}: it must return a torch.nn.Module; got "
                f"{type(made).__name__}"
            )
        return made
