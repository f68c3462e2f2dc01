"""Figures and tables of the open question, made from results only."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from experiments.drawing import plots
from experiments.drawing.tables import write_table
from experiments.open_question.accuracy import accuracy_figure, accuracy_table, difference_table
from experiments.open_question.steps import steps_figure, steps_table

_TABLE_PARTS = ("table", "roto-translation", "primal", "dual")


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw accuracy against images and the waterfall; write the tables."""
    paths: list[Path] = []
    table = results[results["part"].isin(_TABLE_PARTS)]
    steps = results[~results["part"].isin(_TABLE_PARTS)]
    with plots.style():
        if len(table):
            paths += write_table(accuracy_table(table), folder, "accuracy")
            differences = difference_table(table)
            if len(differences.numbers):  # a row alone is beside none
                paths += write_table(differences, folder, "differences")
            paths += plots.save_figure(accuracy_figure(table), folder, "accuracy")
        if len(steps):
            paths += write_table(steps_table(steps), folder, "steps")
            paths += plots.save_figure(steps_figure(steps), folder, "steps")
    return paths
