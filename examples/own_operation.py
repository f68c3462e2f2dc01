"""An operation of one's own: a rule for its scaled difference that keeps the digits.

``log(1 + x^2)`` written as a module. The rule computes alpha (f(z + v/alpha) - f(z)) without
subtracting: with d = v/alpha it is alpha log1p((2 z + d) d / (1 + z^2)).
"""

import math
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from tangent import ScaledDifference, register_rule
from tangent.operations import Pair

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "examples/pictures")
folder.mkdir(parents=True, exist_ok=True)


class LogSquare(nn.Module):
    """``log(1 + x^2)``."""

    def forward(self, x):
        return torch.log1p(x * x)


@register_rule(LogSquare)
def log_square_difference(alpha, module, weights, x):
    """Return the pair of ``log(1 + x^2)``; a difference of None is exactly zero."""
    base = module(x.base)
    if x.difference is None:
        return Pair(base)
    z, v = x.base, x.difference
    if math.isinf(alpha):
        return Pair(base, 2 * z * v / (1 + z * z))
    return Pair(base, alpha * torch.log1p((2 * z + v / alpha) * (v / alpha) / (1 + z * z)))


def network(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 32), LogSquare(), nn.Linear(32, 1)).to(dtype)


x = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
alphas = [10.0**k for k in range(9)]
ours, subtracted = [], []
for alpha in alphas:
    exact = ScaledDifference(network(torch.float64), alpha)
    single = ScaledDifference(network(torch.float32), alpha)
    with torch.no_grad():
        for i, (a, b) in enumerate(zip(exact.delta, single.delta, strict=True)):
            a.copy_(torch.randn(a.shape, generator=torch.Generator().manual_seed(i)))
            b.copy_(a)
        true = exact(x.double())
        plain = alpha * (single.displaced()(x) - single.network(x))
        ours.append(float((single(x) - true).norm() / true.norm()))
        subtracted.append(float((plain - true).norm() / true.norm()))
    print(f"alpha {alpha:.0e}: error {ours[-1]:.1e} with the rule, {subtracted[-1]:.1e} subtracted")

figure = Figure(figsize=(5, 3.2), layout="constrained")
axes = figure.subplots()
axes.loglog(alphas, subtracted, "s--", label="two networks subtracted, float32")
axes.loglog(alphas, ours, "o-", label="difference propagation with the rule, float32")
axes.set(xlabel=r"scale $\alpha$", ylabel="relative error", title="log(1 + x²) as an own operation")
axes.legend(fontsize=8)
figure.savefig(folder / "own_operation.png", dpi=120)
