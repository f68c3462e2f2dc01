"""Figure 1(c)'s work: the batched descent against the published loops, one student at a time.

The loop is the published one step for step (in NumPy, float64): train pass, gradient, test pass
at every step, whole path kept. Both sides run students of the same repetition for the same fixed
number of steps, which is the published stopping rule, and have to end at the same losses. "Same
work" looks at the test loss at every step; a look every 10 steps is less work, and what it does
to the best test loss over a whole training is measured with --whole. The floor is the time of the
same matrix products alone, at the speed the machine reaches on them.

    OMP_NUM_THREADS=2 python -m benchmarks.shallow [--steps 300] [--repeats 3] [--whole] [--forms]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import threadpoolctl
import torch

from benchmarks.common import machine, seconds_of, wall_and_cpu, write
from experiments.fig1.measure import problem
from experiments.fig1.settings import PRESETS, runs
from tangent.machine.threads import side_by_side
from tangent.theory import students as _students
from tangent.theory.shallow import descend


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


def a_step(times, count):
    """Milliseconds of a step: medians, and those of the first call."""
    found = {f"{kind}_ms_per_step": 1e3 * t["median"] / count for kind, t in times.items()}
    first = {f"first_{kind}_ms_per_step": 1e3 * t["first"] / count for kind, t in times.items()}
    return found | first


def paper_problem(dtype):
    """Students of one repetition as printed, their task, steps and scales."""
    run = next(r for r in runs(PRESETS["paper"]) if r["part"] == "c") | {"seeds": [0]}
    return problem(run, SimpleNamespace(device="cpu", dtype=dtype))


def descent(problem, steps, every, records=3):
    students, task, step, _ = problem
    test = {"x_test": task.x_test, "y_test": task.y_test, "test_every": every}
    return descend(students, task.x, task.y, step, steps, records=records, **test)


def product_rate(dtype, together=8, repeats=200):
    """Operations a second of the two products of a step, on all threads at once."""
    m, d, n = 50 * together, 100, 1000

    def products(_):
        u, x = torch.randn(m, d, dtype=dtype), torch.randn(n, d, dtype=dtype)
        v, g, transposed = u @ x.T, torch.empty_like(u), x.T.contiguous()

        def both():
            for _ in range(repeats // 5):
                torch.mm(u, transposed, out=v)
                torch.mm(v, x, out=g)

        taken = seconds_of(both, 5, time.perf_counter)["median"]
        return 4 * m * d * n * (repeats // 5) / taken

    return sum(side_by_side(products, range(torch.get_num_threads())))


def loops(scales, steps, repeats, threads):
    """Time of the published loops, and the test losses at the end and at their best."""
    students, task, step, tau = paper_problem("float64")
    arrays = [t[0].numpy() for t in (task.x, task.y, task.x_test, task.y_test)]
    start = torch.cat([students.hidden[0], students.output[0][:, None]], 1).numpy()

    def all_scales():
        ends = []
        for s in scales:
            weight_step = float(step[0, s] / tau[s] ** 2)  # step of the weights themselves
            loop = published_loop(*arrays, float(tau[s]) * start, weight_step, steps)
            ends.append((loop[2][-1], loop[2].min()))
        return np.array(ends)

    with threadpoolctl.threadpool_limits(threads):
        times, ends = wall_and_cpu(all_scales, repeats)
    return a_step(times, len(scales) * steps), ends


def on_threads(count, chosen, options):
    """Loop, batched descents and bare products on ``count`` threads, and how they agree."""
    threads = f"{count} thread{'s' * (count > 1)}"
    loop, expected = loops(chosen, options.steps, options.repeats, count)
    results, report = {f"published loop, float64, {threads}": loop}, {}
    for dtype in ("float64", "float32"):
        problem = paper_problem(dtype)
        students = problem[0].alpha.numel() * options.steps
        for every in (1, 10):
            times, result = wall_and_cpu(
                lambda p=problem, e=every: descent(p, options.steps, e), options.repeats
            )
            name = f"batched, {dtype}, test loss every {every}, {threads}"
            results[name] = a_step(times, students)
            if every == 1:
                ends = (result.test_loss[0, :, -1], result.best_test_loss[0])
                pairs = zip(("end", "best"), ends, expected.T, strict=True)
                report[f"{dtype}_against_loop"] = {
                    name: float(np.abs(e[chosen].numpy() / x - 1).max()) for name, e, x in pairs
                }
        rate = product_rate(getattr(torch, dtype))
        operations = 3 * 2 * 50 * 100 * 1000  # train, gradient and test, m d n each
        results[f"matrix products alone, {dtype}, {threads}"] = {
            "gigaflops": rate / 1e9,
            "wall_ms_per_step": 1e3 * operations / rate,
        }
    for entry in results.values():
        ratio = loop["wall_ms_per_step"] / entry["wall_ms_per_step"]
        entry[f"speedup over the published loop on {threads}"] = ratio
    return results, report


def whole_training(results):
    """One repetition as printed, 10,000 steps, with the test loss at every and every 10th step."""
    problem, found = paper_problem("float32"), {}
    for every in (1, 10):
        start = time.perf_counter()
        found[every] = descent(problem, 10_000, every)
        wall = time.perf_counter() - start
        results[f"whole repetition, float32, test loss every {every}"] = {"wall_seconds": wall}
    best = {every: result.best_test_loss for every, result in found.items()}
    return float((best[10] / best[1] - 1).abs().max())


def forms(steps=1500):
    """How near float32 ends to float64: weights themselves, differences; by alpha."""
    exact = descent(paper_problem("float64"), steps, 10)
    alpha = paper_problem("float64")[0].alpha[0]
    chosen, found = dict(_students._LARGEST_DIRECT), {}
    for name, largest in (("weights", float("inf")), ("differences", 0.0)):
        _students._LARGEST_DIRECT.update({True: largest, False: largest})
        near = descent(paper_problem("float32"), steps, 10)
        found[name] = (near.test_loss[0, :, -1] / exact.test_loss[0, :, -1] - 1).abs()
    _students._LARGEST_DIRECT.update(chosen)
    return [
        {"alpha": float(a), **{name: float(error[i]) for name, error in found.items()}}
        for i, a in enumerate(alpha)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loop-scales", type=int, default=3, help="scales the loop is timed on")
    parser.add_argument("--whole", action="store_true", help="a whole training too (minutes)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/shallow.json"))
    parser.add_argument(
        "--forms", action="store_true", help="precision of the two forms (a minute)"
    )
    options = parser.parse_args()
    threads = torch.get_num_threads()
    results, report = {}, {}
    chosen = np.linspace(0, 32, options.loop_scales).round().astype(int)
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        same, agreement = on_threads(count, chosen, options)
        results |= same
        report |= agreement
    if options.whole:
        report["best_every_10_against_1"] = whole_training(results)
    if options.forms:
        report["relative_error_of_the_test_loss_in_float32_after_1500_steps"] = forms()
    whole = " --whole" * options.whole + " --forms" * options.forms
    report = {
        "command": f"OMP_NUM_THREADS={threads} python -m benchmarks.shallow "
        f"--steps {options.steps} --repeats {options.repeats}{whole}",
        "machine": machine(),
        **report,
        "results": results,
    }
    write(report, options.out)


if __name__ == "__main__":
    main()
