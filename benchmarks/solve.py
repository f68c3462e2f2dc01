"""Solvers of tangent-kernel systems: time, memory, iterations.

    python -m benchmarks.solve exact         n = 10,000 shared kernel: Cholesky; eigenvectors
    python -m benchmarks.solve memory        matrix-free products, VGG-11 of width 1, against n
    python -m benchmarks.solve large         CG on CIFAR-10 images, VGG-11 of width 1 (--data-dir)
    python -m benchmarks.solve cifar10 --device cuda --n 50000 --minutes 9 --state FILE
                                             CG on all of CIFAR-10, sum of the outputs, in pieces
    python -m benchmarks.solve iterations    CG matrix-free, with and without preconditioner
    python -m benchmarks.solve conditioning  what centring and per-layer scales do

Each writes results/benchmarks/solve-NAME.json. Images are scikit-learn's digits at 32 x 32, gray,
where nothing else is said.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.common import machine, write
from tangent import solve, vgg11
from tangent.kernel import KernelProduct, balancing_scales, scaled_kernel, tangent_kernel


def timed(function):
    """Result, wall seconds and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def as_far_as_it_goes(*arguments, **options):
    """Conjugate gradients without the warning that they stopped before the tolerance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", solve.UnconvergedWarning)
        return solve.conjugate_gradients(*arguments, **options)


def digits(n: int):
    """``n`` training images (n, 1, 32, 32), normalized, and one-hot labels."""
    from experiments.data.datasets import load_dataset

    X, y, _, _ = load_dataset("digits").subset(n, 10, 0).arrays()
    x = torch.from_numpy(X).reshape(n, 1, 32, 32)
    return (x - x.mean()) / x.std(), torch.eye(10, dtype=torch.float64)[torch.from_numpy(y)]


def network(width: float):
    generator = torch.Generator().manual_seed(0)
    return vgg11(in_channels=1, width=width, gain=1.3, generator=generator)


def infinite_width_kernel(x):
    """Tangent kernel of a two-layer ReLU network of infinite width, in place where it can be."""
    norm = x.norm(dim=1)
    cosine = (x / norm[:, None]) @ (x / norm[:, None]).T
    angle = cosine.clamp_(-1, 1).acos()
    kernel = (torch.pi - angle) * cosine
    kernel.mul_(2).add_(angle.sin_()).div_(2 * torch.pi)
    return kernel.mul_(norm).mul_(norm[:, None])


def exact(options) -> dict:
    """The infinite-width ReLU tangent kernel (Cho & Saul 2009) of Gaussian rows."""
    generator = torch.Generator().manual_seed(0)
    results = {}
    for n, solver in ((options.n, "cholesky"), (options.n_spectrum, "eigendecomposition")):
        x = torch.randn(n, 20, generator=generator, dtype=torch.float64)
        kernel = infinite_width_kernel(x)
        y = torch.randn(n, 10, generator=generator, dtype=torch.float64)
        ridge = 1e-3 * float(kernel.diagonal().mean())
        if solver == "cholesky":
            fit, wall, cpu = timed(lambda k=kernel, y=y, r=ridge: solve.kernel_ridge(k, y, r))
            residual = kernel @ fit.coefficients + ridge * fit.coefficients - y
            entry = {
                "gives": "coefficients, leave-one-out, condition number, one ridge, 10 targets",
                "relative_residual": float(residual.norm() / y.norm()),
                "condition_number": fit.condition_number,
            }
        else:

            def path(k=kernel, y=y, r=ridge):
                decomposed = solve.spectrum(k)
                times = torch.logspace(0, 4, 20, dtype=torch.float64)
                return decomposed.ridge(y, [r * 10**i for i in range(10)]), solve.training_path(
                    decomposed, y, times
                )

            _, wall, cpu = timed(path)
            entry = {"gives": "10 ridges with leave-one-out and 20 training times, 10 targets"}
        results[f"{solver}, n={n}"] = entry | {"wall_s": wall, "cpu_s": cpu}
    return results | {"peak_gib": peak_gib()}


def memory(options) -> dict:
    """Every n in a process of its own, whose peak is that of this n."""
    if options.single:
        x, y = digits(options.single)
        model = network(1.0)
        product = KernelProduct(model, x, outputs="full", batch_size=16)
        before = peak_gib()
        _, wall, cpu = timed(lambda: product(y.flatten()))
        return {"peak_gib": peak_gib(), "before_gib": before, "wall_s": wall, "cpu_s": cpu}
    results = {}
    for n in (16, 64, 256):
        command = [sys.executable, "-m", "benchmarks.solve", "memory", "--single", str(n)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results[f"n={n}, {10 * n} rows"] = json.loads(done.stdout.splitlines()[-1])
    return results


def large(options) -> dict:
    """A few iterations of CG on all classes of CIFAR-10 images, full kernel, never formed."""
    if options.single:
        from experiments.data.datasets import load_dataset

        data = load_dataset("cifar10", data_dir=options.data_dir)
        X, y, _, _ = data.subset(options.single, 10, 0).arrays()
        x = torch.from_numpy(X).reshape(-1, *data.image_shape)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
        labels = torch.eye(10, dtype=torch.float64)[torch.from_numpy(y)]
        model = vgg11(width=1.0, gain=1.3, generator=torch.Generator().manual_seed(0))
        product = KernelProduct(model, x, outputs="full", batch_size=32)
        mean = float(tangent_kernel(model, x[:20], outputs="trace").diagonal().mean()) / 10
        before = peak_gib()
        fit, wall, cpu = timed(
            lambda: as_far_as_it_goes(
                product,
                (labels - labels.mean(0)).reshape(-1, 1),
                ridge=0.1 * mean,
                tolerance=1e-6,
                max_iterations=options.max_iterations,
            )
        )
        return {
            "peak_gib": peak_gib(),
            "before_gib": before,
            "products": fit.products,
            "residuals": [line.residual for line in fit.log],
            "wall_s_per_product": wall / fit.products,
            "cpu_s_per_product": cpu / fit.products,
        }
    results = {}
    for n in (500, options.n):
        command = [sys.executable, "-m", "benchmarks.solve", "large", "--single", str(n)]
        command += ["--data-dir", str(options.data_dir)]
        command += ["--max-iterations", str(options.max_iterations)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[f"n={n}, {10 * n} rows"] = json.loads(done.stdout.splitlines()[-1])
    return results


def cifar10(options) -> dict:
    """CG with a preconditioner on CIFAR-10 images; the same command goes on from ``--state``."""
    from experiments.data.datasets import load_dataset

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    data = load_dataset("cifar10", data_dir=options.data_dir)
    X, y, X_test, y_test = data.subset(options.n, min(options.n, 10_000), 0).arrays()
    x, x_test = (torch.from_numpy(a).reshape(-1, *data.image_shape) for a in (X, X_test))
    mean, scale = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    x, x_test = (((a - mean) / scale).to(options.device) for a in (x, x_test))
    labels = torch.eye(10, dtype=torch.float64)[torch.from_numpy(y)]
    centre = labels.mean(0)
    target = (labels - centre).to(options.device)
    model = vgg11(width=options.width, gain=1.3, generator=torch.Generator().manual_seed(0))
    model.to(options.device)
    product = KernelProduct(model, x, outputs="pseudo", batch_size=options.batch_size)
    few = tangent_kernel(model, x[:20], outputs="pseudo")
    ridge = options.ridge * float(few.diagonal().mean())
    settings = {name: getattr(options, name) for name in ("n", "width", "ridge", "rank")}
    state = torch.load(options.state, weights_only=True) if options.state.exists() else {}
    if state and state["settings"] != settings:
        raise SystemExit(f"--state holds {state['settings']}, not {settings}; name another file")
    start = time.perf_counter()
    if "eigenvalues" not in state:
        preconditioner = solve.nystrom_preconditioner(
            product,
            product.rows,
            rank=min(options.rank, product.rows),
            ridge=ridge,
            batch=10,
            dtype=torch.float64,
            device=x.device,
            generator=torch.Generator().manual_seed(1),
        )
        state = {
            "settings": settings,
            "eigenvalues": preconditioner.eigenvalues,
            "eigenvectors": preconditioner.eigenvectors,
            "coefficients": torch.zeros_like(target),
            "residuals": [],
        }
        torch.save(state, options.state)
    preconditioner = solve.NystromPreconditioner(
        state["eigenvalues"].to(x.device), state["eigenvectors"].to(x.device), ridge
    )
    converged, coefficients = False, state["coefficients"].to(x.device)
    while not converged and time.perf_counter() - start < 60 * options.minutes:
        fit = as_far_as_it_goes(
            product,
            target,
            ridge=ridge,
            preconditioner=preconditioner,
            initial=coefficients,
            tolerance=1e-3,
            max_iterations=20,
        )
        converged, coefficients = fit.converged, fit.coefficients
        state["coefficients"] = coefficients
        state["residuals"] += [line.residual for line in fit.log[1:]]
        torch.save(state, options.state)
    columns = [product.displacement(c) for c in coefficients.T]
    scores = torch.stack([product.linear_outputs(c, x_test).double() for c in columns], dim=1)
    predicted = (scores.cpu() + centre).argmax(1)
    return {
        "n": options.n,
        "width": options.width,
        "device": str(x.device),
        "ridge_over_mean_diagonal": options.ridge,
        "converged": converged,
        "residuals": state["residuals"],
        "products": product.products,
        "wall_s": time.perf_counter() - start,
        "test_accuracy": float((predicted == torch.from_numpy(y_test)).double().mean()),
    }


def iterations(options) -> dict:
    """Full kernel of VGG-11, width 0.25, at two ridges; matrix-free throughout."""
    n = options.n if options.n <= 500 else 60
    x, y = digits(n)
    model = network(0.25)
    mean = float(tangent_kernel(model, x[:20], outputs="trace").diagonal().mean()) / 10
    target = (y - y.mean(0)).reshape(-1, 1)
    results: dict = {"n": n, "rows": 10 * n, "width": 0.25, "mean_diagonal": mean}
    for relative in (1e-1, 1e-3):
        for rank in (0, 50, 150):
            product = KernelProduct(model, x, outputs="full", batch_size=30)
            ridge = relative * mean
            start = time.perf_counter()
            preconditioner = None
            if rank:
                preconditioner = solve.nystrom_preconditioner(
                    product,
                    product.rows,
                    rank=rank,
                    ridge=ridge,
                    generator=torch.Generator().manual_seed(1),
                )
            built = time.perf_counter() - start
            fit = as_far_as_it_goes(
                product,
                target,
                ridge=ridge,
                preconditioner=preconditioner,
                tolerance=1e-6,
                max_iterations=options.max_iterations,
            )
            entry = {"preconditioner_s": built, "preconditioner_products": rank}
            for tolerance in (1e-3, 1e-6):
                reached = next((i for i in fit.log if i.residual <= tolerance), None)
                entry[f"to {tolerance:g}"] = (
                    {"iterations": reached.step, "wall_s": built + reached.seconds}
                    if reached
                    else {"iterations": None, "residual_at_stop": fit.residual}
                )
            results[f"ridge={relative:g} of the mean diagonal, rank={rank}"] = entry
    return results


def conditioning(options) -> dict:
    """Centred and balanced kernels: top eigenvalue, CG iterations, steps of gradient descent."""
    n = options.n if options.n <= 500 else 200
    x, y = digits(n)
    y = y - y.mean(0)
    results: dict = {"n": n, "width": 0.25}
    for pooling, head in (("max", "flatten"), ("average", "global-average")):
        generator = torch.Generator().manual_seed(0)
        model = vgg11(
            in_channels=1, width=0.25, gain=1.3, pooling=pooling, head=head, generator=generator
        )
        shares = tangent_kernel(model, x, outputs="trace", per_layer=True, accumulate=torch.float64)
        balanced = scaled_kernel(shares, balancing_scales(shares))
        plain = torch.stack(list(shares.values())).sum(0)
        for name, kernel in (("as it is", plain), ("layers balanced", balanced)):
            for centred in (False, True):
                k = solve.KernelCentring.fit(kernel).train(kernel) if centred else kernel
                key = f"{pooling} pooling, {name}{', centred' if centred else ''}"
                results[key] = _difficulty(k / kernel.diagonal().mean(), y)
    return results


def _difficulty(kernel: torch.Tensor, y: torch.Tensor) -> dict:
    spectrum = solve.spectrum(kernel)
    entry = {
        "top_eigenvalue_over_uncentred_trace": float(spectrum.eigenvalues[0] / len(kernel)),
        "top_eigenvalue_over_trace": float(spectrum.eigenvalues[0] / spectrum.eigenvalues.sum()),
        "top_over_median": float(spectrum.eigenvalues[0] / spectrum.eigenvalues.median()),
    }
    for tolerance in (1e-3, 1e-6):
        fit = solve.conjugate_gradients(
            kernel.matmul, y, ridge=1e-3, tolerance=tolerance, max_iterations=5000
        )
        entry[f"cg_iterations_to_{tolerance:g}"] = fit.iterations
    lr = 0.5 * solve.stability_edge(spectrum.eigenvalues, scale=1.0)  # 1 / top eigenvalue
    steps = [2**i for i in range(22)]
    labels = y.argmax(1)
    path = solve.training_path(spectrum, y, steps, lr=lr, scale=1.0)
    accuracy = (path.train_predictions.argmax(2) == labels).double().mean(1)
    for level in (0.9, 0.99):
        reached = [s for s, a in zip(steps, accuracy.tolist(), strict=True) if a >= level]
        entry[f"descent_steps_to_train_accuracy_{level:g}"] = reached[0] if reached else None
    return entry


def _shown(arguments: list[str]) -> str:
    """The arguments with the data's folder as a user would name it."""
    given = ["DIR" if a == "--data-dir" else b for a, b in pairwise(arguments)]
    return " ".join([*arguments[:1], *given])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = {p.__name__: p for p in (exact, memory, large, cifar10, iterations, conditioning)}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--n-spectrum", type=int, default=5000, help="n of the eigenvectors")
    parser.add_argument("--max-iterations", type=int, default=300)
    parser.add_argument("--single", type=int, help="one n of memory or large, in this process")
    parser.add_argument("--data-dir", help="of CIFAR-10, for large and cifar10")
    only = "of cifar10"
    parser.add_argument("--device", default="cpu", help=only)
    parser.add_argument("--tf32", action="store_true", help=only)
    parser.add_argument("--width", type=float, default=1.0, help=only)
    parser.add_argument("--ridge", type=float, default=1e-2, help="over the mean diagonal; " + only)
    parser.add_argument("--rank", type=int, default=200, help=only)
    parser.add_argument("--batch-size", type=int, default=256, help=only)
    parser.add_argument("--minutes", type=float, default=9.0, help=only)
    parser.add_argument("--state", type=Path, default=Path("cg-state.pt"), help=only)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = parser.parse_args()
    if options.single:
        print(json.dumps(parts[options.part](options)))
        return
    results = parts[options.part](options)
    report = {
        "command": "python -m benchmarks.solve " + _shown(sys.argv[1:]),
        "machine": machine(options.device),
        "repetitions": 1,
        "results": results,
    }
    write(report, options.out / f"solve-{options.part}.json", shown=results)


if __name__ == "__main__":
    main()
