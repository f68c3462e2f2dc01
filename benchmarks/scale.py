"""Cost against the number of images, and what many images would take by the fitted costs.

    python -m benchmarks.scale measure   some minutes of one thread: results/benchmarks/scale.json
    python -m benchmarks.scale page      docs/scale.md and the plot, from that file

VGG-11 at a quarter of its width on scikit-learn's digits at 32 x 32, gray, ten outputs, float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine, write
from benchmarks.solve import as_far_as_it_goes, digits
from tangent import linearize, tangent_features, tangent_kernel, vgg11
from tangent.kernel.products import KernelProduct
from tangent.models.direct import Scaled
from tangent.models.losses import loss_named
from tangent.solve import kernel_ridge
from tangent.solve.normal_equations import NormalEquations
from tangent.training.batches import Inputs
from tangent.training.lazy import LazySettings, train

RECORD = Path("results/benchmarks/scale.json")
PAGE = Path("docs/scale.md")
PLOT = Path("results/benchmarks/scale.png")
WIDTH = 0.25
SKETCH = 2048  # features of an image: a choice, whose square is paid
SIZES = {
    "kernel": (32, 64, 128, 256, 384),
    "exact solve": (500, 1000, 1500, 2000, 2500),
    "product of the kernel": (32, 64, 128, 256),
    "features": (16, 32, 64, 128),
    "normal equations": (256, 512, 1024, 2048),
    "training, an epoch": (64, 128, 256, 384),
}
# Powers of n that the cost of each is made of.
POWERS = {
    "kernel": (1, 2),
    "exact solve": (2, 3),
    "product of the kernel": (1,),
    "features": (1,),
    "normal equations": (1,),
    "training, an epoch": (1,),
}
GOALS = (50_000, 1_300_000, 10_000_000)
DAY = 86400.0


def network() -> torch.nn.Module:
    return vgg11(10, in_channels=1, width=WIDTH, generator=torch.Generator().manual_seed(0)).eval()


def works(folder: Path) -> dict[str, Callable[[int], Callable[[], Any]]]:
    """What is timed for n images; the preparation is not."""
    model = network()

    def kernel(n):
        x = digits(n)[0]
        return lambda: tangent_kernel(model, x, outputs="trace", accumulate=torch.float64)

    def exact(n):
        rows = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        matrix, y = rows @ rows.T / n, rows[:, :10]
        return lambda: kernel_ridge(matrix, y, 1e-3)

    def product(n):
        once = KernelProduct(model, digits(n)[0], outputs="pseudo")
        v = torch.ones(n, 1)
        return lambda: once(v)

    def features(n):
        x = digits(n)[0]
        return lambda: tangent_features(
            model, x, project=SKETCH, sketch="count", batch_size=16,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    def equations(n):
        rows = torch.randn(n, SKETCH, generator=torch.Generator().manual_seed(0))
        made = NormalEquations(folder, SKETCH, 10, "scale")
        return lambda: made.add(rows, rows[:, :10])

    def training(n):
        x, y = digits(n)
        settings = LazySettings(lr=1e-3, epochs=1, batch_size=64)
        targets = loss_named("square").targets(y.argmax(1), 10, torch.float32)

        def epoch():
            module: Scaled = linearize(model)
            order = torch.Generator().manual_seed(0)
            train(module, Inputs.plain(x), targets, settings, generator=order)

        return epoch

    made = (kernel, exact, product, features, equations, training)
    return dict(zip(SIZES, made, strict=True))


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """CPU and wall seconds of the second call; the first compiles and calibrates."""
    work()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}


def fitted(n: np.ndarray, seconds: np.ndarray, powers: tuple[int, ...]) -> list[float]:
    """Coefficients, none below 0, of the powers of n; relative errors are what is fitted."""
    from scipy.optimize import nnls

    rows = np.stack([n**p / seconds for p in powers], 1)
    return nnls(rows, np.ones(len(n)))[0].tolist()


def iterations() -> dict[str, Any]:
    """Conjugate gradients on the centred kernel of a few hundred images, to a residual of 1e-3."""
    from tangent.solve import centred_product

    n = 256
    x, y = digits(n)
    matrix = tangent_kernel(network(), x, outputs="trace", accumulate=torch.float64)
    matrix = matrix / float(matrix.diagonal().mean())
    product = centred_product(lambda v: matrix @ v, n)
    found = as_far_as_it_goes(
        product, y - y.mean(0), ridge=1e-3, tolerance=1e-3, max_iterations=500
    )
    return {"n": n, "ridge": 1e-3, "tolerance": 1e-3, "iterations": found.log[-1].step}


def measure() -> None:
    import tempfile

    torch.set_num_threads(1)
    costs = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, prepared in works(Path(folder)).items():
            times = {n: timed(prepared(n)) for n in SIZES[name]}
            n = np.array(list(times), float)
            cpu = np.array([one["cpu"] for one in times.values()])
            costs[name] = {
                "seconds": times,
                "powers": POWERS[name],
                "coefficients": fitted(n, cpu, POWERS[name]),
            }
            print(name, costs[name], flush=True)
    record = {
        "width": WIDTH,
        "sketch": SKETCH,
        "epochs": LazySettings().epochs,
        "cg": iterations(),
        "costs": costs,
        "machine": {**machine(threads=1), "statistic": "CPU seconds of the second call"},
    }
    write(record, RECORD, shown=record["cg"])


@dataclasses.dataclass(frozen=True)
class Way:
    """A method's cost for n images: CPU seconds and bytes that are held at once."""

    name: str
    seconds: Callable[[int], float]
    held: Callable[[int], float]


def ways(record: dict[str, Any]) -> list[Way]:
    def cost(name: str) -> Callable[[float], float]:
        one = record["costs"][name]
        return lambda n: sum(
            c * n**p for c, p in zip(one["coefficients"], one["powers"], strict=True)
        )

    p, columns, steps = record["sketch"], 10, record["cg"]["iterations"]
    cubic = record["costs"]["exact solve"]["coefficients"][-1]
    pixels = 4.0 * 32 * 32
    return [
        Way(
            "exact: kernel and Cholesky",
            lambda n: cost("kernel")(n) + cost("exact solve")(n),
            lambda n: 3 * 8.0 * n**2,
        ),
        Way(
            f"conjugate gradients, matrix-free, {steps} steps of {columns} columns",
            lambda n: steps * columns * cost("product of the kernel")(n),
            lambda n: n * (pixels + 4 * 8.0 * columns),
        ),
        Way(
            f"sketch of {p} features, normal equations",
            lambda n: cost("features")(n) + cost("normal equations")(n) + cubic * p**3,
            lambda n: n * pixels + 3 * 8.0 * p**2,
        ),
        Way(
            f"SGD on the linearized network, {record['epochs']} epochs",
            lambda n: record["epochs"] * cost("training, an epoch")(n),
            lambda n: n * pixels,
        ),
    ]


def spoken(seconds: float) -> str:
    for unit, size in (("core-years", 365.25 * DAY), ("core-days", DAY), ("core-hours", 3600.0)):
        if seconds >= size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds / 60:.3g} core-minutes"


def memory(held: float) -> str:
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if held >= size:
            return f"{held / size:,.3g} {unit}"
    return f"{held / 1e6:.3g} MB"


def page(record: dict[str, Any]) -> str:
    facts = record["machine"]
    lines = [
        "# Scale",
        "",
        "Written by `python -m benchmarks.scale page` from `results/benchmarks/scale.json` "
        "(`python -m benchmarks.scale measure`).",
        "",
        f"VGG-11 at {record['width']:g} of its width, ten outputs, digits at 32 x 32, float32 "
        f"(systems in float64), one thread of {facts['cpu']}, torch "
        f"{facts['versions']['torch']}, commit {facts['commit']}; CPU seconds of a second call. "
        f"Load average {facts['load_average'][0]:.1f}: what shares the caches slows it. "
        "The kernel is the sum over the outputs, the products are those of the outputs' sum.",
        "",
        "![Cost against n](../results/benchmarks/scale.png)",
        "",
        "| What | Images | CPU seconds | Fitted cost, seconds |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for name, one in record["costs"].items():
        times = ", ".join(f"{v['cpu']:.3g}" for v in one["seconds"].values())
        terms = [
            f"{c:.2g} n" + (f"^{p}" if p > 1 else "")
            for c, p in zip(one["coefficients"], one["powers"], strict=True)
            if c
        ]
        lines.append(f"| {name} | {', '.join(one['seconds'])} | {times} | {' + '.join(terms)} |")
    lines += [
        "",
        f"Conjugate gradients: {record['cg']['iterations']} steps to a residual of "
        f"{record['cg']['tolerance']:g} at ridge {record['cg']['ridge']:g} of the mean diagonal, "
        f"on the centred kernel of {record['cg']['n']} digits. More images want more steps at the "
        "same ridge, or a preconditioner.",
        "",
        "## What many images would take",
        "",
        "Computed from the fitted costs, not measured: CPU time on cores like this one, the number "
        "of such cores that finish within a day (with nothing lost in sharing), and what has to be "
        "held at once, images in float32 included. Images are of 32 x 32 pixels and one channel; a "
        "convolutional network's costs grow with the pixels at least: those of 224 x 224 have 49 "
        "times as many.",
        "",
        "| Images | Method | CPU time | Cores for a day | Held at once |",
        "|---:|---|---:|---:|---:|",
    ]  # fmt: skip
    made = ways(record)
    for n in GOALS:
        best = min(made, key=lambda way: way.seconds(n))
        for way in made:
            mark = "**" if way is best else ""
            cores = math.ceil(way.seconds(n) / DAY)
            lines.append(
                f"| {n:,} | {mark}{way.name}{mark} | {spoken(way.seconds(n))} | {cores:,} | "
                f"{memory(way.held(n))} |"
            )
    lines += ["", *_verdicts(made), ""]
    return "\n".join(lines)


def _verdicts(made: list[Way]) -> list[str]:
    """Which method fits each number of images, by what it holds and takes."""
    exact, cg, sketch, sgd = made
    lines = [
        "The cheapest method of each size is in bold. They do not answer the same question:",
        "",
    ]
    lines.append(
        "- exact gives leave-one-out beside the solution; "
        + "; ".join(f"{n:,} images hold {memory(exact.held(n))}" for n in GOALS)
        + ". `stored_tangent_kernel` keeps the kernel on disk, not its factor;"
    )
    n = GOALS[0]
    lines.append(
        f"- conjugate gradients solve the same system for one ridge and hold no kernel: at {n:,} "
        f"images {spoken(cg.seconds(n))} against {spoken(exact.seconds(n))}, shared by processes "
        "under `torchrun` (`distributed=True`);"
    )
    lines.append(
        "- a sketch is linear in n and is read once; its error falls with its size, whose square "
        f"is paid: {spoken(sketch.seconds(GOALS[-1]))} for {GOALS[-1]:,} images;"
    )
    lines.append(
        "- SGD on the linearized network is linear in n too, needs no solve, and is what remains "
        f"where the sketch would be too coarse: {spoken(sgd.seconds(GOALS[-1]))}."
    )
    return lines


def plot(record: dict[str, Any]) -> None:
    import matplotlib.pyplot as plt

    with plt.style.context("petroff10"):
        fig, ax = plt.subplots(layout="constrained")
        for marker, (name, one) in zip("osD^vP", record["costs"].items(), strict=True):
            n = np.array([float(k) for k in one["seconds"]])
            (line,) = ax.loglog(n, [v["cpu"] for v in one["seconds"].values()], marker, label=name)
            grid = np.geomspace(n[0], n[-1], 50)
            cost = sum(c * grid**p for c, p in zip(one["coefficients"], one["powers"], strict=True))
            ax.loglog(grid, cost, color=line.get_color())
        ax.set(xlabel="images n", ylabel="CPU seconds (line: fitted cost)")
        fig.legend(loc="outside upper center", ncols=3, fontsize="small")
        PLOT.parent.mkdir(parents=True, exist_ok=True)
        fig.savefig(PLOT, dpi=150, metadata={"Software": None})
        plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["measure", "page"])
    if parser.parse_args().verb == "measure":
        measure()
        return
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    PAGE.write_text(page(record), encoding="utf-8")
    plot(record)
    print(PAGE, PLOT)


if __name__ == "__main__":
    main()
