"""Write docs/scores.md from the declarations of the scores: ``python docs/make_scores.py``.

A test compares the file with what this writes, so the page cannot go stale. Tables of numbers are
read from docs/results/scores.txt, which ``benchmarks/scores.py`` prints.
"""

from __future__ import annotations

from pathlib import Path

from stockpot.ranking.scores import SCORES, Score

PAGE = Path(__file__).parent / "scores.md"
NUMBERS = Path(__file__).parent / "results" / "scores.txt"

OPENING = """\
# Transferability scores

<!-- Written by docs/make_scores.py; change the declarations, not this page. -->

How promising a pretrained model looks for a task, from its features (or its own head's logits) on
the task's data, without fine-tuning. Larger is better, for every score. A score is one kind of
evidence: where real fine-tuning results of the same models on other tasks exist, they are worth
more, and `stockpot rank` weighs them together.

```python
from stockpot.ranking import Evidence, compute, defined

evidence = Evidence(features, labels)  # (N, D), (N,): arrays, tensors or lists
values = compute(["logme", "reg_hscore"], evidence)
values["logme"].value, values["logme"].warning
compute(defined(evidence, cheap=True), evidence)  # all cheap ones: one Gram matrix among them
```

Token-level tasks have one row a token, with `groups` that keep a sentence's tokens from predicting
each other; sentence pairs give `features` and `pair`. Streamed features need no N x D array: add
batches to `stockpot.ranking.Moments` and pass `moments`.

## Which one

| you have | start with |
|---|---|
| features, any kind of target | `logme`; for a number in units of the task `loo_ridge` |
| features, classes | `logme`, `reg_hscore`; minutes to spare: `nleep`, `linear_probe` |
| image models | add `knn` |
| models of different width | not `transrate`, `int` |
| fewer rows than features | `logme`, `reg_hscore`, `loo_ridge`; `hscore`, `sfda` saturate |
| the models' own classification heads | `leep`, `nce` |
| several labels a row | `logme`, `parc`, `loo_ridge` |

"""

PRECISION = """\
## Numbers

What is tested for every score: its value against a slow float64 reference written from the paper;
the same value for any order of rows and any naming of classes, and for rotated, shifted or scaled
features where the formula says so; constant and repeated features, one row a class, fewer rows
than features: a finite value or an error that says which scores to use instead; NaN is refused
with its row.

Products are formed in float32 and added in float64 on shifted, scaled features. Each score
estimates how far the rounding may have moved its value, and is computed again in float64 where
that exceeds about 2e-7 (LogME, H-scores, TransRate) or 1e-6 (SFDA, ETran); LogME falls back to
singular values of the features themselves where their scales differ by many orders. Small problems
are computed in float64 from the start.

## Where values differ from released code, on purpose

- **LogME, fewer rows than features.** The authors' fixed-point code counts D/2 log a but only N
  eigenvalues, so its values grow with the width of a model. Here it is the evidence itself.
  `details["authors"]` has theirs. tllib stops the iteration earlier (0.01, not 0.001).
- **H-score of dependent features.** The pseudo-inverse leaves out directions below the rounding
  error of the correlation matrix; `rcond=1e-15` on the raw covariance keeps noise.
- **GBC, spherical.** The determinant of s I in 64 dimensions is s^64, not s; `details["authors"]`.
- **ETran.** The released discriminant reduces to the nearest class mean, because a routine for
  symmetric matrices is applied to one that is not; here it is the discriminant.
  `etran.nearest_mean` is theirs.
- **PCA** (PARC, GBC, NCTI, NLEEP) is exact, not randomised, so values do not change from run to
  run. PARC's label distances are ties where they are equal; correlations in floating point break
  half of these ties.
- **PACTran-Gaussian** is optimised to convergence from zero, not 100 rounds from a random start.

"""


MEASURED = """\
## Against the authors' code

`OMP_NUM_THREADS=1 python benchmarks/scores.py PEERS > docs/results/scores.txt`, PEERS with clones
of their repositories. CPU seconds of one thread; theirs with numba where they use it. Scores that
are asked for together share work, so the times do not add up. With 1,000 classes the rows' class
posteriors (SFDA, ETran, NCTI) outweigh the Gram matrix: SFDA has two discriminants, whose products
of N x D by D x C features and weights cost as much as four Gram matrices where C = D, and no sum
over rows stands in for them, since a softmax of every row is averaged. LogME, the H-scores and
TransRate, which need sums alone, stay at about twice one Gram matrix and one eigendecomposition
there.

"""


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def section(score: Score) -> str:
    needs = ", ".join(score.needs)
    kinds = ", ".join(score.kinds)
    lines = [f"### `{score.name}`: {score.title}", "", f"    {score.formula}", "", score.when, ""]
    pool = " Depends on the pool: finish with `pool_values`." if score.pool else ""
    lines += [f"Needs {needs}. For {kinds}.{pool}", "", f"Source: {score.source}.", ""]
    return "\n".join(lines)


def page() -> str:
    """The page as Markdown."""
    rows = [
        "## All scores",
        "",
        "| score | needs | for | cheap | formula |",
        "|---|---|---|---|---|",
    ]
    for score in SCORES.values():
        cheap = "yes" if score.cheap else ""
        rows.append(
            f"| [`{score.name}`](#{score.name}) | {', '.join(score.needs)} "
            f"| {', '.join(score.kinds)} | {cheap} | `{_escape(score.formula)}` |"
        )
    parts = [OPENING, "\n".join(rows) + "\n", "## Each of them\n"]
    parts += [f'<a id="{score.name}"></a>\n\n{section(score)}' for score in SCORES.values()]
    parts += [PRECISION.rstrip() + "\n", MEASURED + NUMBERS.read_text(encoding="utf-8")]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
