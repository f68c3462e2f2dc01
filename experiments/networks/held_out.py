"""A learning rate chosen on held-out training images, by one rule for every network and scale."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.runs.results import Context

if TYPE_CHECKING:
    from tangent.training.checkpoint import Checkpoint

HELD_OUT = "held-out"


def held_out_rate(
    model: Any,
    X: np.ndarray,
    y: np.ndarray,
    *,
    fractions: Sequence[float],
    images: int,
    epochs: int,
    seed: int,
    log: Callable[[str], None],
    progress: Path | None = None,
    writes: bool = True,
) -> tuple[float, dict[str, list[Any]]]:
    """Return the learning rate of the best short training, scored on held-out images.

    Parameters
    ----------
    model : LazyClassifier
        Not fitted; copied with other rates and epochs for the trials.
    X, y : arrays
        Training images and labels. A tenth of them, every class in its share, is held out; the
        trials train on ``images`` of the others (on all where there are fewer).
    fractions : sequence of float
        Rates to try, as multiples of the stability edge of the linearized problem. The edge is
        measured once, on one mini-batch.
    images, epochs : int
        Of a trial.
    seed : int
        Draws the held-out images.
    log : callable
        Told the outcome of each trial.
    progress : Path, optional
        Finished trials are kept in this file, so that an interrupted choice goes on from them.
    writes : bool
        Of several processes that make the choice together one keeps it.

    Returns
    -------
    lr : float
        The rate whose trial has the highest held-out accuracy; of equals, the smallest.
    trials : dict of lists
        ``fraction``, ``lr`` and ``accuracy`` of each trial, None where it diverged.

    Raises
    ------
    ArithmeticError
        When all trials diverge.

    Notes
    -----
    The rule is the same at alpha = 1 and in the limit, and no test image enters it.
    """
    from sklearn.base import clone
    from sklearn.model_selection import train_test_split

    from tangent.training import DivergenceError
    from tangent.training.checkpoint import Checkpoint

    few = max(len(y) // 10, len(np.unique(y)))  # one image of each class at least
    rest, held, y_rest, y_held = train_test_split(
        X, y, test_size=few, stratify=y, random_state=seed
    )
    rest, y_rest = rest[:images], y_rest[:images]
    kept = None if progress is None else Checkpoint(progress)
    of = {"images": images, "epochs": epochs, "seed": seed, "data": _digest(rest, y_rest)}
    edge, found = _finished(kept, of, log)
    for fraction in fractions:
        if fraction in found:
            continue
        if edge is None:
            edge = _edge(model, rest, y_rest)
        trial = clone(model).set_params(
            lr=fraction * edge, epochs=epochs, checkpoint=None, check_lr=False
        )
        try:
            found[fraction] = float(trial.fit(rest, y_rest).score(held, y_held))
        except DivergenceError:
            found[fraction] = None
        log(f"rate {fraction:g} of the stability edge: held-out accuracy {found[fraction]}")
        if kept is not None and writes:
            kept.save(of, {"edge": edge, "found": dict(found)})
    assert edge is not None
    best = max(fractions, key=lambda f: (-1.0 if found[f] is None else found[f], -f))
    if found[best] is None:
        raise ArithmeticError(
            f"every trial diverged, at {', '.join(f'{f:g}' for f in fractions)} of the stability "
            f"edge {edge:.3g}; add smaller fractions"
        )
    trials: dict[str, list[Any]] = {
        "fraction": list(fractions),
        "lr": [f * edge for f in fractions],
        "accuracy": [found[f] for f in fractions],
    }
    return best * edge, trials


def trial_settings(settings: Any) -> dict[str, Any]:
    """The part of a run that determines the choice: ``rate_fractions`` and the trials' size."""
    names = ("rate_fractions", "trial_images", "trial_epochs")
    return {name: getattr(settings, name) for name in names}


def rate_of_run(
    model: Any, X: np.ndarray, y: np.ndarray, run: dict[str, Any], context: Context
) -> tuple[float, dict[str, list[Any]]]:
    """`held_out_rate` with a run's settings; finished trials are kept beside its checkpoint."""
    progress = None if context.checkpoint is None else _progress(context.checkpoint)
    lr, trials = held_out_rate(
        model,
        X,
        y,
        fractions=run["rate_fractions"],
        images=run["trial_images"],
        epochs=run["trial_epochs"],
        seed=run["seed"],
        log=context.log,
        progress=progress,
        writes=context.writes,
    )
    return lr, trials


def forget(context: Context) -> None:
    """Remove the finished trials of a run that is done."""
    if context.checkpoint is not None and context.writes:
        _progress(context.checkpoint).unlink(missing_ok=True)


def _progress(checkpoint: Path) -> Path:
    return checkpoint.with_suffix(".trials.ckpt")


def _edge(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    """The stability edge that a fit measures on one mini-batch, from a fit of one step."""
    from sklearn.base import clone

    probe = clone(model).set_params(lr="auto", epochs=1, checkpoint=None, augment=False)
    few = np.concatenate([np.flatnonzero(y == label)[:1] for label in np.unique(y)])
    rest = np.setdiff1d(np.arange(len(y)), few)[: max(0, model.batch_size - len(few))]
    index = np.concatenate([few, rest])
    return float(probe.fit(X[index], y[index]).stability_edge_)


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _finished(
    kept: Checkpoint | None, of: dict[str, Any], log: Callable[[str], None]
) -> tuple[float | None, dict[float, float | None]]:
    """Edge and accuracies of the trials that an earlier, interrupted choice has finished."""
    from tangent.training.checkpoint import CheckpointError, load_checkpoint

    if kept is None or not kept.path.exists():
        return None, {}
    try:
        load_checkpoint(kept.path)
    except CheckpointError as error:
        log(f"{error}; the trials start anew")
        kept.path.unlink(missing_ok=True)
    state = kept.load(of)
    return (None, {}) if state is None else (state["edge"], state["found"])
