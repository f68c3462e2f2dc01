"""The designed network trained at alpha = 1: what it gains when it is not lazy."""

from __future__ import annotations

import copy
import itertools
import time
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from experiments.open_question.frozen import frozen_for
from experiments.open_question.rows import he_normal
from experiments.runs.results import Context, Outcome
from tangent.machine.bars import counted

_BATCH = 50


def trained(
    run: dict[str, Any], context: Context, train: Tensor, y: Tensor, test: Tensor, y_test: Tensor
) -> Outcome:
    """Train A's convolution and linear layer by SGD on cross entropy, its frozen layers kept.

    The rate, the weight decay and the epoch are chosen on a tenth of the training images; the
    network is then trained on all of them.
    """
    start = time.process_time()
    made = frozen_for(run, train, scattering=False)
    maps = made.views(train).maps
    network = _network(maps.shape[2], maps.shape[3], run["width"], int(y.max()) + 1, run["seed"])
    held = len(y) // 10
    trials = {}
    for rate, decay in itertools.product(run["rates"], run["decays"]):
        accuracies = _accuracies(
            copy.deepcopy(network), (rate, decay), run["epochs"], run["seed"],
            (maps[:, held:], y[held:]), (maps[:, :held], y[:held]),
        )  # fmt: skip
        best = max(range(len(accuracies)), key=accuracies.__getitem__)
        trials[rate, decay] = (accuracies[best], best + 1)
        context.log(
            f"rate {rate}, weight decay {decay}: held-out {100 * accuracies[best]:.1f} at epoch "
            f"{best + 1}"
        )
    step = max(trials, key=lambda pair: trials[pair][0])
    epochs = trials[step][1]
    _accuracies(network, step, epochs, run["seed"], (maps, y), None, schedule=run["epochs"])
    with torch.no_grad():
        correct = torch.cat(
            [
                _scores(network, made.views(x).maps).argmax(1) == labels
                for x, labels in zip(test.split(250), y_test.split(250), strict=True)
            ]
        )
    return Outcome(
        {
            "test_accuracy": float(correct.double().mean()),
            "held_out_accuracy": trials[step][0],
            "rate": step[0],
            "weight_decay": step[1],
            "epochs_taken": epochs,
            "features": sum(p.numel() for p in network.parameters()),
            "total_cpu_seconds": time.process_time() - start,
        },
        arrays={"correct": correct.numpy()},
    )


def _network(channels: int, side: int, width: int, classes: int, seed: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(1000 + seed)
    conv = nn.Conv2d(channels, width, 3, padding=1)
    head = nn.Linear(width * ((side - 7) // 3 + 1) ** 2, classes)
    he_normal((conv, head), generator)
    return nn.Sequential(conv, nn.ReLU(), nn.AvgPool2d(7, 3), nn.Flatten(), head)


def _scores(network: nn.Module, maps: Float[Tensor, "views n c h w"]) -> Float[Tensor, "n k"]:
    return torch.stack([network(view) for view in maps]).mean(0)


def _accuracies(
    network: nn.Module,
    step: tuple[float, float],
    epochs: int,
    seed: int,
    training: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor] | None,
    schedule: int | None = None,
) -> list[float]:
    """Held-out accuracy after each epoch, 0 from one on where the loss is not finite.

    ``step`` is the rate, which falls to 0 over the schedule, and the weight decay.
    """
    rate, decay = step
    maps, y = training
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    found: list[float] = []
    for epoch in counted(range(epochs), "epoch"):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - epoch / (schedule or epochs))
        for some in torch.randperm(len(y), generator=generator).split(_BATCH):
            loss = F.cross_entropy(_scores(network, maps[:, some]), y[some])
            if not torch.isfinite(loss):
                return found + [0.0] * (epochs - len(found))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if held is not None:
            with torch.no_grad():
                right = _scores(network, held[0]).argmax(1) == held[1]
            found.append(float(right.double().mean()))
    return found
