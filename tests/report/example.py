"""A results.json as a finished comparison leaves it: simulated, with a known story.

Four sources, three trials. Auxiliary inits help on average; one auxiliary ("reviews") is too far
away in domain "tweets" and breaks linear mode connectivity there; the linear probe is far behind.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from stockpot.evaluation import Interval, paired_bootstrap
from stockpot.evaluation.claims import compare_all
from stockpot.evaluation.connectivity import barrier
from stockpot.evaluation.diagnosis import diagnose
from stockpot.evaluation.evidence import Member, PairBarrier, SoupEvidence
from stockpot.recycling.differences import differences

DOMAINS = {"tweets": 1800, "movies": 2400, "products": 1500, "editorials": 640}
LEVEL = {"tweets": 0.71, "movies": 0.80, "products": 0.845, "editorials": 0.665}
AVERAGE = "ratatouille_uniform"
INITS = ("base", "glyph rotation", "news topics", "reviews")
LABELS = {
    "linear_probe": ("Linear probe", "reference", -0.075, 1),
    "ensemble": ("Prediction ensemble", "reference", 0.031, 8),
    "single": ("One fine-tuning (mean over runs)", "single", 0.0, 1),
    "erm": ("ERM, best run", "single", 0.004, 1),
    "moving_average": ("Moving average", "single", 0.012, 1),
    "swad": ("SWAD", "single", 0.014, 1),
    "inter_training": ("Inter-training, best run", "single", 0.008, 1),
    "fusing": ("Fusing, best run", "single", 0.002, 1),
    "soup_uniform": ("Soup (DiWA), uniform", "average", 0.022, 1),
    "soup_greedy": ("Soup, greedy", "average", 0.019, 1),
    "stock_2": ("Model Stock, 2 runs", "average", 0.010, 1),
    "ratatouille_uniform": ("Model Ratatouille, uniform", "average", 0.030, 1),
    "ratatouille_greedy": ("Model Ratatouille, greedy", "average", 0.027, 1),
    "oracle": ("Best run by the held-out domain", "oracle", 0.018, 1),
}
STEPS = {"linear_probe": 0, "single": 600, "stock_2": 1200}


def example_results(trials: int = 3, runs: int = 6, seed: int = 0) -> dict[str, Any]:
    """The whole of results.json, schema 1; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    cells, scores = [], {name: {} for name in LABELS}
    for domain, size in DOMAINS.items():
        difficulty = rng.normal(size=size)
        for trial in range(trials):
            shift = rng.normal(0, 0.006)
            cell = {"held_out": domain, "trial": trial}
            cell["runs"] = _runs(rng, domain, runs, shift)
            cell["models"] = []
            for name, (label, group, gain, forward) in LABELS.items():
                broken = 0.06 if domain == "tweets" and "ratatouille" in name else 0.0
                rate = LEVEL[domain] + gain - broken + shift + rng.normal(0, 0.004)
                noise = difficulty + rng.normal(0, 0.35, size)
                scores[name][(domain, trial)] = (noise < np.quantile(noise, rate)).astype(float)
                cell["models"].append(
                    {
                        "protocol": name,
                        "label": label,
                        "selection": "oracle" if group == "oracle" else "uniform",
                        "members": [run["id"] for run in cell["runs"][:runs]],
                        "id_accuracy": round(0.9 + gain, 4),
                        "accuracy": float(scores[name][(domain, trial)].mean()),
                        "steps": STEPS.get(name, 600 * runs),
                        "seconds": round(STEPS.get(name, 600 * runs) * 0.031, 1),
                        "forward_cost": forward,
                        "oracle": group == "oracle",
                    }
                )
            cell["connectivity"] = _connectivity(rng, cell["runs"], runs, domain)
            cell["diversity"] = _diversity(rng, cell, domain)
            cell["diagnosis"] = _diagnoses(cell)
            cells.append(cell)
    estimates = paired_bootstrap(scores, resamples=500)
    labels = {name: each[0] for name, each in LABELS.items()}
    options = {"metric": "accuracy", "rows": "held-out domains"}
    compared = differences(scores, scores, "erm", labels=labels, **options)
    # The mean run stands in for the members' mean: both are made of the same runs.
    members = {f"{name}/members": scores["single"] for name in ("soup_uniform", AVERAGE)}
    averages = compare_all(
        scores | members,
        [(name.removesuffix("/members"), name) for name in members],
        labels=labels | dict.fromkeys(members, "its members' mean"),
        **options,
    )
    table = [
        {
            "protocol": name,
            "label": label,
            "group": group,
            "steps": STEPS.get(name, 600 * runs),
            "seconds": round(STEPS.get(name, 600 * runs) * 0.031, 1),
            "forward_cost": forward,
            **estimates[name].to_json(),
            **compared[name].to_json(),
        }
        for name, (label, group, _, forward) in LABELS.items()
    ]
    return {
        "schema": 1,
        "title": "Sentiment on a source never seen",
        "task": {
            "name": "sentiment",
            "kind": "classification",
            "metric": "accuracy",
            "domains": list(DOMAINS),
            "classes": ["negative", "positive"],
            "examples": DOMAINS,
        },
        "backbone": {
            "kind": "transformers",
            "name": "all-MiniLM-L6-v2",
            "parameters": 22_713_216,
            "trained_parameters": 5_322_624,
        },
        "cells": cells,
        "table": table,
        "averages": [claim.to_json() for claim in averages],
        "lineage": _lineage(runs),
        "final": {
            "protocol": "ratatouille_uniform",
            "label": "Model Ratatouille, uniform",
            "folder": "model",
            "why": "highest validation accuracy on the training domains among averages",
        },
        "recipe": "title: Sentiment on a source never seen\n"
        "task:\n  kind: text\n  path: data/sentiment.csv\n  domain: source\n"
        "backbone:\n  kind: transformers\n  name: models/all-MiniLM-L6-v2  # <base>\n"
        "protocols: [erm, soup_uniform, ratatouille_uniform]\n",
        "versions": {"stockpot": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0", "python": "3.11.7"},
        "seconds": 8123.0,
    }


def _runs(rng, domain, count, shift):
    runs = []
    for pool, inits in (("plain", INITS[:1]), ("auxiliary", INITS)):
        for index in range(count):
            init = inits[index % len(inits)]
            rate = float(rng.choice([1e-5, 3e-5, 5e-5]))
            final = 0.9 + rng.normal(0, 0.008)
            runs.append(
                {
                    "id": f"{pool}-{domain}-{index}",
                    "label": f"{pool} {index} from {init}",
                    "pool": pool,
                    "init": init,
                    "hyperparameters": {
                        "learning_rate": rate,
                        "weight_decay": float(rng.choice([1e-4, 1e-6])),
                        "dropout": float(rng.choice([0.0, 0.1, 0.5])),
                        "batch_size": 32,
                    },
                    "id_accuracy": round(final, 4),
                    "accuracy": round(LEVEL[domain] + shift + rng.normal(0, 0.02), 4),
                    "steps": 600,
                    "seconds": round(18.6 + rng.normal(), 2),
                    "history": [
                        {"step": s, "validation": round(final - 0.2 * np.exp(-s / 120), 4)}
                        for s in range(0, 601, 100)
                    ],
                }
            )
    return runs


def _connectivity(rng, runs, count, domain):
    pairs = [
        (runs[0], runs[1], "same init"),
        (runs[count], runs[count + 1], "different init"),
        (runs[count], runs[count + 3], "different init"),
    ]
    curves = []
    lambdas = [round(i / 10, 1) for i in range(11)]
    along = np.array(lambdas)
    for first, second, kind in pairs:
        broken = domain == "tweets" and "reviews" in (first["init"], second["init"])
        hump = 4 * along * (1 - along)
        lines = {}
        for split, key in (("id", "id_accuracy"), ("ood", "accuracy")):
            height = -0.18 if broken else abs(rng.normal(0.012, 0.006))
            line = (1 - along) * first[key] + along * second[key] + height * hump
            lines[split] = [round(float(v), 4) for v in line + rng.normal(0, 0.0015, 11)]
        curves.append(
            {
                "a": first["id"],
                "b": second["id"],
                "kind": kind,
                "lambdas": lambdas,
                **lines,
                "barrier_id": barrier(lambdas, lines["id"]),
                "barrier_ood": barrier(lambdas, lines["ood"]),
            }
        )
    return curves


def _diversity(rng, cell, domain):
    rows = []
    for pool, ratio, gain in (("plain", 0.42, 0.022), ("auxiliary", 0.56, 0.033)):
        mean = float(np.mean([r["accuracy"] for r in cell["runs"] if r["pool"] == pool]))
        gain = gain + rng.normal(0, 0.005)
        broken = 0.06 if domain == "tweets" and pool == "auxiliary" else 0.0
        rows.append(
            {
                "pool": pool,
                "ratio_error": round(ratio + rng.normal(0, 0.05), 3),
                "ensemble": mean + gain,
                "mean_member": mean,
                "average": mean + gain * 0.9 - broken + rng.normal(0, 0.002),
                "ensemble_gain": gain,
            }
        )
    return rows


def _diagnoses(cell):
    diagnoses = []
    for protocol, row in zip(
        ("soup_uniform", "ratatouille_uniform"), cell["diversity"], strict=True
    ):
        runs = [run for run in cell["runs"] if run["pool"] == row["pool"]]
        members = tuple(Member(r["id"], r["accuracy"], r["init"], r["id_accuracy"]) for r in runs)
        names = {run["id"] for run in runs}
        evidence = SoupEvidence(
            members,
            average=row["average"],
            ensemble=row["ensemble"],
            ratio_error=row["ratio_error"],
            low=row["average"] - row["mean_member"] - 0.008,
            high=row["average"] - row["mean_member"] + 0.008,
            gain=_about(row["ensemble_gain"], 0.008),
            shortfall=_about(row["ensemble"] - row["average"], 0.008),
            head_shared=True,
            barriers=tuple(
                PairBarrier(c["a"], c["b"], c["kind"], c["barrier_id"], c["barrier_ood"])
                for c in cell["connectivity"]
                if {c["a"], c["b"]} <= names
            ),
        )
        diagnoses.append({"protocol": protocol, **asdict(diagnose(evidence))})
    return diagnoses


def _about(mean, half):
    return Interval(mean, mean - half, mean + half)


def _lineage(runs):
    nodes = [{"id": "base", "label": "all-MiniLM-L6-v2", "kind": "base"}]
    nodes += [{"id": "probe", "label": "linear probe", "kind": "probe"}]
    nodes += [{"id": "reviews", "label": "reviews", "kind": "wild"}]
    nodes += [{"id": n, "label": n, "kind": "auxiliary"} for n in INITS[1:3]]
    edges = [{"from": "base", "to": "probe", "role": "features", "weight": None}]
    edges += [{"from": "base", "to": n, "role": "init", "weight": None} for n in INITS[1:]]
    for index in range(runs):
        name = f"run {index}"
        nodes.append({"id": name, "label": f"run {index}", "kind": "run"})
        edges.append({"from": INITS[index % 4], "to": name, "role": "init", "weight": None})
        edges.append({"from": "probe", "to": name, "role": "head", "weight": None})
        edges.append({"from": name, "to": "final", "role": "member", "weight": 1 / runs})
    nodes.append({"id": "final", "label": "Model Ratatouille", "kind": "final"})
    return {"nodes": nodes, "edges": edges}
