"""One step of lazy training by five methods: VGG-11, alpha = 1e7, the same work and the same data.

(a) the published method, re-implemented from its description: two networks, outputs subtracted,
float64, gradients through both; (b) that with the frozen network under no_grad; (c) the
linearization by torch.func.jvp, float32; (d) difference propagation, float32; (e) plain training
of the network itself, alpha = 1, float32, which is a floor and no lazy training. Steps of the
methods take turns, so that a busy machine slows all of them alike; the ratios are of the median
times. After the timed steps (a)-(d) are compared by their outputs.

On a GPU (d) and (e) are timed with TF32 and in bfloat16 as well, step by step and replayed as a
CUDA graph. Model operations a second are the passes a step needs times those of one pass.

    python -m benchmarks.lazy_training [--steps 4] [--batch 128] [--width 1] [--out FILE]
    python -m benchmarks.lazy_training --device cuda --steps 20 \\
        --out results/benchmarks/lazy_training-cuda.json
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from benchmarks.common import machine, write
from benchmarks.lazy_methods import (
    ALPHA,
    Difference,
    Graphed,
    Linearized,
    Plain,
    Published,
    TensorFloat32,
    operations,
    peak_rate,
    wait,
)
from tangent import vgg11

OURS, PLAIN = "(d) difference propagation, float32", "(e) plain training, alpha = 1"
PASSES = {"(d)": 5, "(e)": 3}


def factories(network, x, y, options):
    """Functions that make the methods, by name; the oracle of the outputs comes first."""
    half = torch.bfloat16
    found = {
        "(a) published, float64": lambda: Published(network, x, y, frozen_graph=True),
        "(b) published, frozen under no_grad": lambda: Published(network, x, y, frozen_graph=False),
    }
    if options.float32:
        found = {}
    found["(c) torch.func.jvp, float32"] = lambda: Linearized(network, x, y)
    found[OURS] = lambda: Difference(network, x, y)
    found[PLAIN] = lambda: Plain(network, x, y, last=False, fused=False)
    found["(e') plain, channels last, fused"] = lambda: Plain(network, x, y, last=True, fused=True)
    if x.is_cuda:
        found["(d) TF32"] = lambda: TensorFloat32(Difference(network, x, y))
        found["(e) TF32"] = lambda: TensorFloat32(Plain(network, x, y, last=True, fused=True))
    if x.is_cuda or options.bfloat16:
        found["(d) bfloat16"] = lambda: Difference(network, x, y, half)
        found["(e) bfloat16"] = lambda: Plain(network, x, y, last=True, fused=True, dtype=half)
    return found


def graphs(makers):
    """The difference and plain methods recorded as CUDA graphs, and why one could not be."""
    found, refused = {}, {}
    for name, make in makers.items():
        if name[:3] not in PASSES:
            continue
        try:
            found[f"{name}, CUDA graph"] = Graphed(make())
        except RuntimeError as error:
            refused[f"{name}, CUDA graph"] = str(error).splitlines()[0]
            torch.cuda.synchronize()
    return found, refused


def floor(methods, network, x):
    """Operations of a pass and of the steps, and the seconds they take at the machine's peak.

    Difference propagation needs five passes of convolutions (two of them backward), plain
    training three. Winograd's convolutions, which ours takes where they pay, need fewer
    operations than the passes; so may the library's, uncounted.
    """
    with torch.no_grad():
        one = operations(lambda: network(x))
    rate = peak_rate(x.device)
    found = {"operations_of_one_pass": one, "peak_operations_per_second": rate}
    for name, passes in (("difference propagation", 5), ("plain training", 3)):
        found[name] = {"passes": passes, "seconds_of_passes_at_peak": passes * one / rate}
    done = {name: operations(methods[name].step) for name in (OURS, PLAIN)}
    found["operations_of_a_step"] = done
    found["seconds_of_a_step_at_peak"] = {n: o / rate for n, o in done.items()}
    return found


def model_operations(typical, one):
    """Model operations a second of (d) and (e), by precision, and how (d) compares with (e)."""
    rates = {n: PASSES[n[:3]] * one / t["wall"] for n, t in typical.items() if n[:3] in PASSES}
    pairs = {n: n.replace("(d)", "(e)") for n in rates if n.startswith("(d)")}
    pairs = {n: e.replace(OURS.replace("(d)", "(e)"), PLAIN) for n, e in pairs.items()}
    shares = {n: rates[n] / rates[e] for n, e in pairs.items() if e in rates}
    return {"per_second": rates, "share_of_plain_training": shares}


def measured(methods, steps, group, device):
    """Wall and CPU seconds of a step, ``steps`` times after a first one; the methods take turns.

    ``group`` steps are timed together, which a device that works ahead of its commands needs.
    """
    times, first = ({name: {"wall": [], "cpu": []} for name in methods} for _ in range(2))
    for number in range(steps + 1):
        for name, method in methods.items():
            wait(device)
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(group):
                method.step()
            wait(device)
            kept = times[name] if number else first[name]
            kept["wall"].append((time.perf_counter() - wall) / group)
            kept["cpu"].append((time.process_time() - cpu) / group)
    return times, first


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/lazy_training.json"))
    parser.add_argument("--float32", action="store_true", help="leave out (a) and (b), the slow")
    parser.add_argument("--bfloat16", action="store_true", help="bfloat16 on a CPU too")
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU; leave it out for the CPU's figures")
    return options


def main():
    options = parsed()
    device, generator = options.device, torch.Generator().manual_seed(0)
    # Precision is a method's own: without this float32 convolutions of a GPU are TF32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    network = vgg11(width=options.width, generator=generator).to(device)
    x = torch.randn(options.batch, 3, 32, 32, generator=generator).to(device)
    labels = torch.randint(0, 10, (options.batch,), generator=generator)
    y = F.one_hot(labels, 10).float().to(device)
    makers = factories(network, x, y, options)
    methods = {name: make() for name, make in makers.items()}
    recorded, refused = graphs(makers) if device.type == "cuda" else ({}, {})
    group = 10 if device.type == "cuda" else 1
    times, first = measured(methods | recorded, options.steps, group, device)
    typical = {name: {kind: median(t[kind]) for kind in t} for name, t in times.items()}
    outputs = {
        name: method.scaled().detach().double()
        for name, method in methods.items()
        if hasattr(method, "scaled")
    }
    oracle = next(iter(outputs))
    parts = [methods[OURS].parts() for _ in range(options.steps)]
    floors = floor(methods, network, x)
    wanted = [n for n in typical if not n.startswith("(e") and n != OURS]
    result = {
        "setting": {"alpha": ALPHA, "batch": options.batch, "width": options.width},
        "steps": options.steps * group,
        "images_per_second": {n: options.batch / t["wall"] for n, t in typical.items()},
        "seconds": times,
        "seconds_of_the_first_step": first,
        "ratios": {
            kind: {
                **{f"{n} / (d)": typical[n][kind] / typical[OURS][kind] for n in wanted},
                **{
                    f"(d) / {n}": typical[OURS][kind] / typical[n][kind]
                    for n in typical
                    if n.startswith("(e")
                },
            }
            for kind in ("wall", "cpu")
        },
        "faster_than_the_oracle": {
            n: typical[oracle]["wall"] / t["wall"] for n, t in typical.items() if n != oracle
        },
        f"distance_to {oracle}": {
            n: float((found - outputs[oracle]).norm() / outputs[oracle].norm())
            for n, found in outputs.items()
            if n != oracle
        },
        "seconds_of_parts": {k: median(p[k] for p in parts) for k in parts[0]},
        "floating_point_floor": floors,
        "model_operations": model_operations(typical, floors["operations_of_one_pass"]),
        "not_recorded_as_a_graph": refused,
        "machine": with_rates(device),
        "command": "python -m benchmarks.lazy_training " + shlex.join(sys.argv[1:]),
    }
    write(result, options.out, shown={k: v for k, v in result.items() if k != "seconds"})


def with_rates(device):
    """What it ran on, with the rate of a large product by precision on a GPU."""
    found = machine(device)
    if device.type == "cuda":
        found["bfloat16_operations_per_second"] = peak_rate(device, torch.bfloat16)
        found["free_memory_share"] = torch.cuda.mem_get_info(device)[0] / (
            torch.cuda.get_device_properties(device).total_memory
        )  # below one: somebody else is there as well
    return found


if __name__ == "__main__":
    main()
