"""Rows of Figure 3(b) for any network that has a name, at any scale.

A row is asked for as ``NETWORK:SCALE``, or as ``NETWORK`` for all of `SCALES`. Networks of
`tangent.nets` may name their width before the scale: ``vgg11:0.5:1e7``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.networks import named
from experiments.usage import UsageError

EXACT, STOPPED = "exact", "stopped"
SCALES = ("1", "lazy", "inf", EXACT)  # of a network named without one
_LABELS = {
    "vgg11": "VGG-11",
    "resnet18": "ResNet-18",
    "mlp": "perceptron",
    named.DESIGNED: "designed CNN",
}
_KINDS = ("lazy", "linear", EXACT, STOPPED, "direct")
_FORMS = (
    "--networks takes NETWORK or NETWORK:ALPHA, of vgg11, resnet18 and mlp also "
    "NETWORK:WIDTH:ALPHA, as vgg11:0.5:1e7; ALPHA is a positive number, lazy, inf, exact or "
    "stopped"
)


@dataclass(frozen=True)
class NetworkRow:
    """A network at a scale.

    Parameters
    ----------
    model : str
        As in `experiments.networks.named`.
    alpha : float
        Infinite for the linearized network.
    width : float, optional
        Of a network of `tangent.nets`; that of the settings when left out.
    solved : {"exact", "stopped"}, optional
        Solved instead of trained, by its kernel or by conjugate gradients.
    weights : str, optional
        Path of a state dict in safetensors.
    """

    model: str
    alpha: float
    width: float | None = None
    solved: str | None = None
    weights: str | None = None


def network_rows(
    texts: Sequence[str], lazy_alpha: float, weights: Sequence[str] = ()
) -> list[NetworkRow]:
    """Return the rows that ``texts`` ask for, in their order.

    Parameters
    ----------
    texts : sequence of str
    lazy_alpha : float
        The scale that ``lazy`` stands for.
    weights : sequence of str
        ``NETWORK=FILE``.

    Raises
    ------
    UsageError
        When a text has no such form, or weights are for none of the networks.
    """
    given = _weights(weights)
    found = []
    for text in texts:
        model, width, scales = _parts(text)
        for scale in scales:
            alpha = _alpha(text, scale, lazy_alpha)
            solved = scale if scale in (EXACT, STOPPED) else None
            found.append(NetworkRow(model, alpha, width, solved, given.get(model)))
    for model in given.keys() - {row.model for row in found}:
        raise UsageError(f"--weights {model}=...: --networks has no row of {model!r}")
    return found


def _parts(text: str) -> tuple[str, float | None, tuple[str, ...]]:
    """Network, width and scales of a text."""
    first, colon, rest = text.partition(":")
    if first in named.NAMES:
        *width, scale = rest.split(":") if colon else ("all",)
        if len(width) > 1:
            raise UsageError(f"{_FORMS}; got {text!r}")
        return first, _width(text, width), SCALES if scale == "all" else (scale,)
    if first == named.DESIGNED or not colon:
        return first, None, (rest,) if colon else SCALES
    model, _, scale = text.rpartition(":")
    return (model, None, (scale,)) if ":" in model else (text, None, SCALES)


def _width(text: str, given: list[str]) -> float | None:
    if not given:
        return None
    width = _number(given[0])
    if not 0 < width < math.inf:
        raise UsageError(f"{_FORMS}; got {text!r}")
    return width


def _alpha(text: str, scale: str, lazy_alpha: float) -> float:
    alpha = {"lazy": lazy_alpha, EXACT: math.inf, STOPPED: math.inf}.get(scale, _number(scale))
    if not alpha > 0:
        raise UsageError(f"{_FORMS}; got {text!r}")
    return alpha


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _weights(texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        model, equals, path = text.rpartition("=")
        if not equals or not model or not path:
            raise UsageError(f"--weights takes NETWORK=FILE.safetensors; got {text!r}")
        found[model] = str(Path(path).expanduser())
    return found


def row_method(model: str, alpha: float, *, solved: str | None = None) -> str:
    """Return the row's name in results: NETWORK, NETWORK-lazy, NETWORK-linear, NETWORK-exact ..."""
    if solved:
        return f"{model}-{solved}"
    return model if alpha == 1 else f"{model}-linear" if math.isinf(alpha) else f"{model}-lazy"


def split_method(method: str) -> tuple[str, str]:
    """Return network and kind (one of `_KINDS`, or empty) of a row's name."""
    model, _, kind = method.rpartition("-")
    return (model, kind) if kind in _KINDS else (method, "")


def is_exact(method: str) -> bool:
    """Whether a row is of a network solved by its kernel."""
    return split_method(method)[1] == EXACT


def is_stopped(method: str) -> bool:
    """Whether a row is of a network solved by conjugate gradients that were stopped early."""
    return split_method(method)[1] == STOPPED


def network_label(model: str) -> str:
    """Return a network's name as tables and figures call it; of a file, without its folder."""
    place, colon, function = model.rpartition(":")
    return _LABELS.get(model, f"{Path(place).name}{colon}{function}")
