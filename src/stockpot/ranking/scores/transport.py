"""OTCE and OSBORN: what a target looks like from the source data, by optimal transport.

Both couple source and target rows at the least total squared distance. With as many rows of each
(up to 1,000, drawn from the seed) the optimal coupling is an assignment, found exactly; no
regularisation is involved, as in the code that OTCE's authors released.

OTCE: ``W`` is the mean cost of the coupling, ``H(Y_t | Y_s)`` the conditional entropy under it.
Their combination needs weights learnt on auxiliary tasks (``fit_weights``); where there are none,
the authors advise minus the entropy alone, which is the value.

OSBORN, for ensembles: minus ``sum_m W_m + H(Y_s | Y_t)_m`` minus the disagreement of the members,
``sum_{m != n} H(Z_m | Z_n)`` of their predicted source classes on the target rows, over ordered
pairs. It is submodular; ``pick_ensemble`` adds the model with the largest gain, time after time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stockpot.errors import ScoreError
from stockpot.ranking.scores.nce import conditional_entropy
from stockpot.ranking.scores.score import Score, Value

if TYPE_CHECKING:
    from stockpot.ranking.scores.workspace import Workspace

MOST_ROWS = 1000


def assignment(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Target row of each source row under the cheapest matching, and its mean squared distance.

    source, target: float64, shape (n, D) both.
    """
    from scipy.optimize import linear_sum_assignment

    mean = target.mean(axis=0)
    source, target = source - mean, target - mean
    costs = (
        np.einsum("ij,ij->i", source, source)[:, None]
        + np.einsum("ij,ij->i", target, target)
        - 2.0 * (source @ target.T)
    )
    rows, columns = linear_sum_assignment(costs)
    return columns, max(float(costs[rows, columns].mean()), 0.0)


def couple(work: Workspace) -> tuple[float, np.ndarray]:
    """Mean cost of the coupling, and the joint distribution of classes (source, target)."""
    source = work.evidence.source
    assert source is not None
    assert source.targets is not None
    rng = np.random.default_rng(work.seed)
    count = min(len(source.features), work.rows, MOST_ROWS)
    chosen = np.sort(rng.permutation(len(source.features))[:count])
    rows = np.sort(rng.permutation(work.rows)[:count])
    _, source_codes = np.unique(source.targets, return_inverse=True)
    partner, cost = assignment(
        source.features[chosen].astype(np.float64), work.features[rows].astype(np.float64)
    )
    joint = np.zeros((source_codes.max() + 1, len(work.classes)))
    np.add.at(joint, (source_codes[chosen], work.codes[rows][partner]), 1.0 / count)
    return cost, joint


def _otce(work: Workspace) -> Value:
    cost, joint = couple(work)
    entropy = conditional_entropy(joint.T)
    return Value(-entropy, {"domain_difference": cost, "task_difference": entropy})


def fit_weights(values: Sequence[Value], accuracies: np.ndarray) -> tuple[float, float, float]:
    """Weights of domain difference and task difference, and an offset, by least squares.

    Fitted on auxiliary tasks whose transfer accuracies are known (arXiv 2103.13843); three
    or more of them. OTCE is then ``l1 W + l2 H + b``.
    """
    if len(values) < 3:
        raise ScoreError(f"otce weights need three auxiliary tasks or more, got {len(values)}")
    parts = [[v.details["domain_difference"], v.details["task_difference"], 1.0] for v in values]
    first, second, offset = np.linalg.lstsq(np.array(parts), np.asarray(accuracies), rcond=None)[0]
    return float(first), float(second), float(offset)


def _osborn(work: Workspace) -> Value:
    cost, joint = couple(work)
    entropy = conditional_entropy(joint)
    return Value(-(cost + entropy), {"domain_difference": cost, "task_difference": entropy})


@dataclass(frozen=True)
class Pick:
    """One member of an ensemble, in the order of picking, with what it added to the score."""

    name: str
    gain: float


def pick_ensemble(
    values: Mapping[str, Value], logits: Mapping[str, np.ndarray], size: int
) -> list[Pick]:
    """The greedy ensemble of ``size`` models (arXiv 2309.02429, eq. 9 and section 4).

    Args:
        values: OSBORN of each model.
        logits: of each model's own head on the same target rows, shape (N, Z_m).

    A tie goes to the model that was named first.
    """
    if not 1 <= size <= len(values):
        raise ScoreError(f"size of the ensemble: got {size}, expected 1 to {len(values)}")
    predicted = {name: logits[name].argmax(axis=1) for name in values}
    picked: list[Pick] = []
    disagreement = dict.fromkeys(values, 0.0)
    while len(picked) < size:
        gains = {
            name: value.value - disagreement[name]
            for name, value in values.items()
            if name not in {pick.name for pick in picked}
        }
        best = max(gains, key=lambda name: gains[name])
        picked.append(Pick(best, gains[best]))
        for name in gains:
            disagreement[name] += _between(predicted[name], predicted[best])
    return picked


def _between(first: np.ndarray, second: np.ndarray) -> float:
    """``H(Z_1 | Z_2) + H(Z_2 | Z_1)`` of two predictions on the same rows."""
    joint = np.zeros((int(first.max()) + 1, int(second.max()) + 1))
    np.add.at(joint, (first, second), 1.0 / len(first))
    return conditional_entropy(joint) + conditional_entropy(joint.T)


OTCE = Score(
    name="otce",
    title="OTCE",
    needs=("features", "source targets"),
    formula="-H(Y_t | Y_s) under the cheapest coupling of source and target rows",
    source="Tan et al. 2021, arXiv 2103.13843; the authors' released simplification",
    when="The source data are at hand and lie in another domain than the target.",
    instead=("nce", "leep", "logme"),
    function=_otce,
    cheap=False,
)
OSBORN = Score(
    name="osborn",
    title="OSBORN",
    needs=("features", "source targets"),
    formula="-(W + H(Y_s | Y_t)) of a model; of an ensemble the sum, less the disagreement",
    source="Vimal et al. 2023, arXiv 2309.02429, eq. 3 to 9",
    when="Choosing several models to ensemble: `pick_ensemble`.",
    instead=("otce", "logme"),
    function=_osborn,
    cheap=False,
)
