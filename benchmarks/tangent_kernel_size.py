"""Time of the tangent kernel against the number of inputs, beside the cost model's prediction.

    python -m benchmarks.tangent_kernel_size --width 0.25 --out results/benchmarks

VGG-11, 10 outputs, one thread. The prediction adds up two terms: the factors, at the seconds an
input measured on the first ``--first`` inputs, and every layer's contraction, at the seconds that
the cost model (`tangent.kernel.engine.cost`) gives for the order it chose, from the rates it
measures on the device. Nothing is fitted to the times that are predicted. Writes a JSON file and a
figure.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import sys
import time
from pathlib import Path

import torch

from benchmarks.common import later, machine, seconds_of, write
from benchmarks.tangent_kernel import network
from tangent.kernel.engine.cost import Problem, seconds
from tangent.kernel.engine.passes import Factors, planned_factors
from tangent.kernel.engine.plan import Plan, network_of
from tangent.kernel.matrix import tangent_kernel

SIZES = (32, 64, 100, 150, 200, 250, 300, 350, 400, 450, 500)


def planned(model: torch.nn.Module, n: int, outputs: str, x: torch.Tensor) -> tuple[Plan, Factors]:
    problem = Problem(n, n, symmetric=True, full=outputs == "full")
    return planned_factors(network_of(model, outputs), problem, x)


def factor_seconds(model: torch.nn.Module, x: torch.Tensor, outputs: str) -> float:
    """CPU seconds an input of forward and backward passes, the median of three after a first."""
    return seconds_of(lambda: planned(model, len(x), outputs, x), 3)["median"] / len(x)


def predicted(model: torch.nn.Module, x: torch.Tensor, outputs: str, per_input: float) -> float:
    """CPU seconds of the kernel of ``x``."""
    plan, factors = planned(model, len(x), outputs, x[:1])
    problem, rates = plan.problem, plan.rates
    total = len(x) * per_input
    for layer in plan.layers:
        if layer.shape is not None:
            total += layer.groups * seconds(layer.order, layer.shape, problem, rates)
        else:
            factor = factors[layer.name]
            _, o, p = (factor.parts or (factor,))[0].gradients.shape
            rows = o * (o if problem.full else 1)
            total += layer.groups * rates.product(problem.pairs * rows * p, 64)
    return total


def measured(width: float, outputs: str, sizes: list[int], first: int, repeats: int) -> list[dict]:
    model = network("vgg11", width)
    x = torch.randn(max(sizes), 3, 32, 32, generator=torch.Generator().manual_seed(1))
    per_input = factor_seconds(model, x[:first], outputs)
    rows = []
    for n in sizes:
        times = []
        for _ in range(repeats + 1):
            start = time.process_time()
            tangent_kernel(model, x[:n], outputs=outputs)
            times.append(time.process_time() - start)
            if times[0] > 10:
                break
        row = {"n": n, "cpu_seconds": times}
        row["predicted"] = predicted(model, x[:n], outputs, per_input)
        row["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(row, file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def added(rows: list[dict]) -> list[dict]:
    """Seconds of every added input between one size and the next, measured and predicted."""
    result = []
    for before, after in itertools.pairwise(rows):
        inputs = after["n"] - before["n"]
        took = (later(after["cpu_seconds"]) - later(before["cpu_seconds"])) / inputs
        expected = (after["predicted"] - before["predicted"]) / inputs
        result.append({"n": after["n"], "seconds": took, "predicted": expected})
    return result


def draw(record: dict, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows, steps = record["rows"], record["added"]
    with plt.style.context("petroff10"):
        fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        sizes = [r["n"] for r in rows]
        left.plot(sizes, [later(r["cpu_seconds"]) for r in rows], "o", label="measured")
        left.plot(sizes, [r["predicted"] for r in rows], "--", label="cost model")
        left.set(xlabel="inputs n", ylabel="CPU seconds, whole kernel")
        right.plot([s["n"] for s in steps], [s["seconds"] for s in steps], "o", label="measured")
        right.plot([s["n"] for s in steps], [s["predicted"] for s in steps], "--", color="C1")
        lower, upper = ([f * s["predicted"] for s in steps] for f in (0.7, 1.3))
        right.fill_between(
            [s["n"] for s in steps], lower, upper, color="C1", alpha=0.2, label="cost model, 30%"
        )
        right.set(xlabel="inputs n", ylabel="CPU seconds an added input")
        for axes in (left, right):
            axes.set(xlim=(0, None), ylim=(0, None))
            axes.legend()
        fig.suptitle(f"VGG-11, width {record['width']:g}, {record['outputs']} kernel, one thread")
        fig.savefig(path, dpi=150, metadata={"Software": None})
        plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--outputs", default="full")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--first", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--note", default="", help="kept with the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(options.width, options.outputs, options.sizes, options.first, options.repeats)
    steps = added(rows)
    arguments = f"--width {options.width:g} --outputs {options.outputs} --sizes "
    arguments += " ".join(map(str, options.sizes))
    record = {
        "command": f"python -m benchmarks.tangent_kernel_size {arguments}",
        "width": options.width,
        "outputs": options.outputs,
        "machine": machine(),
        "note": options.note,
        "rows": rows,
        "added": steps,
        "largest_deviation": max(abs(s["seconds"] / s["predicted"] - 1) for s in steps),
    }
    path = options.out / f"tangent_kernel_size-{options.outputs}-{options.width:g}.json"
    write(record, path, shown=steps)
    draw(record, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
