"""How well histories predict, on public tables: leave one task out, with every trivial baseline.

    python benchmarks/ranking.py FOLDER                  # tables and picture, about 25 minutes
    python benchmarks/ranking.py FOLDER --only vtab      # some; others are read from --work
    python benchmarks/ranking.py FOLDER --page docs/ranking_results.md
    python benchmarks/ranking.py --speed                 # at 1,000 models x 36 tasks

FOLDER holds the tables as CSV, one row a model, one column a task: results of IBM model-recycling
(per base), of MTEB, open_clip, VTAB, of pruned networks (sparse-imagenet-transfer), and the tables
of the papers on SFDA, PED and LogME. A file NAME_meta.csv holds facts about models. Results of each
table are kept in --work, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import stockpot
from stockpot.files import write_json, write_text
from stockpot.history import Reading
from stockpot.ranking.evaluated import Calibration, RankingEvaluation
from stockpot.report import history as report


@dataclass(frozen=True)
class History:
    """A table: its file, facts about its models, whether misplaced rows are set aside, which tasks
    are held out (every N-th), and a table of scores to use as evidence."""

    key: str
    title: str
    file: str
    metadata: str | None = None
    clean: bool = True
    every: int = 1
    task: str = "*"
    score: str | None = None
    anchors: tuple[int, ...] = (0, 5, 20)
    metric: str | None = None


_META = "ibm_recycling_meta.csv"


def _ibm(key: str, title: str, base: str, **more: Any) -> History:
    return History(key, f"IBM model-recycling, {title}", f"ibm_recycling_{base}.csv", _META, **more)


def _plain(key: str, title: str, file: str, **more: Any) -> History:
    return History(key, title, f"{file}.csv", metric="accuracy", **more)


HISTORIES = (
    _ibm("bert-uncased", "BERT-uncased", "bert-base-uncased"),
    _ibm("roberta", "RoBERTa", "roberta-base"),
    _ibm("bert-cased", "BERT-cased", "bert-base-cased"),
    _ibm("deberta", "DeBERTa-v3", "microsoft_deberta-v3-base"),
    _ibm("t5", "T5", "t5-base"),
    _ibm("t5-v1_1", "T5-v1.1", "google_t5-v1_1-base"),
    History("mteb", "MTEB", "mteb_dense.csv", every=4),
    History("openclip", "open_clip, zero-shot", "openclip.csv", "openclip_meta.csv"),
    _plain("vtab", "VTAB, 1,000 examples", "vtab", task="*@1000", anchors=(0, 5)),
    _plain("sparse", "Pruned networks, full fine-tuning", "ist_sparse_full"),
    _plain("sparse-linear", "Pruned networks, linear probe", "ist_sparse_linear"),
    _plain("sfda-cnn", "SFDA's table, 11 CNNs", "sfda_cnn", anchors=(0, 5)),
    _plain("sfda-ssl", "PED's table, 12 self-supervised", "sfda_ssl", anchors=(0, 5)),
    _plain("tllib", "LogME's table, 10 CNNs", "tllib_cnn_10x8", anchors=(0, 5)),
)
EXTRA = (
    _ibm("bert-uncased-raw", "BERT-uncased, nothing set aside", "bert-base-uncased", clean=False),
    _ibm("roberta-raw", "RoBERTa, nothing set aside", "roberta-base", clean=False),
    _plain(
        "sparse-score",
        "Pruned networks, with linear probes as a score",
        "ist_sparse_full",
        score="ist_sparse_linear.csv",
    ),
)


def evaluate(history: History, folder: Path) -> dict[str, Any]:
    """``Evaluation.to_json()`` of one table, with the number of models set aside and seconds."""
    started = time.perf_counter()
    metadata = folder / history.metadata if history.metadata else None
    contents = stockpot.history.open_history(
        folder / history.file,
        metadata=metadata,
        clean=history.clean,
        reading=Reading(metric=history.metric),
    )
    table = contents.table
    if history.task != "*":
        table = table.select(tasks=[t for t in table.tasks if Path(t).match(history.task)])
    found = stockpot.history.evaluate(
        replace(contents, table=table),
        anchors=history.anchors,
        every=history.every,
        scores={"score": folder / history.score} if history.score else {},
        quiet=True,
    ).to_json()
    return {**found, "aside": len(contents.aside), "seconds": time.perf_counter() - started}


def _job(history: History, folder: Path, work: Path) -> str:
    write_json(work / f"{history.key}.json", _finite(evaluate(history, folder)))
    return history.key


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def summary(results: dict[str, dict[str, Any]]) -> str:
    """One line per table: baseline and posterior with 0, 5 and 20 anchors."""
    lines = [
        "| history | models x tasks | mean rank | posterior | 5 anchors: mean rank | posterior "
        "| 20 anchors: mean rank | posterior |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    gains: dict[int, list[float]] = {0: [], 5: [], 20: []}
    for history in HISTORIES:
        found = results.get(history.key)
        if found is None:
            continue
        tau = {(r["method"], r["anchors"]): r["tau"]["mean"] for r in found["rows"]}
        cells = [history.title, f"{found['models']} x {len(found['tasks'])}"]
        for count in (0, 5, 20):
            plain, ours = (tau.get((m, count)) for m in ("mean rank over history", "posterior"))
            if plain is None or ours is None:
                cells += ["", ""]
                continue
            gains[count].append(ours - plain)
            cells += [f"{plain:.3f}", f"{ours:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    means = [
        f"{np.mean(own):+.3f} (worst {min(own):+.3f})" if own else "" for own in gains.values()
    ]
    lines.append(f"| mean gain | | | {means[0]} | | {means[1]} | | {means[2]} |")
    return "\n".join(lines) + "\n"


def pooled(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Calibration over all tables: bins joined, coverage as the mean over tables."""
    joined = []
    for count in (0, 5, 20):
        own = [
            each
            for history in HISTORIES
            for each in results.get(history.key, {"calibration": []})["calibration"]
            if each["anchors"] == count
        ]
        if not own:
            continue
        bins = [each for calibration in own for each in calibration["best"]]
        edges = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.01)
        best = []
        for low, high in pairwise(edges):
            part = [each for each in bins if low <= each["predicted"] < high]
            total = sum(each["count"] for each in part)
            if total:
                best.append(
                    {
                        "count": total,
                        **{
                            name: sum(each[name] * each["count"] for each in part) / total
                            for name in ("predicted", "observed")
                        },
                    }
                )
        joined.append(
            {
                "anchors": count,
                "ranks": float(np.mean([each["ranks"] for each in own])),
                "metrics": float(np.mean([e["metrics"] for e in own if e["metrics"] is not None])),
                "best": best,
            }
        )
    return {"calibration": joined}


def reliability(calibration: list[dict[str, Any]]) -> str:
    """What the picture shows, as a table: of how many, how often predicted, how often true."""
    lines = [
        "| anchors | P(best) predicted | came true | models |",
        "| ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {each['anchors']} | {own['predicted']:.1%} | {own['observed']:.1%} | {own['count']:,} |"
        for each in calibration
        for own in each["best"]
    ]
    return "\n".join(lines) + "\n"


def page(results: dict[str, dict[str, Any]], picture: str) -> str:
    """The Markdown page."""
    parts = [
        "# How well a history predicts\n",
        "Made by `python benchmarks/ranking.py FOLDER --page docs/ranking_results.md`; do not "
        "edit.\n",
        "One task is left out, its models are ranked from the other tasks, and the order is "
        "compared with what really happened (weighted Kendall tau, mean over tasks; 0 is chance, 1 "
        "is the true order). With anchors, so many models, drawn at random, were really fine-tuned "
        "on the task; they are not counted. Every hyper-parameter is learnt from the other tasks "
        "of the same table. Regret: points lost by taking the model put first, or the best of the "
        "first five; rel@5: best of the first five over best of all.\n",
        "## All tables\n",
        summary(results),
        "Is the posterior sure where it may be? P(best), as predicted and as it came true, over "
        "all these tables (bars: 90 % intervals):\n",
        f"![Reliability of P(best)]({picture})\n",
    ]
    for each in pooled(results)["calibration"]:
        parts.append(
            f"- {each['anchors']} anchors: 90 % intervals hold the truth for "
            f"{each['ranks']:.1%} of ranks, {each['metrics']:.1%} of metrics (mean over tables)"
        )
    parts += ["", reliability(pooled(results)["calibration"])]
    for history in (*HISTORIES, *EXTRA):
        found = results.get(history.key)
        if found is None:
            continue
        known = {key: found[key] for key in RankingEvaluation.model_fields if key in found}
        parts.append(report.markdown(RankingEvaluation.read(known), history.title))
        if found["aside"]:
            kept = "set aside" if history.clean else "found and left in"
            parts.append(f"- {found['aside']} models with values in the wrong columns {kept}\n")
    return "\n".join(parts)


def speed() -> None:
    """Time and memory of fit, first answer and one more anchor at 1,000 models x 36 tasks."""
    from stockpot.ranking.history import Table
    from stockpot.ranking.posterior import fit

    random = np.random.default_rng(0)
    models, tasks = 1000, 36
    factors = random.normal(size=(models, 4)) @ random.normal(size=(4, tasks))
    values = random.normal(size=(models, 1)) + 0.5 * factors + random.normal(size=(models, tasks))
    names = tuple(f"model-{i}" for i in range(models))
    table = Table(names, tuple(f"task-{j}" for j in range(tasks)), values)
    fit(table.select(models=names[:50])).for_task({names[0]: 1.0})  # imports
    started = time.process_time()
    posterior = fit(table)
    posterior.for_task()
    first = time.process_time()
    anchors = {names[i]: float(values[i].mean()) for i in range(20)}
    posterior.for_task(anchors)
    answered = time.process_time()
    anchors[names[20]] = 0.1
    posterior.for_task(anchors)
    updated = time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{models} models x {tasks} tasks, CPU seconds: first answer {first - started:.2f}, "
        f"first with 20 anchors {answered - first:.2f}, one more anchor {updated - answered:.3f}; "
        f"peak memory {memory:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--work", type=Path, default=Path("build/ranking"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--speed", action="store_true")
    chosen = parser.parse_args()
    if chosen.speed:
        speed()
        return
    if chosen.folder is None:
        parser.error("FOLDER is needed")
    chosen.work.mkdir(parents=True, exist_ok=True)
    everything = (*HISTORIES, *EXTRA)
    todo = [
        history
        for history in everything
        if (chosen.only is None or history.key in chosen.only)
        and not (chosen.only is None and (chosen.work / f"{history.key}.json").exists())
    ]
    with ProcessPoolExecutor(chosen.workers) as pool:
        jobs = [pool.submit(_job, history, chosen.folder, chosen.work) for history in todo]
        for job in jobs:
            print("done:", job.result(), file=sys.stderr, flush=True)
    results = {
        history.key: json.loads((chosen.work / f"{history.key}.json").read_text())
        for history in everything
        if (chosen.work / f"{history.key}.json").exists()
    }
    print(summary(results))
    if chosen.page is not None:
        picture = chosen.page.parent / "results" / "ranking_reliability.svg"
        report.write_reliability(
            [Calibration.model_validate(each) for each in pooled(results)["calibration"]],
            "all tables",
            picture,
        )
        write_text(chosen.page, page(results, f"results/{picture.name}"))


if __name__ == "__main__":
    main()
