"""Is this network lazy on this data? One report before, and after a short training.

Source of the criterion: Chizat et al. 2019, equation (1). A training of the centred network
``alpha (h - h(w0))`` is lazy if kappa = |y| |D^2 h| / (alpha |Dh|^2) is much below 1; this is
sufficient, not necessary, so the report also trains shortly and measures what moved.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import jacrev, vjp

from tangent.curvature import WeightFunction, second_derivative_norm, weight_function
from tangent.kinks import kinks_of
from tangent.modes import ordinary_mode, ordinary_tensor
from tangent.outputs import output_shape

__all__ = ["Movement", "Report", "report"]

_LAZY = 0.1  # kappa from which on we call a network lazy
_ENTRIES = 200_000_000  # of the derivative held at once


@dataclass(frozen=True)
class Movement:
    """What a short training of the centred network at one scale changed.

    Attributes
    ----------
    alpha : float
    loss : float
        Half the squared distance to the target, over that before training.
    weights : float
        |w - w0| / |w0|.
    kernel : float
        Change of the tangent kernel in Frobenius norm, over its norm at w0.
    signs : float or None
        Fraction of units that are on the same side of their kinks as before, over the calls of
        ReLU and its kind (module, function or method); None where no unit has a kink. The choices
        of max pooling are not counted.
    """

    alpha: float
    loss: float
    weights: float
    kernel: float
    signs: float | None


@dataclass(frozen=True)
class Report:
    """Laziness of a network on a data set, at its present weights.

    Norms on outputs are root mean squares over the inputs; the kernel is divided by their number.

    Attributes
    ----------
    inputs, outputs, parameters : int
    smooth : bool
        False with ReLU, max pooling and the like: their kinks are left out of ``second``, and with
        them of kappa, which is then a lower estimate without a theorem behind it.
    kinks : tuple of str
        Names of the functions with kinks that the weights go through, in the order of the calls.
        Found among the torch calls of a forward pass; kinks written as arithmetic on comparisons
        (``x * (x > 0)``, ``torch.where``) or inside compiled code are not seen.
    distance : float
        |h(w0) - y|.
    target : float
        |y|.
    first, second : float
        |Dh(w0)| and |D^2 h(w0)|.
    kappa : float
        Of equation (1), for the network as it is.
    kappa_centred : float
        The same for h - h(w0): the distance is then |y|.
    lazy_alpha : float
        Scale of the centred network at which its kappa is 0.1.
    eigenvalues : tuple of float
        Of the tangent kernel, descending.
    condition : float
        Largest over smallest eigenvalue; infinite where the kernel is singular in float64.
    effective_rank : float
        Trace over the largest eigenvalue.
    stable_lr : float
        2 over the largest eigenvalue: the largest stable step on half the squared distance.
    movements : tuple of Movement
        After the short training, at alpha = 1 and at ``lazy_alpha``.
    steps : int
        Steps of the short training, of size 1 over the largest eigenvalue.
    """

    inputs: int
    outputs: int
    parameters: int
    smooth: bool
    kinks: tuple[str, ...]
    distance: float
    target: float
    first: float
    second: float
    kappa: float
    kappa_centred: float
    lazy_alpha: float
    eigenvalues: tuple[float, ...]
    condition: float
    effective_rank: float
    stable_lr: float
    movements: tuple[Movement, ...]
    steps: int

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, lists and dictionaries."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the report as text."""
        kinks = "" if self.smooth else f"  (kinks of {', '.join(self.kinks)} left out)"
        lines = [
            f"{self.parameters} parameters, {self.outputs} outputs, {self.inputs} inputs",
            f"|h(w0) - y|          {self.distance:.4g}",
            f"|Dh(w0)|             {self.first:.4g}",
            f"|D^2 h(w0)|          {self.second:.4g}{kinks}",
            f"kappa                {self.kappa:.4g}",
            f"kappa, centred       {self.kappa_centred:.4g}",
            f"lazy from alpha =    {self.lazy_alpha:.3g}  (kappa of the centred network 0.1)",
            f"kernel condition     {self.condition:.3g}",
            f"effective rank       {self.effective_rank:.3g} of {len(self.eigenvalues)}",
            f"largest stable step  {self.stable_lr:.3g}",
            f"after {self.steps} steps:  alpha     loss  weights   kernel  signs kept",
        ]
        for moved in self.movements:
            signs = "-" if moved.signs is None else f"{moved.signs:.4f}"
            lines.append(
                f"{moved.alpha:21.3g} {moved.loss:8.3g} {moved.weights:8.2g} {moved.kernel:8.2g}"
                f"  {signs:>10}"
            )
        return "\n".join(lines)


def _targets(y: Tensor, outputs: Tensor) -> Tensor:
    """Targets of the outputs' shape: class numbers become one-hot rows."""
    if not y.is_floating_point() and outputs.shape[-1] > 1:
        if y.ndim != 1 or int(y.min()) < 0 or int(y.max()) >= outputs.shape[-1]:
            raise ValueError(
                f"y must hold class numbers from 0 to {outputs.shape[-1] - 1}; got numbers from "
                f"{int(y.min())} to {int(y.max())}"
            )
        return nn.functional.one_hot(y.long(), outputs.shape[-1]).to(outputs)
    y = y.to(outputs)
    y = y[:, None] if y.ndim == 1 else y
    if y.shape != outputs.shape:
        raise ValueError(
            f"y must have the shape {tuple(outputs.shape)} of the outputs; got {tuple(y.shape)}"
        )
    return y


def _moved(
    model: nn.Module,
    x: Tensor,
    h: WeightFunction,
    w0: Tensor,
    y: Tensor,
    kernel: Tensor,
    alpha: float,
    steps: int,
) -> Movement:
    """Train the centred network shortly in its scaled displacement, and look."""
    lr = 1 / float(torch.linalg.matrix_norm(kernel, ord=2))
    u = torch.zeros_like(w0)

    def outputs(u: Tensor) -> Tensor:
        return alpha * h(w0 + u / alpha)

    for _ in range(steps):
        f, pull = vjp(outputs, u)
        u = u - lr * pull(f - y)[0].detach()
    w = w0 + u / alpha
    jacobian = jacrev(h)(w).detach()
    before = kinks_of(model, x).sides
    trained = copy.deepcopy(model)
    nn.utils.vector_to_parameters(w, trained.parameters())
    after = kinks_of(trained, x).sides
    kept = [(a == b).double().flatten() for a, b in zip(before, after, strict=True)]
    return Movement(
        alpha=alpha,
        loss=float((outputs(u).detach() - y).norm() / y.norm()) ** 2,
        weights=float(u.norm() / w0.norm()) / alpha,
        kernel=float((jacobian @ jacobian.T - kernel).norm() / kernel.norm()),
        signs=float(torch.cat(kept).mean()) if kept else None,
    )


@ordinary_mode
def report(
    model: nn.Module,
    X: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    steps: int = 50,
    starts: int = 2,
    generator: torch.Generator | None = None,
) -> Report:
    """Report on how lazy ``model`` would be on ``X`` and ``y``, under the square loss.

    Parameters
    ----------
    model : nn.Module
        Read at its present weights and left as found. May not mix the inputs of a batch; batch
        norm and dropout act as in evaluation.
    X : Tensor or ndarray of shape (n, *shape)
        A few dozen inputs say most of it. Moved to the device of the weights, as is ``y``.
    y : Tensor or ndarray of shape (n,) or (n, k)
        Targets, or class numbers (integers) for a network of several outputs.
    steps : int
        Of the short training, by gradient descent on all of ``X`` at once.
    starts : int
        Random starts of the search for |D^2 h|.
    generator : torch.Generator, optional
        For these starts.

    Returns
    -------
    Report
        ``print`` shows it, ``as_dict`` gives the numbers.

    Raises
    ------
    ValueError
        If ``X`` and ``y`` do not fit, or the derivative would not fit in memory.

    Notes
    -----
    Computed in float64 on a copy. Holds the derivative, n k p numbers, three times; costs about
    ``2 steps`` training steps, two kernels, and a few hundred products of second derivatives.
    """
    X, y = (ordinary_tensor(torch.as_tensor(a)) for a in (X, y))
    if X.ndim == 0 or y.ndim == 0:
        raise ValueError(f"X and y must have rows; got shapes {tuple(X.shape)}, {tuple(y.shape)}")
    if len(X) != len(y) or len(X) == 0:
        raise ValueError(f"X and y must have as many rows; got {len(X)} and {len(y)}")
    model = copy.deepcopy(model).double().eval().requires_grad_(True)
    x = X.to(next(model.parameters()).device)
    x = x.double() if x.is_floating_point() else x
    output_shape(model, x)
    kinks = tuple(dict.fromkeys(kinks_of(model, x).names))
    with torch.no_grad():
        outputs = model(x)
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    h, w0 = weight_function(model, x, centred=True)
    if outputs.numel() * w0.numel() > _ENTRIES:
        most = _ENTRIES // (outputs[0].numel() * w0.numel())
        raise ValueError(
            f"the derivative would hold {outputs.numel() * w0.numel():.1e} numbers; got {len(x)} "
            f"inputs, take at most {most}"
        )
    target = (_targets(y, outputs) / len(x) ** 0.5).flatten()
    distance = float((outputs.flatten() / len(x) ** 0.5 - target).norm())
    jacobian = jacrev(h)(w0).detach()
    kernel = jacobian @ jacobian.T
    del jacobian
    values = torch.linalg.eigvalsh(kernel).flip(0)
    first = float(values[0].clamp(min=0)) ** 0.5
    if first == 0 or not torch.isfinite(values).all():
        raise ValueError(f"|Dh(w0)| must be positive and finite; got {first}: nothing can train")
    second = second_derivative_norm(
        h, w0, starts=starts, iterations=100, tolerance=1e-4, generator=generator
    )
    size = float(target.norm())
    kappa_centred = size * second / first**2
    lazy_alpha = max(kappa_centred / _LAZY, torch.finfo(torch.float64).tiny)
    floor = torch.finfo(torch.float64).eps * float(values[0]) * len(values)
    movements = (
        tuple(
            _moved(model, x, h, w0, target, kernel, alpha, steps)
            for alpha in dict.fromkeys((1.0, max(1.0, lazy_alpha)))
        )
        if size > 0
        else ()
    )
    return Report(
        inputs=len(x),
        outputs=outputs[0].numel(),
        parameters=w0.numel(),
        smooth=not kinks,
        kinks=kinks,
        distance=distance,
        target=size,
        first=first,
        second=second,
        kappa=distance * second / first**2,
        kappa_centred=kappa_centred,
        lazy_alpha=lazy_alpha,
        eigenvalues=tuple(values.tolist()),
        condition=float(values[0] / values[-1]) if float(values[-1]) > floor else float("inf"),
        effective_rank=float(values.clamp(min=0).sum() / values[0]),
        stable_lr=2 / float(values[0]),
        movements=movements,
        steps=steps,
    )
