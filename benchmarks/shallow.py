"""Figure 1(c)'s work: the batched descent against the published loops, one student at a time.

The loop is the published one step for step (in NumPy, float64): train pass, gradient, test pass
at every step, whole path kept. Both sides run students of the same repetition for the same number
of steps, with no stopping rule, and have to end at the same losses.

    python benchmarks/shallow.py [--steps 300] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from types import SimpleNamespace

import numpy as np
import torch

from experiments import _fig1, fig1
from tangent.shallow import descend


def published_loop(x, y, x_test, y_test, weights, step, n_steps):
    """Gradient descent of one student; the last column of ``weights`` holds the a_j."""
    n, w = len(x), weights.copy()
    path = np.zeros((n_steps, *w.shape))
    train, test = np.zeros(n_steps), np.zeros(n_steps)
    for t in range(n_steps):
        path[t] = w
        hidden = np.maximum(w[:, :-1] @ x.T, 0.0)
        output = (w[:, -1:] * hidden).sum(axis=0)
        r = (output - y)[:, None] / n
        grad_hidden = (w[:, -1:] * (hidden > 0).astype(float)) @ (x * r)
        grad_output = hidden @ r
        train[t] = ((output - y) ** 2).sum() / (2 * n)
        output = (w[:, -1:] * np.maximum(w[:, :-1] @ x_test.T, 0.0)).sum(axis=0)
        test[t] = ((output - y_test) ** 2).sum() / (2 * len(y_test))
        w = w - step * np.concatenate([grad_hidden, grad_output], axis=1)
    return path, train, test


def timed(function, repeats):
    """Best wall and CPU seconds of ``repeats`` calls, and the last result."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        result = function()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus), result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loop-scales", type=int, default=3, help="scales the loop is timed on")
    options = parser.parse_args()
    settings = fig1.PRESETS["paper"]
    run = next(r for r in fig1.runs(settings) if r["part"] == "c") | {"seeds": [0]}
    results = {}
    for dtype in ("float64", "float32"):
        context = SimpleNamespace(device="cpu", dtype=dtype)
        students, task, step, tau = _fig1.problem(run, context)
        for every in (1, 10):

            def batched(every=every, students=students, task=task, step=step):
                return descend(
                    students,
                    task.x,
                    task.y,
                    step,
                    options.steps,
                    x_test=task.x_test,
                    y_test=task.y_test,
                    test_every=every,
                    records=3,
                )

            wall, cpu, result = timed(batched, options.repeats)
            count = students.alpha.numel() * options.steps
            results[f"batched {dtype}, test loss every {every}"] = {
                "wall_ms_per_step": 1e3 * wall / count,
                "cpu_ms_per_step": 1e3 * cpu / count,
            }
            if every == 1:
                ends = result.test_loss[0, :, -1], result.best_test_loss[0]
    # float64 problem for the loop, at scales spread over the panel
    students, task, step, tau = _fig1.problem(run, SimpleNamespace(device="cpu", dtype="float64"))
    chosen = np.linspace(0, len(tau) - 1, options.loop_scales).round().astype(int)
    arrays = [t[0].numpy() for t in (task.x, task.y, task.x_test, task.y_test)]
    start = torch.cat([students.hidden[0], students.output[0][:, None]], 1).numpy()

    def loops():
        ends = []
        for s in chosen:
            weight_step = float(step[0, s] / tau[s] ** 2)  # step of the weights themselves
            loop = published_loop(*arrays, float(tau[s]) * start, weight_step, options.steps)
            ends.append((loop[2][-1], loop[2].min()))
        return np.array(ends)

    wall, cpu, expected = timed(loops, options.repeats)
    count = len(chosen) * options.steps
    results["published loop, float64"] = {
        "wall_ms_per_step": 1e3 * wall / count,
        "cpu_ms_per_step": 1e3 * cpu / count,
    }
    gap = [float(np.abs(e[chosen].cpu().numpy() / x - 1).max()) for e, x in
           zip(ends, expected.T, strict=True)]  # fmt: skip
    for entry in results.values():
        entry["speedup"] = wall / count * 1e3 / entry["wall_ms_per_step"]
    report = {
        "command": f"python benchmarks/shallow.py --steps {options.steps}",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "float32_against_loop": {"end": gap[0], "best": gap[1]},
        "results": results,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
