"""The report: how lazy a network would be on a data set, at its present weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tangent.capture.functional import first_weight, fixed_whole_numbers
from tangent.capture.outputs import output_shape
from tangent.kernel.matrix import tangent_kernel
from tangent.laziness.operators import NormalizedKernel
from tangent.laziness.second import SecondNorm, second_norm
from tangent.laziness.spectrum import SpectrumHead, whole_spectrum
from tangent.laziness.trainings import Trained, short_training
from tangent.laziness.words import text, verdict
from tangent.machine.copies import copied
from tangent.machine.modes import ordinary_mode, ordinary_network, ordinary_tensor
from tangent.solve.lanczos import lanczos, ritz_values, upper_bound

LAZY_KAPPA = 0.1  # kappa from which on the criterion calls a network lazy
_WHOLE_ROWS = 600  # rows of a kernel that is computed whole ...
_WHOLE_ENTRIES = 40_000_000  # ... where the Jacobian would have no more entries
_LARGE_ENTRIES = 1_000_000_000  # entries of the Jacobian from which passes over the data are dear
_PRODUCTS, _FEW_PRODUCTS = 10, 5
_EPOCHS, _FEW_EPOCHS = 5, 2


@dataclass(frozen=True)
class LazinessReport:
    """Laziness of a network on a data set, at its present weights, under the square loss.

    Norms of outputs are root mean squares over the inputs and the kernel is divided by their
    number, so that nothing grows with the data.

    Attributes
    ----------
    inputs, outputs, parameters : int
        ``outputs`` is k, of one input.
    dtype : str
        What was computed in: that of the weights.
    gates : tuple of str
        Gates (ReLU, max pooling and the like) of the network: it has kinks there, and ``second``
        and kappa leave them out. Empty for a smooth network.
    distance, target : float
        |h(w0) - y| and |y|.
    first : float
        |Dh(w0)|, the root of the kernel's largest eigenvalue; ``first_error`` bounds how far the
        nearest singular value is.
    second : SecondNorm
        |D^2 h(w0)|, a lower estimate, on ``second_inputs`` of the inputs.
    kappa, kappa_centred : float
        Equation (1) of Chizat et al. 2019 for the network as it is and for h - h(w0).
    lazy_alpha : float
        Scale of the centred network at which its kappa is 0.1.
    spectrum : SpectrumHead
        Head of the spectrum, trace and effective rank.
    stability_edge : float
        Largest stable step of gradient descent on the mean over the inputs of half the squared
        distance, for the linearized network.
    alignment : float
        <y, K y> / (|y|^2 |K|) in [0, 1] for the centred kernel and targets, |K| the Frobenius
        norm (Cortes, Mohri and Rostamizadeh 2012).
    alignment_error : float
        Standard error of ``alignment``; 0 where the kernel was computed whole.
    trainings : tuple of Trained
        Short trainings by the same steps, by scale, infinity last.
    epochs : int
        Of the trainings.
    """

    inputs: int
    outputs: int
    parameters: int
    dtype: str
    gates: tuple[str, ...]
    distance: float
    target: float
    first: float
    first_error: float
    second: SecondNorm
    second_inputs: int
    kappa: float
    kappa_centred: float
    lazy_alpha: float
    spectrum: SpectrumHead
    stability_edge: float
    alignment: float
    alignment_error: float
    trainings: tuple[Trained, ...]
    epochs: int

    @property
    def verdict(self) -> str:
        """In words: is it lazy, and what to do."""
        return verdict(self)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, lists and dictionaries."""
        found = asdict(self)
        found["spectrum"] |= {
            "values": self.spectrum.values.tolist(),
            "errors": self.spectrum.errors.tolist(),
            "effective_rank": self.spectrum.effective_rank,
        }
        return {**found, "verdict": self.verdict}

    def __str__(self) -> str:
        """Return the report as text, with what is exact and what is estimated."""
        return text(self)


@ordinary_mode
def laziness(
    model: nn.Module,
    X: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    alphas: Sequence[float] | None = None,
    epochs: int | None = None,
    batch_size: int = 64,
    products: int | None = None,
    probes: int = 2,
    second_inputs: int = 32,
    random_state: int = 0,
) -> LazinessReport:
    """Report on how lazy ``model`` would be on ``X`` and ``y``, under the square loss.

    Parameters
    ----------
    model : nn.Module
        Read at its present weights and left as found. Batch norm and dropout act as in
        evaluation; the inputs of a batch may not mix.
    X : array or Tensor of shape (n, *input)
        What the network takes; a few hundred inputs say most of it.
    y : array or Tensor of shape (n,) or (n, k)
        Targets, or class numbers (integers from 0) for a network of several outputs.
    alphas : sequence of float, optional
        Scales of the short trainings; by default 1, and the power of ten (10 at least) from which
        kappa is small. The
        linearized network is always trained beside them.
    epochs : int, optional
        Of the short trainings, by gradient descent at half the stable rate: 5, or 2 where the
        Jacobian would have more than 1e9 entries (inputs times outputs times parameters).
    batch_size : int
    products : int, optional
        With the kernel, for the head of its spectrum, where it is too large to be held: 10, or 5
        where the Jacobian would have more than 1e9 entries.
    probes : int
        Random products for the change of the kernel and for Frobenius norms and the trace.
    second_inputs : int
        Inputs on which |D^2 h| is searched for: its products need them all at once.
    random_state : int
        Of the random vectors and of the order of the data.

    Returns
    -------
    LazinessReport
        ``print`` shows it, ``as_dict`` gives the numbers, ``verdict`` the conclusion.

    Raises
    ------
    ValueError
        If ``X`` and ``y`` do not fit, are not finite, or nothing in the network can train.

    Notes
    -----
    Source: Chizat et al. 2019, equation (1); it is sufficient for laziness, not necessary, so the
    trainings measure what moves. They go by difference propagation (`ScaledDifference`): nothing is
    subtracted. Memory is that of a training step on ``batch_size`` inputs (three of second order on
    ``second_inputs``); the Jacobian is never held. Cost: ``products + 1 + 4 probes`` products with
    the kernel (with two finite scales) and ``epochs`` a scale, each as a training epoch.

    Examples
    --------
    >>> import torch
    >>> from tangent import laziness, mlp
    >>> X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    >>> found = laziness(mlp(4, 2, generator=torch.Generator().manual_seed(0)), X, X[:, :2])
    >>> found.kappa_centred > 0 and found.spectrum.exact
    True
    """
    model = fixed_whole_numbers(copied(ordinary_network(model))).eval().requires_grad_(True)
    X, y = (ordinary_tensor(t) if isinstance(t, Tensor) else t for t in (X, y))
    x, targets, start = _checked(model, X, y)
    generator = torch.Generator().manual_seed(random_state)
    n, k = targets.shape
    entries = n * k * sum(p.numel() for p in model.parameters())
    if epochs is None:
        epochs = _EPOCHS if entries <= _LARGE_ENTRIES else _FEW_EPOCHS
    if products is None:
        products = _PRODUCTS if entries <= _LARGE_ENTRIES else _FEW_PRODUCTS
    kernel = NormalizedKernel(model, x, batch_size)
    signs = torch.Generator().manual_seed(random_state)  # apart: they change no other draw
    probed = _probed(kernel, probes, signs)
    spectrum, alignment, alignment_error = _spectrum(
        model, x, targets, kernel, products, probed, generator
    )
    largest = float(spectrum.values[0])
    if not (largest > 0 and math.isfinite(largest)):
        raise ValueError(f"|Dh(w0)| must be positive and finite; got {largest}: nothing can train")
    first = math.sqrt(largest)
    some = x[:second_inputs]
    second = second_norm(model, some, generator=generator)
    size, distance = _rms(targets), _rms(start - targets)
    centred = size * second.value / largest
    lazy_alpha = max(centred / LAZY_KAPPA, 1e-12)
    if alphas is None:
        alphas = (1.0, max(10.0, 10.0 ** math.ceil(math.log10(lazy_alpha))))
    # half the stable rate of the mean of squares over inputs and outputs
    lr = 0.5 * k / spectrum.upper
    trainings = short_training(
        model,
        x,
        targets,
        alphas,
        lr=lr,
        epochs=epochs,
        batch_size=min(batch_size, n),
        probed=probed,
        seed=random_state,
    )
    return LazinessReport(
        inputs=n,
        outputs=k,
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        gates=tuple(trainings[-1].stability),
        distance=distance,
        target=size,
        first=first,
        first_error=float(spectrum.errors[0]) / (2 * first),
        second=second,
        second_inputs=len(some),
        kappa=distance * second.value / largest,
        kappa_centred=centred,
        lazy_alpha=lazy_alpha,
        spectrum=spectrum,
        stability_edge=2 / spectrum.upper,
        alignment=alignment,
        alignment_error=alignment_error,
        trainings=trainings,
        epochs=epochs,
    )


def _rms(values: Tensor) -> float:
    return float(values.double().square().sum().div(len(values)).sqrt())


def _checked(model: nn.Module, X: Any, y: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs as the weights are, targets as (n, k), and the outputs at w0."""
    weight = first_weight(model)
    if weight is None:
        raise ValueError("model must have parameters; it has none, so nothing can train")
    x = torch.as_tensor(X).detach()
    x = x.to(weight) if x.is_floating_point() else x.to(weight.device)
    y = torch.as_tensor(y).detach()
    if x.ndim == 0 or len(x) == 0 or len(x) != len(y):
        rows = [0 if t.ndim == 0 else len(t) for t in (x, y)]
        raise ValueError(f"X and y must have as many rows, one at least; got {rows[0]}, {rows[1]}")
    for name, values in (("X", x), ("y", y)):
        if values.is_floating_point() and not torch.isfinite(values).all():
            raise ValueError(f"{name} must be finite; it has NaN or infinite values")
    output_shape(model, x)
    with torch.no_grad():
        start = torch.cat([model(part) for part in x.split(64)]).reshape(len(x), -1)
    return x, _targets(y, start), start


def _targets(y: Tensor, start: Tensor) -> Tensor:
    """Targets of the outputs' shape: class numbers become one-hot rows."""
    k = start.shape[1]
    if not y.is_floating_point() and k > 1 and y.ndim == 1:
        if int(y.min()) < 0 or int(y.max()) >= k:
            raise ValueError(
                f"y must hold class numbers from 0 to {k - 1}; got numbers from {int(y.min())} to "
                f"{int(y.max())}"
            )
        return nn.functional.one_hot(y.long(), k).to(start)
    y = y.to(start).reshape(len(y), -1)
    if y.shape != start.shape:
        raise ValueError(
            f"y must have the shape {tuple(start.shape)} of the outputs; got {tuple(y.shape)}"
        )
    return y


def _spectrum(
    model: nn.Module,
    x: Tensor,
    targets: Tensor,
    kernel: NormalizedKernel,
    products: int,
    probed: list[tuple[Tensor, Tensor]],
    generator: torch.Generator,
) -> tuple[SpectrumHead, float, float]:
    """Head of the spectrum, and the alignment of the kernel with the centred targets."""
    q = kernel.size
    parameters = sum(p.numel() for p in model.parameters())
    n, k = targets.shape
    y = targets.double().cpu().flatten()
    if q <= _WHOLE_ROWS and q * parameters <= _WHOLE_ENTRIES:
        whole = tangent_kernel(model, x).reshape(q, q).double().cpu() / n
        columns = _centred(_centred(whole, k).T, k)
        return whole_spectrum(whole), _aligned(columns @ y, y, k, float(columns.norm())), 0.0
    start = torch.randn(q, generator=generator, dtype=torch.float64)
    *_, (diagonal, beside) = lanczos(kernel, start, products)
    values, errors = ritz_values(diagonal, beside)
    probed = probed + _probed(kernel, 2 - len(probed), generator)  # one alone has no error
    columns = torch.stack([_centred(v, k) for v in (*(z for z, _ in probed), y)], 1)
    *images, image = kernel(columns).T
    squares = [float(_centred(z, k).square().sum()) for z in images]
    square, error = _mean_and_error(squares)
    trace, trace_error = _mean_and_error([float(z @ image) for z, image in probed])
    upper = upper_bound(diagonal, beside, q)
    head = SpectrumHead(values, errors, upper, trace, trace_error, False)
    aligned = _aligned(image, y, k, math.sqrt(square))
    return head, aligned, aligned * error / (2 * square)


def _probed(
    kernel: NormalizedKernel, count: int, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Random signs and the kernel times them: for the trace, and for how the kernel changes."""
    if count < 1:
        return []
    draws = [torch.randint(0, 2, (kernel.size,), generator=generator) for _ in range(count)]
    z = torch.stack(draws, 1).double() * 2 - 1
    return list(zip(z.T, kernel(z).T, strict=True))


def _centred(v: Tensor, k: int) -> Tensor:
    """Rows (n k, ...) less their mean over the n inputs, output by output."""
    parts = v.unflatten(0, (-1, k))
    return (parts - parts.mean(0)).flatten(0, 1)


def _aligned(image: Tensor, y: Tensor, k: int, frobenius: float) -> float:
    centred = _centred(y, k)
    size = float(centred.square().sum())
    return float(centred @ image) / (size * frobenius) if size * frobenius > 0 else 0.0


def _mean_and_error(values: list[float]) -> tuple[float, float]:
    found = torch.tensor(values, dtype=torch.float64)
    return float(found.mean()), float(found.std() / math.sqrt(len(values)))
