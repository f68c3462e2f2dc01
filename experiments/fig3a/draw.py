"""The figures and tables of Figure 3(a), from results only."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from experiments.drawing import plots
from experiments.drawing.tables import write_table
from experiments.fig3a.against_alpha import against_alpha, alpha_table, best_rates
from experiments.fig3a.against_rate import against_rate, rates_table
from experiments.fig3a.claims import claims, rows
from experiments.networks.claims import claim_table


def draw(results: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the figure and its table, and those of all rates where there are several."""
    paths = write_table(alpha_table(results), folder, "fig3a")
    if results["n_train"].isna().all():  # on fewer images they would say nothing of the paper
        made = claims(rows(best_rates(results)))
        if made:
            label = str(results["data_label"].iloc[0])
            paths += write_table(claim_table(made, label), folder, "fig3a-claims")
    with plots.style():
        paths += plots.save_figure(against_alpha(results), folder, "fig3a")
        if results["rate"].nunique() > 1:
            paths += write_table(rates_table(results), folder, "fig3a-rates")
            paths += plots.save_figure(against_rate(results), folder, "fig3a-rates")
    return paths
