"""Memory of training a wide VGG-11 on a CPU: what is said before, and what the process takes.

`tangent.LazyClassifier` is fitted for a few steps in a process of its own: float32, alpha = 1e7,
cross entropy, gain 1.3 (Chizat et al. 2019, Figure 3(b), whose wide VGG-11 has width 8 and a batch
of 8). The process's peak resident memory stands beside
`tangent.training.memory.training_memory`, which allocates nothing.

    python -m benchmarks.lazy_memory [--width 8] [--batch 8] [--steps 2] [--lr auto] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 12 * 2**30


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=8.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--lr", default="auto")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/lazy_memory.json"))
    parser.add_argument("--measure", action="store_true", help="what the second process does")
    return parser.parse_args()


def peak():
    """Bytes of this process's resident memory at most so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(chosen):
    """Fit, and print memory before and at the peak, and seconds."""
    import numpy as np

    from tangent import LazyClassifier

    rng = np.random.default_rng(0)
    n = chosen.batch * chosen.steps
    X = rng.integers(0, 256, (n, 3 * 32 * 32), dtype=np.uint8)
    model = LazyClassifier(
        "vgg11",
        alpha=1e7,
        width=chosen.width,
        gain=1.3,
        lr=chosen.lr if chosen.lr == "auto" else float(chosen.lr),
        check_lr=False,
        epochs=1,
        batch_size=chosen.batch,
        image_shape=(3, 32, 32),
        device="cpu",
        random_state=0,
    )
    before, start = peak(), time.perf_counter()
    model.fit(X, np.arange(n) % 10)
    seconds = model.history_["seconds"].sum() / chosen.steps
    print(
        json.dumps(
            {
                "parameters": model.n_parameters_,
                "bytes_before": before,
                "peak_bytes": peak(),
                "seconds_of_a_step": seconds,
                "seconds": time.perf_counter() - start,
                "loss": model.history_["loss"][-1],
                "lr": model.lr_,
            }
        )
    )


def main():
    chosen = options()
    if chosen.measure:
        return measured(chosen)
    import torch

    from benchmarks.common import machine, write
    from tangent import vgg11
    from tangent.training.memory import training_memory

    with torch.device("meta"):
        network = vgg11(width=chosen.width)
    need = training_memory(network, chosen.batch)
    print(f"said beforehand: {need}")
    words = [f"--{k}={getattr(chosen, k)}" for k in ("width", "batch", "steps", "lr")]
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.lazy_memory", "--measure", *words],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(child.stdout.splitlines()[-1])
    rise = found["peak_bytes"] - found["bytes_before"]
    result = {
        "said_beforehand": {
            "weights": need.weights,
            "activations": need.activations,
            "scratch": need.scratch,
            "total": need.total,
        },
        "measured": found,
        "measured_over_said": rise / need.total,
        "fits_12_gib": found["peak_bytes"] <= LIMIT,
        "machine": machine(),
        "command": f"python -m benchmarks.lazy_memory {' '.join(words)}",
    }
    write(result, chosen.out)
    return None


if __name__ == "__main__":
    main()
