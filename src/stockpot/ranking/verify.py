"""The predicted order against the order of real fine-tunings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stockpot.ranking.beliefs import Beliefs
from stockpot.ranking.history import Table, mean_scores
from stockpot.ranking.prepare import Prepared
from stockpot.ranking.schema import OrdersResult, PredictorResult
from stockpot.ranking.scoring import Scored
from stockpot.ranking.tuning import Tuned

RESAMPLES = 1000


def compare_orders(
    before: Beliefs,
    scored: Scored,
    tuned: Mapping[str, Tuned],
    table: Table | None,
    prepared: Prepared,
) -> OrdersResult:
    """Every predictor against the real values: weighted Kendall tau and regret.

    Predictors: the posterior as it was before any fine-tuning, every score alone, the mean rank
    over history, the number of parameters, and the linear probe, which is measured on the very
    examples that models are judged by and so shares their luck. ``regret``: by how much the model
    that a predictor puts first is worse than the best. ``noise``: mean weighted tau between the
    real values and themselves with the sampling error of ``judged_by`` examples, for accuracies:
    what a perfect predictor could expect.
    """
    names = [name for name in before.order if name in tuned and tuned[name].whole]
    real = np.array([tuned[name].value for name in names])
    predictors: dict[str, dict[str, float]] = {
        "posterior": {name: -before.models[name].rank.mean for name in names}
    }
    if table is not None:
        means = mean_scores(table.scores)
        predictors["history"] = {
            name: float(means[table.row[name]]) if name in table.row else 0.0 for name in names
        }
    facts = {name: made.facts.get("parameters", 0) for name, made in scored.extracted.items()}
    predictors["parameters"] = {name: float(facts.get(name, 0)) for name in names}
    for score, values in sorted(scored.by_score().items()):
        if all(name in values for name in names):
            predictors[score] = {name: values[name] for name in names}
    probes = {name: tuned[name].probe for name in names}
    if all(value is not None for value in probes.values()):
        predictors["linear probe"] = {n: float(v) for n, v in probes.items() if v is not None}
    rows = []
    for label, guess in predictors.items():
        guesses = np.array([guess[name] for name in names])
        rows.append(
            PredictorResult(
                predictor=label,
                tau=weighted_tau(real, guesses),
                regret=float(real.max() - real[int(guesses.argmax())]),
                first=names[int(guesses.argmax())],
            )
        )
    return OrdersResult(
        models=tuple(names),
        real=tuple(real.tolist()),
        predicted=tuple(before.models[name].rank.mean for name in names),
        predictors=tuple(rows),
        noise=_noise(real, prepared) if prepared.metric == "accuracy" else None,
    )


def weighted_tau(real: np.ndarray, guess: np.ndarray) -> float | None:
    """Weighted Kendall tau (errors among the first weigh more); None where it is undefined."""
    from scipy.stats import weightedtau

    if len(real) < 2 or np.ptp(real) == 0 or np.ptp(guess) == 0:
        return None
    return float(weightedtau(real, guess).statistic)


def _noise(real: np.ndarray, prepared: Prepared) -> float | None:
    """Mean weighted tau of the values with binomial noise against themselves."""
    draw = np.random.default_rng(0)
    error = np.sqrt(np.clip(real * (1 - real), 0, None) / prepared.judged)
    taus = [
        weighted_tau(real, real + error * draw.standard_normal(len(real))) for _ in range(RESAMPLES)
    ]
    known = [tau for tau in taus if tau is not None]
    return float(np.mean(known)) if known else None
