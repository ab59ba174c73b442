"""The protocols, as plain data: which runs, which weights of a run, how chosen, how combined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pool = Literal["probe", "plain", "seeds", "auxiliary", "fusing", "trajectory", "periodic"]
"""Runs that a protocol draws on, by where they start from.

``probe``: no fine-tuning; ``plain``: all from the base; ``seeds``: the same with the settings of
run 0 and other seeds (or ``plain`` again, see the recipe's ``stock_runs``); ``auxiliary``: base and
auxiliary weights in turn; ``fusing``: from a random average of base and auxiliaries, redrawn per
run; ``trajectory``: base and intermediate weights of plain run 0 in turn; ``periodic``: Model Stock
during training.
"""

Combine = Literal[
    "one",
    "mean",
    "ensemble",
    "stock",
    "interpolate",
    "half",
    "each",
]


@dataclass(frozen=True)
class Protocol:
    """One row of the comparison.

    Attributes:
        take: which weights of each run: those of the step with the best validation accuracy, the
            moving average, the SWAD average, or the last.
        select: which runs: all, the best by validation on the training domains, ``greedy`` (in
            order of validation accuracy, kept when the average does not get worse), the first two,
            or the best by the test rows themselves (an oracle, not a method).
        combine: what is done with the selected: one run's weights, the mean of the weights, the
            mean of the predictions, Model Stock towards the base, interpolation with the base by a
            coefficient that validation chooses or by one half.
        over_trials: runs of all trials together (the dagger rows of the papers).
        source: paper.
    """

    name: str
    label: str
    group: Literal["reference", "single", "average", "oracle"]
    pool: Pool
    take: Literal["best", "average", "swad", "last"] = "best"
    select: Literal["all", "best", "greedy", "first two", "oracle"] = "all"
    combine: Combine = "mean"
    over_trials: bool = False
    source: str = ""

    @property
    def gives_weights(self) -> bool:
        """Whether the outcome is one set of weights that can be handed on."""
        return self.combine not in ("ensemble", "each") and self.group != "oracle"

    @property
    def decisions(self) -> int:
        """How many things it fixes by looking at validation rows: which runs, which coefficients.

        The step of a run is not counted: every row that takes a run's best weights shares it.
        """
        return (self.select in ("best", "greedy")) + (self.combine == "interpolate")

    @property
    def averages_along(self) -> bool:
        """Whether the weights of one run are an average already: along it, or in its training."""
        return self.pool == "periodic" or self.take in ("average", "swad")

    @property
    def can_be_final(self) -> bool:
        """Whether validation rows that its runs never trained on can speak for its weights."""
        return self.gives_weights and not self.over_trials

    @property
    def selection(self) -> str:
        """How runs are chosen, in words."""
        return {
            "all": "uniform",
            "best": "training-domain validation",
            "greedy": "greedy",
            "first two": "uniform",
            "oracle": "oracle",
        }[self.select]


_ROWS = [
    Protocol(
        "linear_probe", "Linear probe", "reference", "probe", combine="one", source="2202.10054"
    ),
    Protocol("single", "One fine-tuning (mean over runs)", "single", "plain", combine="each"),
    Protocol(
        "erm", "ERM, best run", "single", "plain", select="best", combine="one", source="2007.01434"
    ),
    Protocol(
        "moving_average",
        "Moving average",
        "single",
        "plain",
        take="average",
        select="best",
        combine="one",
        source="2110.10832",
    ),
    Protocol(
        "swad",
        "SWAD",
        "single",
        "plain",
        take="swad",
        select="best",
        combine="one",
        source="2102.08604",
    ),
    Protocol(
        "wise_ft",
        "WiSE-FT (best run with the base)",
        "single",
        "plain",
        select="best",
        combine="interpolate",
        source="2109.01903",
    ),
    Protocol(
        "wise_ft_half",
        "WiSE-FT, half way to the base",
        "single",
        "plain",
        select="best",
        combine="half",
        source="2109.01903",
    ),
    Protocol("ensemble", "Prediction ensemble", "reference", "plain", combine="ensemble"),
    Protocol("soup_uniform", "Soup (DiWA), uniform", "average", "plain", source="2205.09739"),
    Protocol(
        "soup_greedy",
        "Soup, greedy",
        "average",
        "plain",
        select="greedy",
        source="2203.05482",
    ),
    Protocol(
        "soup_pooled",
        "Soup, all trials",
        "average",
        "plain",
        over_trials=True,
        source="2205.09739",
    ),
    Protocol(
        "stock_2",
        "Model Stock, 2 runs",
        "average",
        "seeds",
        select="first two",
        combine="stock",
        source="2403.19522",
    ),
    Protocol(
        "stock_all",
        "Model Stock, all runs",
        "average",
        "seeds",
        combine="stock",
        source="2403.19522",
    ),
    Protocol(
        "stock_periodic",
        "Model Stock during training",
        "average",
        "periodic",
        take="last",
        combine="one",
        source="2403.19522",
    ),
    Protocol("trajectory_uniform", "Trajectory inits (Baklava)", "average", "trajectory"),
    Protocol(
        "trajectory_greedy", "Trajectory inits, greedy", "average", "trajectory", select="greedy"
    ),
    Protocol(
        "inter_training",
        "Inter-training, best run",
        "single",
        "auxiliary",
        select="best",
        combine="one",
    ),
    Protocol(
        "fusing",
        "Fusing, best run",
        "single",
        "fusing",
        select="best",
        combine="one",
        source="2204.03044",
    ),
    Protocol(
        "ratatouille_ensemble",
        "Ensemble of Ratatouille's runs",
        "reference",
        "auxiliary",
        combine="ensemble",
    ),
    Protocol(
        "ratatouille_uniform",
        "Model Ratatouille, uniform",
        "average",
        "auxiliary",
        source="2212.10445",
    ),
    Protocol(
        "ratatouille_greedy",
        "Model Ratatouille, greedy",
        "average",
        "auxiliary",
        select="greedy",
        source="2212.10445",
    ),
    Protocol(
        "ratatouille_pooled",
        "Model Ratatouille, all trials",
        "average",
        "auxiliary",
        over_trials=True,
        source="2212.10445",
    ),
    Protocol(
        "ratatouille_stock",
        "Ratatouille, stock-weighted",
        "average",
        "auxiliary",
        combine="stock",
    ),
    Protocol(
        "ratatouille_average",
        "Ratatouille of moving averages",
        "average",
        "auxiliary",
        take="average",
    ),
    Protocol(
        "oracle",
        "Best run by the test rows",
        "oracle",
        "plain",
        select="oracle",
        combine="one",
    ),
]

PROTOCOLS: dict[str, Protocol] = {row.name: row for row in _ROWS}
