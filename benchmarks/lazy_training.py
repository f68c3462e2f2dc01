"""One step of lazy training by five methods: VGG-11, alpha = 1e7, the same work and the same data.

(a) the published method, re-implemented from its description: two networks, outputs subtracted,
float64, gradients through both; (b) that with the frozen network under no_grad; (c) the
linearization by torch.func.jvp, float32; (d) difference propagation, float32; (e) plain training
of the network itself, alpha = 1, float32, which is a floor and no lazy training. Steps of the
methods take turns, so that a busy machine slows all of them alike; the ratios are of the least
times. After the timed steps (a)-(d) are compared by their outputs.

    python benchmarks/lazy_training.py [--steps 4] [--batch 128] [--width 1] [--out FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.func import functional_call, jvp

from tangent import ScaledDifference, vgg11
from tangent.layout import channels_last, like_weights

ALPHA, LR, MOMENTUM = 1e7, 0.05, 0.9


def sgd(parameters, **options):
    return torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM, **options)


class Published:
    """alpha (h(w) - h(w0)) with both networks' gradients computed; only w is stepped."""

    def __init__(self, network, x, y, *, frozen_graph):
        self.network = copy.deepcopy(network).double()
        self.initial = copy.deepcopy(self.network)
        self.x, self.y, self.frozen_graph = x.double(), y.double(), frozen_graph
        self.optimizer = sgd(self.network.parameters())

    def outputs(self):
        with torch.set_grad_enabled(self.frozen_graph and torch.is_grad_enabled()):
            base = self.initial(self.x)
        return self.network(self.x) - base

    def step(self):
        # The mean over outputs of the loss of alpha h, over alpha^2.
        loss = F.mse_loss(self.outputs(), self.y / ALPHA)
        self.optimizer.zero_grad()
        self.initial.zero_grad()
        loss.backward()
        self.optimizer.step()

    def scaled(self):
        with torch.no_grad():
            return ALPHA * self.outputs()


class Linearized:
    """Dh(w0) delta by forward-mode differentiation, trained through it."""

    def __init__(self, network, x, y):
        self.x, self.y, self.network = x, y, network
        self.weights = {k: p.detach() for k, p in network.named_parameters()}
        self.delta = {k: torch.zeros_like(p, requires_grad=True) for k, p in self.weights.items()}
        self.optimizer = sgd(self.delta.values())

    def scaled(self):
        def outputs(weights):
            return functional_call(self.network, weights, self.x)

        return jvp(outputs, (self.weights,), (self.delta,))[1]

    def step(self):
        loss = F.mse_loss(self.scaled(), self.y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Ours:
    """Difference propagation as `tangent.lazy.train` runs it."""

    def __init__(self, network, x, y):
        self.module = ScaledDifference(network, ALPHA)
        channels_last(self.module)
        self.x, self.y = like_weights(x, self.module), y
        self.optimizer = sgd(list(self.module.delta), fused=True)

    def scaled(self):
        return self.module(self.x)

    def step(self):
        loss = F.mse_loss(self.scaled(), self.y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def parts(self):
        """Seconds of the base path, both paths, and the whole step."""
        start = time.perf_counter()
        with torch.no_grad():
            self.module.network(self.x)
        base = time.perf_counter()
        loss = F.mse_loss(self.scaled(), self.y)
        forward = time.perf_counter()
        self.optimizer.zero_grad()
        loss.backward()
        backward = time.perf_counter()
        self.optimizer.step()
        end = time.perf_counter()
        return {
            "base path (the network alone)": base - start,
            "difference path (the rest of forward)": (forward - base) - (base - start),
            "backward": backward - forward,
            "optimizer": end - backward,
        }


class Plain:
    """The network itself, trained as usual."""

    def __init__(self, network, x, y, *, last, fused):
        self.network = copy.deepcopy(network)
        if last:
            channels_last(self.network)
        self.x, self.y = like_weights(x, self.network), y
        self.optimizer = sgd(self.network.parameters(), fused=fused)

    def step(self):
        loss = F.mse_loss(self.network(self.x), self.y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def operations(function):
    """Floating-point operations of the convolutions and matrix products in one call."""
    from torch.utils.flop_counter import FlopCounterMode

    def baddbmm(out, a, b, *args, **kwargs):
        return 2 * a[0] * a[1] * a[2] * b[2]

    # The counter knows the product, but not where it is added in place.
    mapping = {torch.ops.aten.baddbmm_: baddbmm}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        function()
    return counter.get_total_flops()


def floor(methods, network, x):
    """Operations of a pass and of the steps, and the seconds they take at the machine's peak.

    Difference propagation needs five passes of convolutions (two of them backward), plain
    training three. Winograd's convolutions, which ours takes where they pay, need fewer
    operations than the passes; so may the library's, uncounted.
    """
    with torch.no_grad():
        one = operations(lambda: network(x))
    rate = peak_rate()
    found = {"operations_of_one_pass": one, "peak_operations_per_second": rate}
    for name, passes in (("difference propagation", 5), ("plain training", 3)):
        found[name] = {"passes": passes, "seconds_of_passes_at_peak": passes * one / rate}
    done = {name: operations(method.step) for name, method in methods.items()}
    found["operations_of_a_step"] = done
    found["seconds_of_a_step_at_peak"] = {n: o / rate for n, o in done.items()}
    return found


def peak_rate(seconds=0.5):
    """Operations a second of a large float32 matrix product."""
    a = torch.randn(1024, 1024)
    best = 0.0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ a
        best = max(best, 2 * 1024**3 / (time.perf_counter() - start))
    return best


def measured(methods, steps):
    """Wall and CPU seconds of every step after a first one; the methods take turns."""
    times = {name: {"wall": [], "cpu": []} for name in methods}
    for number in range(steps + 1):
        for name, method in methods.items():
            wall, cpu = time.perf_counter(), time.process_time()
            method.step()
            if number:
                times[name]["wall"].append(time.perf_counter() - wall)
                times[name]["cpu"].append(time.process_time() - cpu)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/lazy_training.json"))
    parser.add_argument("--float32", action="store_true", help="leave out (a) and (b), the slow")
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    network = vgg11(width=options.width, generator=generator)
    x = torch.randn(options.batch, 3, 32, 32, generator=generator)
    y = F.one_hot(torch.randint(0, 10, (options.batch,), generator=generator), 10).float()
    double = {
        "(a) published, float64": Published(network, x, y, frozen_graph=True),
        "(b) published, frozen under no_grad": Published(network, x, y, frozen_graph=False),
    }
    single = {
        "(c) torch.func.jvp, float32": Linearized(network, x, y),
        "(d) difference propagation, float32": Ours(network, x, y),
        "(e) plain training, alpha = 1": Plain(network, x, y, last=False, fused=False),
        "(e') plain, channels last, fused": Plain(network, x, y, last=True, fused=True),
    }
    methods = single if options.float32 else double | single
    times = measured(methods, options.steps)
    c, d, e, e_last = single
    best = {name: {kind: min(t[kind]) for kind in t} for name, t in times.items()}
    outputs = {
        name: methods[name].scaled().detach().double()
        for name in (*double, c, d)
        if name in methods
    }
    oracle = next(iter(outputs))
    ours = methods[d]
    parts = [ours.parts() for _ in range(options.steps)]
    floors = floor({n: m for n, m in methods.items() if n in (d, e)}, network, x)
    result = {
        "setting": {"alpha": ALPHA, "batch": options.batch, "width": options.width},
        "steps": options.steps,
        "images_per_second": {n: options.batch / t["wall"] for n, t in best.items()},
        "seconds": times,
        "ratios": {
            kind: {
                **{f"{n[:3]} / (d)": best[n][kind] / best[d][kind] for n in outputs if n != d},
                "(d) / (e)": best[d][kind] / best[e][kind],
                "(d) / (e')": best[d][kind] / best[e_last][kind],
            }
            for kind in ("wall", "cpu")
        },
        f"distance_to {oracle}": {
            n: float((found - outputs[oracle]).norm() / outputs[oracle].norm())
            for n, found in outputs.items()
            if n != oracle
        },
        "seconds_of_parts": {k: min(p[k] for p in parts) for k in parts[0]},
        "floating_point_floor": floors,
        "machine": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processor": platform.machine(),
            "torch": torch.__version__,
            "load": os.getloadavg()[0],
            "note": "the machine was shared with other work",
        },
        "command": f"python benchmarks/lazy_training.py --steps {options.steps} "
        f"--batch {options.batch} --width {options.width:g}{' --float32' * options.float32}",
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "seconds"}, indent=1))


if __name__ == "__main__":
    main()
