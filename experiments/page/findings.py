"""What the numbers of a study say, in sentences computed from its results.

Every function takes the results of one study (a row a run) and gives sentences; none where the
runs that a sentence needs are not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from experiments.drawing.axes import power
from experiments.drawing.tables import mean_of, percent
from experiments.fig3a.against_alpha import best_rates
from experiments.open_question.accuracy import ROWS, difference_table
from experiments.runs.results import joined_arrays
from experiments.tabular.draw import _NAMES, SETTLED_ON, means
from experiments.theory.verdicts import verdict_table

_NETWORKS = {"vgg11": "VGG-11", "resnet18": "ResNet-18"}


def images_of(results: pd.DataFrame) -> str:
    """How many images of what: "5,000 training images of CIFAR-10, JPEG-75"."""
    first = results.iloc[0]
    count = first.get("n_train")
    some = "all" if count is None or count != count else f"{int(count):,}"
    return f"{some} training images of {first['data_label'] or first.get('dataset')}"


def _range(values: Any, digits: int = 1) -> str:
    values = [float(v) for v in values if v is not None and v == v]
    low, high = percent(min(values), digits), percent(max(values), digits)
    return low if low == high else f"{low} to {high}"


def networks_and_representations(results: pd.DataFrame) -> list[str]:
    """Figure 3(b) on a part of the images: standard, lazy, linearized, fixed."""
    if "method" not in results or results["n_train"].isna().all():
        return []
    said = []
    for model, name in _NETWORKS.items():
        means = {
            kind: mean_of(results[results["method"] == f"{model}{kind}"], "test_accuracy")
            for kind in ("", "-lazy", "-linear", "-exact")
        }
        if means[""] == means[""] and means["-lazy"] == means["-lazy"]:
            lazy = results[results["method"] == f"{model}-lazy"]
            alpha = power(float(lazy["alpha"].iloc[0]))
            text = (
                f"{name}: {percent(means[''])}% of the test images at α = 1, "
                f"{percent(means['-lazy'])}% at α = {alpha}"
            )
            if means["-linear"] == means["-linear"]:
                text += f", {percent(means['-linear'])}% linearized"
            said.append(
                f"{text}; {percent(mean_of(lazy, 'stability'))}% of its ReLUs keep their sign."
            )
        elif means["-exact"] == means["-exact"] and means["-linear"] == means["-linear"]:
            said.append(
                f"{name}, linearized: {percent(means['-linear'])}% of the test images by SGD, "
                f"{percent(means['-exact'])}% with the same kernel solved exactly."
            )
    fixed = results[~results["method"].str.startswith(tuple(_NETWORKS))]
    if len(fixed) and fixed["test_accuracy"].notna().any():
        by_method = fixed.groupby("method")["test_accuracy"].mean()
        best = str(by_method.idxmax())
        said.append(
            f"The best fixed representation, {best.replace('-', ' ')}: "
            f"{percent(float(by_method.max()))}%."
        )
    return [f"On {images_of(results)}:", *said] if said else []


def accuracy_against_alpha(results: pd.DataFrame) -> list[str]:
    """Figure 3(a): what changes between the least and the greatest scale."""
    done = results[results["status"] == "done"]
    if done.empty or done["alpha"].nunique() < 2:
        return []
    by = best_rates(done).groupby("alpha")[["test_accuracy", "stability"]].mean()
    least, most = by.index.min(), by.index.max()
    return [
        f"On {images_of(done)}, test accuracy goes from {percent(by['test_accuracy'][least])}% at "
        f"α = {power(least)} to {percent(by['test_accuracy'][most])}% at α = {power(most)}, the "
        f"share of ReLUs that keep their sign from {percent(by['stability'][least])} to "
        f"{percent(by['stability'][most])}%."
    ]


def rounding(results: pd.DataFrame) -> list[str]:
    """The precision finding: errors of both methods at the largest scale."""
    names = ("direct_float32_distance", "difference_float32_distance", "direct_float32_moved")
    if any(name not in results for name in names):
        return []
    alphas = sorted(results["alpha"].unique())
    last = results[results["alpha"] == alphas[-1]]
    rest = results[results["alpha"] > 1]
    direct, moved = last[names[0]].astype(float), last[names[2]].astype(float)
    wide = rest[names[1]].astype(float)
    return [
        f"At α = {power(alphas[-1])}, two float32 networks subtracted are wrong by "
        f"{_times(direct)} the size of the predictions, and {_range(moved)}% of the weights ever "
        f"move; difference propagation in float32 stays within {100 * float(wide.max()):.2f}% of "
        f"float64 at every α from {power(min(rest['alpha']))} to {power(alphas[-1])} "
        f"({len(last)} settings)."
    ]


def _times(values: pd.Series) -> str:
    return f"{values.min():.2g} to {values.max():.2g} times"


def open_question(results: pd.DataFrame) -> list[str]:
    """A and B beside the Gaussian kernels, at the most images, with paired intervals."""
    if not {"A: test accuracy", "B: test accuracy"} <= set(results.columns):
        return []
    table = results[results["A: test accuracy"].notna()]
    if table.empty:
        return []
    most = table["n_train"].max()
    rows = table[table["n_train"] == most]
    columns = [c for c in rows if str(c).endswith(": test accuracy") and rows[c].notna().any()]
    values = {str(c).removesuffix(": test accuracy"): float(rows[c].mean()) for c in columns}
    fixed = {name: v for name, v in values.items() if name not in ("A", "B")}
    said = [
        f"At {int(most):,} images, A (one linearized convolution on frozen whitened patches) "
        f"reaches {percent(values['A'])}% of the test images, B (with two dense branches) "
        f"{percent(values.get('B'))}%"
        + (
            f"; the best of the fixed representations ({ROWS[max(fixed, key=fixed.__getitem__)]}) "
            f"{percent(max(fixed.values()))}%."
            if fixed
            else "."
        )
    ]
    numbers = difference_table(results).numbers
    if "correct" in numbers:
        here = numbers[(numbers["n_train"] == most) & numbers["second"].str.contains("Gaussian")]
        said += [
            f"{row['first']} minus {ROWS[row['second']]}: {100 * row['correct']:+.1f} ± "
            f"{100 * row['correct ±']:.1f} points on the same test images (95%): "
            + ("clear." if abs(row["correct"]) > row["correct ±"] else "not a clear difference.")
            for row in here.to_dict("records")
        ]
    return said


def lazy_students(results: pd.DataFrame) -> list[str]:
    """Figure 1: the network at a large tau is its linearization, and does worse."""
    panel = results[results["part"] == "c"]
    if panel.empty:
        return []
    arrays = joined_arrays(panel["path"], shared=("tau", "steps"))
    tau, end, linear = (arrays[name] for name in ("tau", "end", "linear_end"))
    apart = np.abs(end[:, -1] / linear - 1).max()
    best = int(end.mean(0).argmin())
    return [
        f"Test loss is {end[:, best].mean():.2g} at tau = {tau[best]:.2g} and "
        f"{end[:, -1].mean():.2g} at tau = {tau[-1]:g}, where the network is within "
        f"{100 * apart:.2g}% of its linearization after the same steps in each of {len(end)} "
        "repetitions."
    ]


def width_and_scale(results: pd.DataFrame) -> list[str]:
    """Figure 2: wide networks with 1/sqrt(m), and the population loss's plateau."""
    said = []
    wide = results[results["part"] == "a"]
    if len(wide):
        last = wide[wide["m"] == wide["m"].max()]
        names = ("root_test", "inverse_test")
        root, inverse = (float(a.mean()) for a in joined_arrays(last["path"], names).values())
        said.append(
            f"At m = {int(wide['m'].max())} units the test loss is {root:.2g} with the lazy "
            f"scaling 1/√m and {inverse:.2g} with 1/m."
        )
    panel = results[results["part"] == "b"]
    if len(panel):
        arrays = joined_arrays(panel["path"], shared=("tau",))
        null = arrays["null"][:, None]
        loss = (arrays["windows"][..., -1] / null).mean(0)
        best = (arrays["tangent"] / null).mean()
        said.append(
            f"The population loss at the largest tau is {loss[-1]:.3f} of the zero function's, the "
            f"tangent model's minimum {best:.3f}, the network's at the smallest tau "
            f"{loss[0]:.2g}."
        )
    return said


def verdicts(results: pd.DataFrame) -> list[str]:
    """The theorems: how many claims hold."""
    counts = verdict_table(results).shown["verdict"].value_counts()
    holds, fails = int(counts.get("holds", 0)), int(counts.get("FAILS", 0))
    text = f"{holds} of {holds + fails} claims of the theorems hold by rules fixed beforehand"
    beside = int(counts.get("not covered", 0))
    return [f"{text}; {beside} more rows show what the theorems do not cover (ReLU)."]


def conditioning(results: pd.DataFrame) -> list[str]:
    """Appendix C: how ill-conditioned the tangent kernel is."""
    done = results[results["inputs"] == "images"] if "inputs" in results else results
    if done.empty or "largest_over_median" not in done:
        return []
    row = done.sort_values("width").iloc[-1]
    return [
        f"{_NETWORKS.get(row['variant'], row['variant'])} at width {row['width']:g} on "
        f"{int(row['n']):,} images: the largest eigenvalue of the tangent kernel is "
        f"{row['largest_over_median']:,.0f} times the median, the condition number "
        f"{row['condition_number']:.2g}, the numerical rank {int(row['numerical_rank']):,} of "
        f"{int(row['rows']):,}."
    ]


def competitors(results: pd.DataFrame) -> list[str]:
    """Fixed representations: the best one on the most images."""
    done = results[results["test_accuracy"].notna()]
    if done.empty:
        return []
    most = done[done["n_train"] == done["n_train"].max()]
    best = most.loc[most["test_accuracy"].idxmax()]
    return [
        f"The best representation without learning, {best['method'].replace('-', ' ')}: "
        f"{percent(best['test_accuracy'])}% of the test images, from {int(best['n_train']):,} "
        f"training images of {best['data_label']}."
    ]


def small_tables(results: pd.DataFrame) -> list[str]:
    """The tangent kernel's classifier beside scikit-learn's on small tables."""
    table = means(results)
    fair = table.drop(index=[name for name in SETTLED_ON if name in table.index])
    rank = fair.rank(axis=1, ascending=False).mean().sort_values()
    if rank.empty:
        return []
    order = ", ".join(
        f"{_NAMES[m]} {rank[m]:.2f} ({percent(float(fair[m].mean()))}%)" for m in rank.index
    )
    return [
        f"Mean rank (and mean accuracy) on {len(fair)} tables, without those that our defaults "
        f"were settled on: {order}."
    ]


def reports(results: pd.DataFrame) -> list[str]:
    """The verdicts of the laziness reports."""
    if "verdict" not in results:
        return []
    rows = results[["model", "verdict"]].dropna().to_dict("records")
    return [f"{row['model']}: {row['verdict']}" for row in rows]


FINDINGS: dict[str, Callable[[pd.DataFrame], list[str]]] = {
    "fig1": lazy_students,
    "fig2": width_and_scale,
    "fig3a": accuracy_against_alpha,
    "fig3b": networks_and_representations,
    "theory": verdicts,
    "laziness": reports,
    "spectrum": conditioning,
    "precision": rounding,
    "baselines": competitors,
    "tabular": small_tables,
    "open-question": open_question,
}
