"""Axes that several figures share: the scale alpha, up to infinity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def alpha_axis(ax: Any, alphas: Sequence[float]) -> dict[float, float]:
    """Make the x axis of ``ax`` log alpha with infinity behind the rest; alpha -> position."""
    finite = sorted(a for a in set(alphas) if not math.isinf(a))
    positions = {a: math.log10(a) for a in finite}
    labels = [_power(a) for a in finite]
    if any(math.isinf(a) for a in alphas):
        end = max(positions.values(), default=0.0)
        positions[math.inf] = end + 1.5
        labels.append("$\\infty$")
        if finite:
            ax.axvline(end + 0.75, color="0.8", linewidth=0.8)
    ax.set_xticks(list(positions.values()), labels)
    ax.set_xlabel(r"scale $\alpha$")
    return positions


def _power(alpha: float) -> str:
    exponent = math.log10(alpha)
    return f"$10^{{{exponent:.0f}}}$" if abs(exponent - round(exponent)) < 1e-9 else f"{alpha:g}"


def alpha_label(alpha: float) -> str:
    """Return alpha as tables and legends show it."""
    return "∞" if math.isinf(alpha) else f"{alpha:g}"


def power(alpha: float) -> str:
    """Return alpha as text shows it: "10⁷", "1", "∞"."""
    if math.isinf(alpha):
        return "∞"
    exponent = math.log10(alpha)
    if alpha < 1000 or exponent != int(exponent):
        return f"{alpha:g}"
    return "10" + str(int(exponent)).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
