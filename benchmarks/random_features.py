"""Rate of random patch features against the machine's own matrix products, in one run.

    python -m benchmarks.random_features [--images 64] [--filters 1024] [--threads 1] [--out FILE]

Floating-point operations counted: two for each patch value, position and filter (the convolution)
and nothing for normalization, whitening, rectifying and pooling, whose time is included; with
``pooling`` also two for each position, side and filter of the sum over cells, of which each
position is in one. The matrix product is 2048 x 2048 x 2048 in float32 by the same library.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from baselines.random_features import RandomPatchFeatures
from benchmarks.common import machine, seconds_of, write


def product_rate(repeats, size=2048):
    a, b = torch.rand(size, size), torch.rand(size, size)
    out = torch.empty(size, size)
    return 2 * size**3 / seconds_of(lambda: torch.mm(a, b, out=out), repeats)["median"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--filters", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = np.random.default_rng(0).random((options.images, 3 * 32 * 32), dtype=np.float32)
    model = RandomPatchFeatures(options.filters, image_shape=(3, 32, 32), random_state=0)
    model.fit(images)
    times = seconds_of(lambda: model.transform(images), options.repeats)
    seconds, rate = times["median"], product_rate(options.repeats)
    positions, values = 27 * 27, 6 * 6 * 3
    convolution = 2 * positions * values * options.filters * options.images
    pooling = 2 * 2 * positions * options.filters * options.images
    report = {
        "command": f"python -m benchmarks.random_features --images {options.images}"
        f" --filters {options.filters} --threads {options.threads} --repeats {options.repeats}",
        "machine": machine(),
        "cpu_seconds": times,
        "images_per_cpu_second": options.images / seconds,
        "gigaflops_per_cpu_second": {
            "matrix_product": rate / 1e9,
            "convolution": convolution / seconds / 1e9,
            "convolution_and_pooling": (convolution + pooling) / seconds / 1e9,
        },
        "share_of_the_matrix_product_rate": convolution / seconds / rate,
    }
    write(report, options.out)


if __name__ == "__main__":
    main()
