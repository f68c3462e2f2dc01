"""An experiment by the place of its folder: settings, measuring and drawing, each when needed."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

_ELSEWHERE = {"compute": "measure", "draw": "draw"}


@dataclass(frozen=True)
class Experiment:
    """The parts of an experiment by name (``.Settings``, ``.compute``), imported on demand.

    What there is: `experiments.command.registry`.

    Attributes
    ----------
    path : str
        Of its folder or module, with dots.
    """

    path: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copying and pickling ask for
            raise AttributeError(name)
        return getattr(self._module(_ELSEWHERE.get(name, "settings")), name)

    def _module(self, part: str) -> ModuleType:
        whole = importlib.import_module(self.path)
        folder = hasattr(whole, "__path__")
        return importlib.import_module(f"{self.path}.{part}") if folder else whole
