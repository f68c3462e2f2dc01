"""Figures of the committed results, looked at as a referee does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.command.registry import available, experiment
from experiments.drawing import plots
from experiments.runs import runner

RESULTS = Path(__file__).parents[3] / "results"


def covered(fig: Figure) -> list[str]:
    """Lines of which a point, or a part between two, lies under a legend of its panel."""
    fig.canvas.draw()
    found = []
    for ax in fig.axes:
        legend = ax.get_legend()
        box = None if legend is None else legend.get_window_extent()
        for line in ax.lines if box is not None else ():
            ends = np.asarray(line.get_xydata(), dtype=float)
            ends = line.get_transform().transform(ends)
            ends = ends[np.isfinite(ends).all(1)]
            if line.get_linestyle() not in ("None", "", " ") and len(ends) > 1:
                share = np.linspace(0, 1, 20)[:, None, None]
                ends = (ends[:-1] * (1 - share) + ends[1:] * share).reshape(-1, 2)
            if ((ends > box.min) & (ends < box.max)).all(1).any():
                found.append(f"{ax.get_title()} {line.get_label()}")
    return found


def test_a_legend_over_a_line_is_seen():
    with plots.style():
        fig, ax = plots.figure()
        ax.plot([0, 1], [0, 1], label="a line")
        ax.legend(loc="upper left")
        assert not covered(fig)
        ax.legend(loc="center")
        assert covered(fig)


def studies() -> list[object]:
    found = [(name, study) for name in available() for study in runner.studies(RESULTS, name)]
    return [
        pytest.param(name, study, id=f"{name}/{study.name}",
                     marks=() if name in ("fig3b", "open-question") else pytest.mark.slow)
        for name, study in found
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "study"), studies())
def test_no_legend_lies_over_data(name, study, tmp_path, monkeypatch):
    figures, save = [], Figure.savefig

    def kept(fig, *where, **how):
        save(fig, *where, **how)
        figures.append(covered(fig))

    monkeypatch.setattr(Figure, "savefig", kept)
    runner.draw_study(experiment(name), study, tmp_path)
    assert figures
    assert not [line for lines in figures for line in lines]
