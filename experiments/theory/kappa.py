"""kappa at initialization against the width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import hessian, vmap

from experiments.runs.results import Outcome
from experiments.theory.models import ACTIVATIONS, Draws, columns, two_layer, unit_rows
from tangent.laziness.curvature import Curvature, derivative_norm, unit
from tangent.machine.bars import counted


def kappa_by_width(run: dict[str, Any], device: str) -> Outcome:
    """kappa at initialization against the width, for alpha(m) = m**-0.5 and 1/m.

    The law wants the derivative of a unit Lipschitz, hence bounded output weights: they are -1 or
    1, and the input weights N(0, 1/d). For ReLU the second derivative is that of the pieces: its
    kinks are left out.
    """
    draws = Draws.of(run, device)
    n, d = run["inputs"], 10
    x = unit_rows(draws.normal(n, d))
    y = draws.normal(n).sign() / n**0.5
    rows = []
    for m in counted(run["widths"], "width"):
        b, a = draws.normal(m, d) / d**0.5, draws.normal(m).sign()
        w0 = torch.cat([b.flatten(), a])
        second = _unit_curvature(x, b, a, ACTIVATIONS[run["model"]], draws) / n**0.5
        row: dict[str, Any] = {"m": m}
        for name, scale in (("root", m**-0.5), ("inverse", 1 / m)):
            h = two_layer(x, m, scale / n**0.5, run["model"])
            found = Curvature(float((h(w0) - y).norm()), derivative_norm(h, w0), scale * second)
            row |= {name: found.kappa, f"{name}_first": found.first, f"{name}_second": found.second}
        rows.append(row)
    return Outcome({}, curves=columns(rows))


def _unit_curvature(
    x: Tensor,
    b: Tensor,
    a: Tensor,
    phi: Callable[[Tensor], Tensor],
    draws: Draws,
    starts: int = 4,
) -> float:
    """|D^2| of ``sum_j a_j phi(b_j.x)``: the largest of its units' own.

    The second derivative of a sum over units is block diagonal, and |sum_j T_j(v_j, v'_j)| is at
    most max |T_j| for unit v and v'. All units are searched together, each from its own starts: a
    lower estimate, as `tangent.laziness.curvature.second_derivative_norm`. Of 24 starts, 4
    find all but 0.1% for tanh and all but 5% for ReLU (30 inputs, 32 and 128 units, two seeds
    each).
    """
    whole = vmap(hessian(lambda t: phi(x @ t[:-1]) * t[-1]))(torch.cat([b, a[:, None]], dim=1))
    v, other = unit(draws.normal(2, len(a), starts, b.shape[1] + 1))
    best = 0.0
    for _ in range(100):
        for _ in range(5):
            f = unit(torch.einsum("jqab,jsa,jsb->jsq", whole, v, other))
            v, other = unit(torch.einsum("jqab,jsq,jsb->jsa", whole, f, other)), v
        norms = torch.einsum("jqab,jsa,jsb->jsq", whole, v, other).norm(dim=-1)
        before, best = best, float(norms.max())
        if abs(best - before) <= 1e-6 * best:
            break
    return best
