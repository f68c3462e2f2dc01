"""Images a CPU second of the two scattering backends, side by side in one run, on one thread.

    python -m benchmarks.scattering [--size 32] [--images 192] [--batches 8 32] [--out FILE.json]

Each backend is given batches of several sizes in turn and keeps its best; CPU seconds are those of
the thread, the median of the repeats.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import threadpoolctl
import torch
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

from baselines.transform import FastScattering
from benchmarks.common import machine, seconds_of, write


def images_a_second(transform, images, batch, repeats):
    def all_images():
        for part in images.split(batch):
            transform(part)

    return len(images) / seconds_of(all_images, repeats, time.thread_time)["median"]


def _repeatedly(way, times):
    for _ in range(times):
        way()


def product_rates(repeats):
    """GFLOP/s of products of small matrices, stacks of 20, by torch's BLAS and by NumPy's."""
    rates = {}
    for rows, inner, columns in ((9, 9, 384), (11, 11, 384), (21, 21, 384), (16, 8, 48)):
        a, b = torch.rand(20, rows, inner), torch.rand(20, inner, columns)
        out = torch.empty(20, rows, columns)
        ways = {
            "torch": partial(torch.bmm, a, b, out=out),
            "numpy": partial(np.matmul, a.numpy(), b.numpy(), out=out.numpy()),
        }
        operations = 200 * 2 * 20 * rows * inner * columns
        rate = {}
        for name, way in ways.items():
            many = partial(_repeatedly, way, 200)
            rate[name] = operations / seconds_of(many, repeats, time.thread_time)["median"] / 1e9
        rates[f"({rows}, {inner}) @ ({inner}, {columns})"] = rate
    return rates


def comparison(J, L, images, batches, repeats):
    shape = tuple(images.shape[2:])
    kymatio, ours = ScatteringTorch2D(J, shape, L=L), FastScattering(J, shape, L)
    expected, found = kymatio(images[: batches[0]]), ours(images[: batches[0]])
    rates = {"kymatio": {}, "torch": {}}
    for batch in batches:
        rates["kymatio"][batch] = images_a_second(kymatio, images, batch, repeats)
        rates["torch"][batch] = images_a_second(ours, images, batch, repeats)
    return {
        "J": J,
        "L": L,
        "images_per_cpu_second": rates,
        "ratio_of_the_best": max(rates["torch"].values()) / max(rates["kymatio"].values()),
        "ratio_by_batch": {b: rates["torch"][b] / rates["kymatio"][b] for b in batches},
        "largest_difference": float((expected - found).abs().max()),
        "largest_coefficient": float(expected.abs().max()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--batches", type=int, nargs="+", default=(8, 32, 64, 192))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    shape = (options.images, 3, options.size, options.size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    report = {
        "command": f"python -m benchmarks.scattering --size {options.size}"
        f" --images {options.images} --batches {' '.join(map(str, options.batches))}"
        f" --repeats {options.repeats}",
        "machine": machine(threads=1),
        "gigaflops_of_small_products": product_rates(options.repeats),
        "runs": [comparison(J, 8, images, options.batches, options.repeats) for J in (2, 3)],
    }
    write(report, options.out)


if __name__ == "__main__":
    with torch.no_grad(), threadpoolctl.threadpool_limits(1, user_api="blas"):
        main()
