"""Kernels of every network of the zoo beside torch.func's recipe, 16 inputs, all outputs.

    python -m benchmarks.kernel_of_zoo --out results/benchmarks/kernel-of-zoo.json

The networks are those of ``tests/zoo`` (needs the extra ``zoo``), made small: what is timed is
mostly what a call costs beside its arithmetic. float32, one thread. Where the recipe fails
(operations that torch.func does not differentiate or batch) its error stands in place of its time;
where it gives other numbers than ours the difference stands beside both, relative to the largest
entry.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from benchmarks.common import machine, seconds_of, write
from tangent import tangent_kernel
from tests.zoo.networks import zoo

N = 16


def recipe(model: nn.Module, x: Tensor) -> Tensor:
    """The kernel by torch.func, parameter by parameter."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def outputs(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(model, parameters, (one.unsqueeze(0),)).squeeze(0).flatten()

    jacobians = [j.flatten(2) for j in vmap(jacrev(outputs), (None, 0))(parameters, x).values()]
    total = torch.zeros(())
    for j in jacobians:
        total = total + torch.einsum("iap,jbp->iajb", j, j)
    return total


def compared(build: Any, inputs: Any, repeats: int) -> dict[str, Any]:
    """Seconds of both ways and their difference, or why there is no other."""
    torch.manual_seed(0)
    model, x = build().eval(), inputs(N)
    ours = tangent_kernel(model, x).reshape(N, -1)
    found: dict[str, Any] = {"outputs": ours.shape[1] // N}
    try:
        theirs = recipe(model, x).reshape(N, -1).detach()
    except Exception as error:
        found["recipe fails"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        theirs = None
    found["tangent_kernel"] = seconds_of(lambda: tangent_kernel(model, x), repeats)
    if theirs is not None:
        found["recipe"] = seconds_of(lambda: recipe(model, x), repeats)
        found["times faster"] = found["recipe"]["median"] / found["tangent_kernel"]["median"]
        found["difference"] = float((ours - theirs).abs().max() / theirs.abs().max())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--networks", nargs="*", help="some of the zoo; all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    networks: dict[str, Any] = {}
    for name, entry in zoo().items():
        if entry.refused or (options.networks and name not in options.networks):
            continue
        networks[name] = compared(entry.build, entry.inputs, options.repeats)
        print(name, networks[name].get("times faster", networks[name].get("recipe fails")))
    ratios = {name: f["times faster"] for name, f in networks.items() if "times faster" in f}
    record = {
        "settings": {"n": N, "clock": "CPU seconds", "dtype": "float32"},
        "median times faster": statistics.median(ratios.values()),
        "slower": {name: ratio for name, ratio in ratios.items() if ratio < 1},
        "recipe fails": len(networks) - len(ratios),
        "networks": networks,
        "machine": machine(),
    }
    write(record, options.out, shown={k: v for k, v in record.items() if k != "networks"})


if __name__ == "__main__":
    main()
