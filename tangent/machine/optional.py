"""Packages that only some functions need, imported where these are called."""

from __future__ import annotations

import importlib
from typing import Any


def optional(module: str, purpose: str) -> Any:
    """The module ``module``, for what ``purpose`` says.

    Raises
    ------
    ModuleNotFoundError
        If its package is not installed, with the command that installs it.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f"{purpose} needs the package {package}, which is not installed; pip install {package}",
            name=error.name,
        ) from error
