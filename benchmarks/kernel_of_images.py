"""The tangent kernel of VGG-11 on many CIFAR-10 images, on disk, in pieces of so many minutes.

    python -m benchmarks.kernel_of_images FOLDER --data-dir DIR --device cuda --images 50000 \\
        --outputs trace --minutes 9
    python -m benchmarks.kernel_of_images FOLDER2 --data-dir DIR --device cuda --images 5000 \\
        --outputs full --minutes 9

A piece ends at the first block after ``--minutes``; the same command goes on from there. The record
(`--out`) gets a line a piece: pairs of images a second, and operations a second of the useful work
(factors once an image, contractions once a pair) beside the rate of a large matrix product on the
same device.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import time
from pathlib import Path

import torch

from benchmarks.common import machine, write
from benchmarks.lazy_methods import operations, peak_rate
from experiments.data.datasets import load_dataset
from tangent import stored_tangent_kernel, vgg11
from tangent.kernel.engine.cost import Problem, Rates, seconds
from tangent.kernel.engine.passes import planned_factors
from tangent.kernel.engine.plan import network_of


class PieceDone(Exception):
    """The minutes of this piece are over."""


class Clock:
    """Counts the pairs of a piece and ends it in time."""

    def __init__(self, length: float):
        self.start, self.length = time.perf_counter(), length
        self.before: int | None = None
        self.done = self.total = 0

    def __call__(self, done: int, total: int) -> None:
        self.before = done if self.before is None else self.before
        self.done, self.total = done, total
        print(f"{done / total:7.2%} of {total:,} pairs", file=sys.stderr, flush=True)
        if done < total and time.perf_counter() - self.start > self.length:
            raise PieceDone


class Operations(Rates):
    """In place of seconds, the cost model's multiply-adds, two operations each."""

    def product(self, count: float, smallest: int) -> float:
        return 2 * count


def useful_operations(model, x, outputs):
    """Operations of the kernel of ``x``: factors once an input, contractions once a pair.

    Factors are a forward pass and a backward pass an output; contractions are what the cost
    model counts for the orders that it chose.
    """
    problem = Problem(len(x), len(x), symmetric=True, full=outputs == "full")
    plan, _ = planned_factors(network_of(model, outputs), problem, x[:1])
    with torch.no_grad():
        pass_of_one = operations(lambda: model(x[:1]))
        cotangents = model(x[:1]).shape[1]
    counted = Operations((1.0,) * 4, float("inf"))
    known = [layer for layer in plan.layers if layer.shape is not None]
    contractions = sum(
        layer.groups * seconds(layer.order, layer.shape, plan.problem, counted) for layer in known
    )
    return len(x) * (1 + cotangents) * pass_of_one + contractions


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds the kernel and its journal")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--outputs", default="trace", choices=["full", "trace", "pseudo"])
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--tf32", action="store_true", help="allow TF32 products on a GPU")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument(
        "--sample", type=int, default=32, help="images the operations are counted on"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/benchmarks/kernel_of_images.json")
    )
    return parser.parse_args()


def main():
    options = parsed()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    data = load_dataset("cifar10", data_dir=options.data_dir)
    pixels = data.train_images[: options.images]
    x = torch.from_numpy(pixels).to(options.device).float().div_(255)
    model = vgg11(width=options.width, generator=torch.Generator().manual_seed(0))
    model = model.to(options.device)
    whole = useful_operations(model, x, options.outputs)
    clock = Clock(60 * options.minutes)
    with contextlib.suppress(PieceDone):
        stored_tangent_kernel(
            options.folder,
            model,
            x,
            outputs=options.outputs,
            batch_size=options.batch_size,
            progress=clock,
        )
    took = time.perf_counter() - clock.start
    pairs = clock.done - (clock.before or 0)
    line = {
        "command": "python -m benchmarks.kernel_of_images " + shlex.join(sys.argv[1:]),
        "data": data.label,
        "finished": clock.done == clock.total,
        "pairs": pairs,
        "pairs_in_all": clock.total,
        "seconds": took,
        "pairs_per_second": pairs / took,
        "useful_operations_in_all": whole,
        "useful_operations_per_second": whole * pairs / clock.total / took,
        "product_operations_per_second": peak_rate(options.device),
        "machine": machine(options.device),
    }
    lines = json.loads(options.out.read_text()) if options.out.exists() else []
    write([*lines, line], options.out, shown=line)


if __name__ == "__main__":
    main()
