"""The runs of the open question: all rows of one draw of images, and the steps to the networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from baselines import GaussianKernelHead, roto_translation_classifier
from experiments.open_question.dual import dual
from experiments.open_question.frozen import Clock, Frozen, Views, frozen, frozen_for
from experiments.open_question.pixels import compute_pixels
from experiments.open_question.primal import primal
from experiments.open_question.rows import (
    RIDGES,
    Convolution,
    Dense,
    Fitted,
    Gaussian,
    InfiniteConvolution,
    Linear,
    fitted,
    one_hot,
)
from experiments.open_question.trained import trained
from experiments.runs.results import Context, Outcome
from tangent.machine.bars import counted

_TEST_BATCH = 250
_WIDTHS = (0.7, 1.0, 1.4, 2.0)
_SHARES = (1.0, 0.25)  # of the convolution and of the linear layer
_BRANCH = 0.3


def compute(run: dict[str, Any], context: Context) -> Outcome:
    """Do the work of one run."""
    work: dict[str, Callable[..., Outcome]] = {
        "table": _table,
        "roto-translation": _roto_translation,
        "waterfall": _waterfall,
        "infinite": _waterfall,
        "pixels": compute_pixels,
        "trained": trained,
        "primal": primal,
        "dual": dual,
    }
    return work[run["part"]](run, context, *_images(run, context))


def _images(run: dict[str, Any], context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data = context.load(run["dataset"]).subset(run["n_train"], run["n_test"], seed=run["seed"])
    train, test = (torch.from_numpy(x).float() / 255 for x in (data.train_images, data.test_images))
    return train, torch.from_numpy(data.train_labels), test, torch.from_numpy(data.test_labels)


def _table(
    run: dict[str, Any], context: Context, train: Tensor, y: Tensor, test: Tensor, y_test: Tensor
) -> Outcome:
    """Every row on one draw of images."""
    start = time.process_time()
    made = frozen(train, filters=run["filters"], channels=max(run["channels"]), seed=run["seed"])
    views = _trained_views(made, train, context)
    targets = one_hot(y)
    clock = Clock()
    rows = _rows(run, views, targets, clock, context)
    correct = _correct(made, rows, test, y_test, clock, context)
    metrics: dict[str, Any] = {"total_cpu_seconds": time.process_time() - start}
    for name, row in rows.items():
        metrics |= _numbers(name, row, correct[name], clock, made)
    arrays = {f"correct {name}": bits.numpy() for name, bits in correct.items()}
    for name, row in rows.items():
        left_out = row.solution.left_out_outputs.argmax(1)
        arrays[f"left out {name}"] = (left_out == y).numpy()
    return Outcome(metrics, arrays=arrays)


def _trained_views(made: Frozen, train: Tensor, context: Context) -> Views:
    context.log(f"frozen representations of {len(train)} training images")
    return made.views(train)


def _rows(
    run: dict[str, Any], views: Views, y: Tensor, clock: Clock, context: Context
) -> dict[str, Fitted]:
    """Fit the rows, the parts that rows share once."""
    kept: dict[Any, list[Tensor]] = {}

    def kernels(part: Any) -> list[Tensor]:
        if part not in kept:
            kept[part] = part.kernels()
        return kept[part]

    def fit(name: str, candidates: Sequence[Any]) -> Fitted:
        row = clock(name, lambda: fitted(candidates, y, RIDGES, kernels))
        context.log(f"{name}: {row.chosen}, leave-one-out {100 * row.left_out:.1f}")
        return row

    found: dict[str, Fitted] = {}
    for which, label in (("pooled", "patches"), ("scattering", "scattering")):
        linear = Linear(views, which)
        found[f"{label}, ridge"] = fit(f"{label}, ridge", [("", [linear], [(1.0,)])])
        found[f"{label}, Gaussian"] = fit(
            f"{label}, Gaussian",
            [(f"width {w}", [Gaussian(linear, w)], [(1.0,)]) for w in _WIDTHS],
        )
    both = [found[f"{label}, Gaussian"].parts[0] for label in ("patches", "scattering")]
    found["both Gaussians"] = fit(
        "both Gaussians", [("sum", both, [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0)])]
    )
    kept.clear()
    convolutions = clock(
        "A",
        lambda: [
            (f"{c} channels", [Convolution(views, c, run["width"], run["seed"])], [_SHARES])
            for c in run["channels"]
        ],
    )
    found["A"] = fit("A", convolutions)
    dense = clock(
        "B",
        lambda: [
            Dense(views, which, run["units"], run["seed"]) for which in ("pooled", "scattering")
        ],
    )
    parts = [*found["A"].parts, *dense]
    found["B"] = fit("B", [(found["A"].chosen, parts, [(*_SHARES, _BRANCH, _BRANCH)])])
    return found


@torch.no_grad()
def _correct(
    made: Frozen,
    rows: dict[str, Fitted],
    test: Tensor,
    y_test: Tensor,
    clock: Clock,
    context: Context,
) -> dict[str, Tensor]:
    """Whether each row is right on each test image; representations are made batch by batch."""
    predictors = {name: clock(name, row.predictor) for name, row in rows.items()}
    right: dict[str, list[Tensor]] = {name: [] for name in rows}
    for start in counted(range(0, len(test), _TEST_BATCH), "batch of test images"):
        views = made.views(test[start : start + _TEST_BATCH])
        for name, predictor in predictors.items():
            scores = clock(name, lambda p=predictor, v=views: p(v))
            right[name].append(scores.argmax(1) == y_test[start : start + _TEST_BATCH])
        if start % 2000 == 0:
            context.log(f"{start + views.maps.shape[1]} of {len(test)} test images")
    return {name: torch.cat(bits) for name, bits in right.items()}


def _numbers(name: str, row: Fitted, correct: Tensor, clock: Clock, made: Frozen) -> dict[str, Any]:
    """The numbers of a row; its CPU time has the representations that it reads."""
    seconds = clock.seconds.get(name, 0.0)
    if name == "B":
        seconds += clock.seconds["A"]
    used = {"scattering": ("scattering",), "patches": ("patches",), "A": ("patches", "whitening")}
    reads = used.get(name.partition(",")[0], ("patches", "whitening", "scattering"))
    seconds += sum(made.clock.seconds.get(part, 0.0) for part in reads)
    return {
        f"{name}: test accuracy": float(correct.double().mean()),
        f"{name}: left-out accuracy": row.left_out,
        f"{name}: ridge": row.solution.ridge,
        f"{name}: chosen": row.chosen,
        f"{name}: condition number": row.solution.condition_number,
        f"{name}: features": row.n_features,
        f"{name}: cpu seconds": seconds,
    }


def _roto_translation(
    run: dict[str, Any], context: Context, train: Tensor, y: Tensor, test: Tensor, y_test: Tensor
) -> Outcome:
    """The row of the paper's own comparison: a Gaussian machine on selected coefficients."""
    start = time.process_time()
    model = roto_translation_classifier(
        run["selected"],
        head=GaussianKernelHead(0.7, random_state=run["seed"]),
        flips="average" if run["mirror"] else "none",
        image_shape=tuple(train.shape[1:]),
        random_state=run["seed"],
        colours="yuv" if train.shape[1] == 3 else "rgb",
    )
    model.fit(train.flatten(1).numpy(), y.numpy())
    correct = torch.from_numpy(model.predict(test.flatten(1).numpy())) == y_test
    head: Any = model.head_
    name = "roto-translation, Gaussian"
    return Outcome(
        {
            f"{name}: test accuracy": float(correct.double().mean()),
            # Its features were selected with the labels: leaving one out flatters it.
            f"{name}: left-out accuracy": head.left_out_accuracy_[head.alpha_],
            f"{name}: ridge": head.alpha_,
            f"{name}: chosen": f"{run['selected']} features a class and round",
            f"{name}: condition number": None,
            f"{name}: features": head.n_features_in_,
            f"{name}: cpu seconds": time.process_time() - start,
        },
        arrays={f"correct {name}": correct.numpy()},
    )


# What each step to A has; what comes later keeps it.
_STEPS: dict[str, dict[str, Any]] = {
    "random": {
        "first_layer": "random",
        "whiten": False,
        "pooling": (2, 2),
        "mirror": False,
    },
    "patches": {"whiten": False, "pooling": (2, 2), "mirror": False},
    "whitened": {"pooling": (2, 2), "mirror": False},
    "overlapping": {"mirror": False},
    "mirrored": {},
    "branches": {},
    "infinite": {},
}


def _waterfall(
    run: dict[str, Any], context: Context, train: Tensor, y: Tensor, test: Tensor, y_test: Tensor
) -> Outcome:
    """One step on the way to A and B."""
    start = time.process_time()
    lever = run.get("lever", "infinite")
    made = frozen_for(run, train, scattering=lever == "branches", **_STEPS[lever])
    views = _trained_views(made, train, context)
    parts: list[Any] = [
        InfiniteConvolution(views)
        if lever == "infinite"
        else Convolution(views, run["channels"], run["width"], run["seed"])
    ]
    weights: tuple[float, ...] = _SHARES
    if lever == "branches":
        parts += [Dense(views, w, run["units"], run["seed"]) for w in ("pooled", "scattering")]
        weights = (*_SHARES, _BRANCH, _BRANCH)
    row = fitted([(f"{run['channels']} channels", parts, [weights])], one_hot(y))
    bits = _correct(made, {lever: row}, test, y_test, Clock(), context)[lever]
    return Outcome(
        {
            "test_accuracy": float(bits.double().mean()),
            "left_out_accuracy": row.left_out,
            "ridge": row.solution.ridge,
            "condition_number": row.solution.condition_number,
            "features": row.n_features,
            "total_cpu_seconds": time.process_time() - start,
        },
        arrays={"correct": bits.numpy()},
    )
