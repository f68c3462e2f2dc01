"""The report in words: its text, and the verdict that a user can act on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tangent.laziness.report import LazinessReport
    from tangent.laziness.trainings import Trained

NEAR = 0.1  # relative distance to the linearized path up to which a training was lazy
LEFT = 0.5  # share of the first loss above which a training says little of longer ones


def verdict(report: LazinessReport) -> str:
    """Say whether the network is lazy at its own scale, and from which scale on it is.

    The measured distance to the linearized training decides; kappa is quoted beside it, since it
    is sufficient and not necessary.
    """
    finite = {t.alpha: t for t in report.trainings if not math.isinf(t.alpha)}
    parts = []
    own = finite.get(1.0)
    if own is not None:
        parts.append(_at(own, "at its own scale (alpha = 1)", report.epochs))
    lazy = [a for a, t in sorted(finite.items()) if _lazy(t)]
    if own is not None and _lazy(own) and own.loss > LEFT:
        parts.append(
            "Most of the loss was still there, and longer trainings move further: take more epochs "
            "before you rely on it."
        )
    elif own is not None and _lazy(own):
        parts.append(
            "Training it is close to solving its tangent kernel, which TangentKernelClassifier "
            "does at once; for features that move, take a smaller scale (LazyClassifier with "
            "alpha below 1)."
        )
    elif lazy and lazy[0] > 1:
        parts.append(
            f"With its centred output multiplied by {lazy[0]:g} it follows its linearization "
            f"(within {finite[lazy[0]].from_linearized:.1%}): train it there with "
            f"LazyClassifier(alpha={lazy[0]:g}), or solve the linearized network with "
            f"TangentKernelClassifier."
        )
    elif not lazy and finite:
        parts.append(f"No scale that was tried was lazy; take alphas above {max(finite):g}.")
    kappa = report.kappa_centred
    small = "small: laziness is to be expected" if kappa < 0.1 else "not small: it promises nothing"
    where = f", with the kinks of {len(report.gates)} gates left out" if report.gates else ""
    parts.append(
        f"kappa of the centred network is {kappa:.2g}{where}, which is {small}; it would be 0.1 at "
        f"alpha = {report.lazy_alpha:.2g}."
    )
    return " ".join(parts)


def _lazy(trained: Trained) -> bool:
    distance = trained.from_linearized
    return distance is not None and distance <= NEAR


def _at(trained: Trained, where: str, epochs: int) -> str:
    if math.isinf(trained.loss):
        return (
            f"The short training diverged {where}, at a rate that is stable for the linearized "
            f"network: not lazy."
        )
    if trained.from_linearized is None:
        return f"The linearized network diverged: nothing can be said {where}."
    kept = trained.least_stable
    gates = "" if kept is None else f", and its least stable layer kept {kept:.1%} of its decisions"
    word = "lazy" if _lazy(trained) else "not lazy"
    return (
        f"The network, its first outputs subtracted, is {word} {where}: after "
        f"{_epochs(epochs)}, at {trained.loss:.0%} of the first loss, its outputs are "
        f"{trained.from_linearized:.1%} away from those of its linearization{gates}."
    )


def text(report: LazinessReport) -> str:
    """Return the numbers as lines, each with how it was obtained."""
    spectrum = report.spectrum
    how = "exact" if spectrum.exact else f"Lanczos, {len(spectrum.values)} products"
    trace = "" if spectrum.exact else f" ± {spectrum.trace_error / float(spectrum.values[0]):.2g}"
    aligned = "" if spectrum.exact else f" ± {report.alignment_error:.2g}"
    kinks = f"; kinks of {len(report.gates)} gates left out" if report.gates else ""
    lines = [
        f"{report.parameters:,} parameters, {report.outputs} outputs, {report.inputs} inputs, "
        f"{report.dtype}",
        f"|h(w0) - y|, |y|       {report.distance:.4g}, {report.target:.4g}",
        f"|Dh(w0)|               {report.first:.4g} ± {report.first_error:.1g}  ({how})",
        f"|D^2 h(w0)|            {report.second.value:.4g}  (search on {report.second_inputs} "
        f"inputs, from below{kinks})",
        f"kappa                  {report.kappa:.4g}",
        f"kappa, centred         {report.kappa_centred:.4g}",
        f"kappa 0.1 at alpha =   {report.lazy_alpha:.3g}",
        f"effective rank         {spectrum.effective_rank:.3g}{trace}  (trace over the largest "
        f"eigenvalue)",
        f"largest stable step    {report.stability_edge:.3g}",
        f"alignment with y       {report.alignment:.3g}{aligned}",
        "",
        f"after {_epochs(report.epochs)}, alpha   loss  |w-w0|/|w0|  kernel moved  from linearized"
        "  least stable",
        *(_line(trained) for trained in report.trainings),
        "",
        verdict(report),
    ]
    return "\n".join(lines)


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"


def _line(t: Trained) -> str:
    alpha = "inf" if math.isinf(t.alpha) else f"{t.alpha:.3g}"
    if math.isinf(t.loss):
        return f"{alpha:>21}   diverged"
    kernel = "-" if t.kernel is None else f"{t.kernel:.2g}"
    if t.kernel_error:
        kernel += f" ± {t.kernel_error:.1g}"
    far = "-" if t.from_linearized is None else f"{t.from_linearized:.2g}"
    kept = "-" if t.least_stable is None else f"{t.least_stable:.4f}"
    return f"{alpha:>21} {t.loss:>6.3f}  {t.weights:>11.2g}  {kernel:>12}  {far:>15}  {kept:>12}"
