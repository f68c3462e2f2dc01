"""The stopped rows of Figure 3(b): the linearized network solved on any number of images.

Conjugate gradients for least squares on the features of all outputs, which are only ever
multiplied with: no kernel is formed, and nothing is approximated. They stop where held-out
training images are best, the regularization that SGD has as well. What separates the trained row
from this one is optimization; what separates this one from alpha = 1 is the kernel.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.fig3b.exact import accuracies, initial_network
from experiments.runs.results import Context, Outcome
from tangent.kernel.products import KernelProduct
from tangent.solve.least_squares import LeastSquaresStep, least_squares_steps
from tangent.training.checkpoint import Checkpoint

_HELD_OUT = 2000  # images at most; a tenth where there are fewer than ten times as many
_BATCH = 256


def compute_stopped(run: dict[str, Any], context: Context) -> Outcome:
    """Solve the linearized network of ``run``; no choice looks at the test images.

    Metrics: ``train_accuracy`` (of the fitted images), ``held_out_accuracy`` and ``test_accuracy``
    at the step of best held-out accuracy, ``steps`` up to it, ``final_*`` at the last step,
    ``seconds_a_step``. Curves: ``step``, ``residual`` and the three accuracies along the steps.
    """
    data = context.load(run["dataset"]).subset(run["n_train"], run["n_test"], run["seed"])
    X, labels, X_test, test_labels = data.arrays()
    classes = int(labels.max()) + 1
    network, inputs = initial_network(run, X, data.image_shape, classes, context)
    # Images come shuffled, every class in its share.
    fitted = len(X) - max(1, min(len(X) // 10, _HELD_OUT))
    targets = torch.eye(classes, dtype=inputs(X[:1]).dtype)[torch.from_numpy(labels[:fitted])]
    targets = (targets - targets.mean(0)).to(context.device)
    images = torch.cat([inputs(X), inputs(X_test)])
    features = _Features(KernelProduct(network, images[:fitted], batch_size=_BATCH), images)
    marks = {
        "train": slice(0, fitted),
        "held_out": slice(fitted, len(X)),
        "test": slice(len(X), len(images)),
    }
    everybody = np.concatenate([labels, test_labels])

    def scores(step: LeastSquaresStep) -> dict[str, float]:
        outputs = step.outputs.cpu().reshape(-1, classes)
        return {name: accuracies(outputs[s][None], everybody[s])[0] for name, s in marks.items()}

    kept = None if context.checkpoint is None else Checkpoint(context.checkpoint)
    of = {"run": repr(sorted(run.items())), "data": data.fingerprint}
    state = None if kept is None else kept.load(of)
    lines, spent, last = ([], 0.0, None) if state is None else _read(state)
    start = time.perf_counter()
    steps = least_squares_steps(features.forward, features.adjoint, targets.reshape(-1), start=last)
    while not _over(lines, run) and (step := next(steps, None)) is not None:
        lines.append({"step": step.step, "residual": step.residual, **scores(step)})
        context.log(_words(lines[-1]))
        if kept is not None and context.writes and (kept.due() or _over(lines, run)):
            seconds = spent + time.perf_counter() - start
            found = {"lines": lines, "seconds": seconds, "step": dataclasses.asdict(step)}
            kept.save(of, found)
    if not lines:
        raise ArithmeticError("no step: the gradient of the squared loss is zero")
    seconds = spent + time.perf_counter() - start
    best = _best(lines)
    metrics = {
        **{f"{name}_accuracy": best[name] for name in marks},
        **{f"final_{name}_accuracy": lines[-1][name] for name in marks},
        "steps": best["step"],
        "final_steps": lines[-1]["step"],
        "residual": best["residual"],
        "fitted_images": fitted,
        "seconds_a_step": seconds / len(lines),
        "fit_seconds": seconds,
        "size": features.size,
    }
    names = ("step", "residual", *marks)
    curves = {name: [line[name] for line in lines] for name in names}
    return Outcome(metrics, curves=curves)


class _Features:
    """The tangent features of all images, and the transpose of the fitted images', as products."""

    def __init__(self, product: KernelProduct, images: Tensor) -> None:
        self.product, self.images = product, images
        own = dict(product.model.named_parameters())
        self.shapes = {name: own[name].shape for name in product.names}
        self.size = sum(math.prod(shape) for shape in self.shapes.values())

    def forward(self, w: Tensor) -> Tensor:
        parts = w.split([math.prod(shape) for shape in self.shapes.values()])
        moved = zip(self.shapes.items(), parts, strict=True)
        delta = {name: part.reshape(shape) for (name, shape), part in moved}
        return self.product.linear_outputs(delta, self.images).reshape(-1)

    def adjoint(self, r: Tensor) -> Tensor:
        delta = self.product.displacement(r)
        return torch.cat([delta[name].reshape(-1) for name in self.shapes])


def _read(state: dict[str, Any]) -> tuple[list[dict[str, Any]], float, LeastSquaresStep]:
    """Lines, seconds and the last step of an interrupted run."""
    return state["lines"], state["seconds"], LeastSquaresStep(**state["step"])


def _best(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return max(lines, key=lambda line: (line["held_out"], -line["step"]))


def _over(lines: list[dict[str, Any]], run: dict[str, Any]) -> bool:
    """Whether all steps are spent, or held-out images have not gained for long enough."""
    if not lines:
        return False
    step = lines[-1]["step"]
    return step >= run["max_steps"] or step - _best(lines)["step"] >= run["patience"]


def _words(line: dict[str, Any]) -> str:
    return (
        f"step {line['step']}: residual {line['residual']:.4f}, accuracy on the fitted images "
        f"{line['train']:.4f}, on held-out ones {line['held_out']:.4f}"
    )
