"""First contact: real models, real tasks, no history. Who picks the right model?

    python examples/rank/fetch.py
    python benchmarks/first_contact.py measure DATA --work runs/first_contact   # resumable
    python benchmarks/first_contact.py table --work runs/first_contact          # keep what it found
    python benchmarks/first_contact.py page                                     # from the table

``measure`` ranks each pool on each task without history and then really fine-tunes every model of
it (``rank --verify``): networks that come inside Python packages and untrained ones as controls.
DATA holds folders ``pacs``, ``emoji``, ``fashion``, ``glyphs`` as the examples make them; those
that are missing are left out. Texts and the digits come with stockpot's assets and scikit-learn.
``--scale`` multiplies examples and steps of every fine-tuning (1: about 15 CPU minutes in all).

``benchmarks/first_contact/table.json`` keeps what was measured. ``page`` answers from it alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata, weightedtau

import stockpot
from stockpot.evaluation import paired_bootstrap
from stockpot.files import write_json, write_text
from stockpot.ranking.beliefs import UNTESTED
from stockpot.ranking.history import Table
from stockpot.ranking.posterior import fit
from stockpot.ranking.posterior.evidence import (
    ScoredTask,
    ScorePanel,
    Untrained,
    panel_of,
    sensor_of,
    silent,
    standard,
)
from stockpot.ranking.posterior.fallback import Trust
from stockpot.ranking.posterior.shipped import FILE as SHIPPED
from stockpot.ranking.posterior.shipped import written

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "rank"
PAGE = ROOT / "docs" / "results" / "first_contact.md"
TABLE = Path(__file__).with_suffix("") / "table.json"
UNTRAINED = {"lite0": "lite0", "mobilenetv2": "mobilenet_v2", "resnet18": "resnet18"}
STEPS = {"images": 40, "texts": 24}
HEAVY = ("resnet18-tiny",)  # keeps its maps large: sixteen times the work of a ResNet-18


def tasks(data: Path, assets: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, kind of pool and task of everything that is there."""
    for domain in ("photo", "art_painting", "cartoon", "sketch"):
        if (data / "pacs").exists():
            spec = {"kind": "images", "path": str(data / "pacs"), "domains": [domain], "size": 64}
            yield f"pacs-{domain}", "images", spec
    for style in ("noto", "openmoji"):
        if (data / "emoji").exists():
            spec = {"kind": "images", "path": str(data / "emoji"), "domains": [style], "size": 48}
            yield f"emoji-{style}", "images", spec
    for name in ("fashion", "glyphs"):
        if (data / name).exists():
            yield name, "images", {"kind": "images", "path": str(data / name), "size": 48}
    yield "digits", "images", {"kind": "function", "function": f"{EXAMPLE / 'tasks.py'}:digits"}
    sentiment = str(assets / "sentiment" / "sentiment.csv")
    for domain in ("tweets", "movies", "products", "editorials"):
        spec = {"kind": "text", "path": sentiment, "domains": [domain], "target": "sign"}
        yield f"sentiment-{domain}", "texts", {**spec, "margin": 0.5}
    yield "glosses", "texts", {"kind": "text", "path": str(assets / "glosses" / "glosses.csv")}


def image_zoo(weights: Path, scale: float) -> dict[str, Any]:
    """The example's zoo with its weights in ``weights``, and untrained controls."""
    import torch
    import yaml

    from stockpot.checkpoints import write_checkpoint

    entries = yaml.safe_load((EXAMPLE / "zoo.yaml").read_text(encoding="utf-8"))["models"]
    module = f"{EXAMPLE / 'networks.py'}"
    found = [
        {**entry, "name": f"{module}:{entry['name'].split(':')[1]}"}
        | {"weights": str(weights / Path(entry["weights"]).name)}
        for entry in entries
        if scale > 1 or entry["id"] not in HEAVY
    ]
    by_function = {entry["name"].split(":")[1]: entry for entry in found}
    spec = importlib.util.spec_from_file_location("zoo_networks", module)
    assert spec is not None
    assert spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    for name, function in UNTRAINED.items():
        file = weights / f"untrained-{name}.safetensors"
        if not file.exists():
            torch.manual_seed(0)
            state = getattr(networks, function)().state_dict()
            write_checkpoint(file, {key: value.numpy() for key, value in state.items()})
        facts = {**by_function[function]["metadata"], "pretraining": "none"}
        found.append(
            {
                "id": f"untrained-{name}",
                "kind": "function",
                "name": f"{module}:{function}",
                "weights": str(file),
                "metadata": facts,
            }
        )
    return {"models": found}


def text_zoo(weights: Path, assets: Path) -> dict[str, Any]:
    """MiniLM, somebody's fine-tuning of it, and the same network untrained."""
    import torch

    from stockpot.compat import ensure_torchvision, import_transformers

    ensure_torchvision(quiet=True)
    load = import_transformers()
    folder = weights / "untrained-minilm"
    if not folder.exists():
        torch.manual_seed(0)
        load.AutoModel.from_config(
            load.AutoConfig.from_pretrained(assets / "minilm")
        ).save_pretrained(folder)
        load.AutoTokenizer.from_pretrained(assets / "minilm").save_pretrained(folder)
    names = {"minilm": assets / "minilm", "sre": assets / "sre", "untrained-minilm": folder}
    pretraining = {"minilm": "sentence-pairs", "sre": "sentence-pairs-then-pages"}
    return {
        "models": [
            {
                "id": name,
                "kind": "transformers",
                "name": str(path),
                "max_length": 32,
                "metadata": {
                    "family": "minilm",
                    "parameters": 2.27e7,
                    "pretraining": pretraining.get(name, "none"),
                },
            }
            for name, path in names.items()
        ]
    }


def measure(arguments: argparse.Namespace) -> None:
    """Rank and fine-tune, one task after another; what an earlier call has done stays done."""
    from stockpot.demo.assets import fetch

    assets = fetch()["minilm"].parent
    weights = arguments.weights
    zoos = {
        "images": image_zoo(weights, arguments.scale),
        "texts": text_zoo(weights, assets),
    }
    for zoo in zoos.values():
        if arguments.models:
            zoo["models"] = [own for own in zoo["models"] if own["id"] in arguments.models]
    examples = round(600 * arguments.scale)
    for name, pool, task in tasks(arguments.data.resolve(), assets):
        if arguments.only and name not in arguments.only:
            continue
        folder = arguments.work / name
        if (folder / "results.json").exists():
            continue
        started = time.process_time()
        request = {
            "title": name,
            "task": {**task, "name": name},
            "validation_fraction": 0.5,
            "limit_per_domain": examples,
            "sample": {"first": 256, "most": 2048},
            "training": {
                "steps": round(STEPS[pool] * arguments.scale),
                "batch_size": 16,
                "augmentation": False,
            },
        }
        stockpot.rank(
            request, zoos[pool], folder, verify=True, backend="serial", quiet=True, root=ROOT
        )
        print(f"{name}: {time.process_time() - started:.0f} CPU s", file=sys.stderr, flush=True)


def row(model: Mapping[str, Any]) -> dict[str, Any]:
    """What the table keeps of one model on one task."""
    return {
        "value": model["tuned"]["value"],
        "probe": model["tuned"]["probe"],
        "seconds": round(model["tuned"]["seconds"], 1),
        "facts": model["metadata"],
        "scores": model["scores"],
        "untrained": model["untrained"],
        "warnings": model["warnings"],
    }


def keep(arguments: argparse.Namespace) -> None:
    """Write the table from what was measured."""
    found = {}
    for file in sorted(arguments.work.glob("*/results.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        found[results["title"]] = {
            "judged_by": results["task"]["judged_by"],
            "classes": len(results["task"]["classes"]),
            "models": {m["name"]: row(m) for m in results["models"] if m["tuned"]},
        }
    TABLE.parent.mkdir(exist_ok=True)
    write_json(TABLE, found)


Content = dict[str, Any]
POOLS = (3, 5, 8)
DRAWS = 20
LOOKED = ("loo_ridge", "knn", "logme")


def pretrained(models: Content) -> Content:
    """Those of the models that were trained before."""
    return {name: own for name, own in models.items() if not own["untrained"]}


def without_history(content: Content, tasks: Sequence[str]) -> ScorePanel:
    """What scores and pretraining are worth where nothing else is known, from some of the tasks.

    Truth and scores are standardised alike: a gap counts for what it is.
    """
    panel = panel_alone(content, tasks)
    lead = best_single({task: pretrained_pool(content[task]) for task in tasks}, tasks, UNTESTED)
    gains = []
    for task in tasks:
        own = pretrained(content[task]["models"])
        others = panel_alone(content, [other for other in tasks if other != task])
        truth = [each["value"] for each in own.values()]
        both = [
            tau_of(truth, ours(own, UNTESTED, replace(others, lead=each))[0]) for each in ("", lead)
        ]
        gains.append(both[0] - both[1])
    error = float(np.std(gains, ddof=1) / np.sqrt(len(gains)))
    alone = float(np.mean(gains)) <= error
    return replace(panel, lead=lead if alone else "", untrained=from_scratch(content, tasks))


def pretrained_pool(task: Content) -> Content:
    """A task with those of its models that were trained before."""
    return {**task, "models": pretrained(task["models"])}


def panel_alone(content: Content, tasks: Sequence[str]) -> ScorePanel:
    """What scores are worth among models that were trained before."""
    parts: dict[str, dict[int, ScoredTask]] = {}
    spreads: dict[str, list[float]] = {}
    names = sorted({model for task in tasks for model in content[task]["models"]})
    usual = usual_spread(content, tasks)
    for number, task in enumerate(tasks):
        models = pretrained(content[task]["models"])
        rows = np.array([names.index(model) for model in models])
        truth = standard(np.array([own["value"] for own in models.values()]), usual)
        for score in UNTESTED:
            values = np.array([own["scores"].get(score, np.nan) for own in models.values()])
            if np.isfinite(values).all() and values.std() > 0:
                spreads.setdefault(score, []).append(float(values.std()))
                part = ScoredTask(rows, np.zeros(len(rows)), truth, values)
                parts.setdefault(score, {})[number] = part
    sensors = {}
    for score, own in parts.items():
        spread = float(np.median(spreads[score]))
        parts[score] = {
            number: replace(part, score=standard(part.score, spread))
            for number, part in own.items()
        }
        sensors[score] = sensor_of(score, list(parts[score].values()), spread)
    panel = panel_of(parts, sensors, (len(names), len(tasks)))
    return panel.with_others(silent(sensors.values()))


def usual_spread(content: Content, tasks: Sequence[str]) -> float:
    """Of the results of models that were trained before, within a pool."""
    return float(np.median([np.std(values_of(pretrained(content[t]["models"]))) for t in tasks]))


def values_of(models: Content) -> np.ndarray:
    return np.array([own["value"] for own in models.values()])


def from_scratch(content: Content, tasks: Sequence[str]) -> Untrained:
    """What untrained networks reach, against the others of their pool."""
    usual, gaps, best = usual_spread(content, tasks), [], 0
    for task in tasks:
        models = content[task]["models"]
        others = values_of(pretrained(models))
        own = np.array([each["value"] for each in models.values() if each["untrained"]])
        unit = np.sqrt((len(others) * others.var() + 5.0 * usual**2) / (len(others) + 5.0))
        gaps.append(float((others.mean() - own.mean()) / unit))
        best += int(own.max() > others.max())
    spread = float(np.std(gaps, ddof=1) * np.sqrt(1.0 + 1.0 / len(gaps)))
    return Untrained(float(np.mean(gaps)), spread, best, len(gaps))


def beside_history(content: Content) -> Trust:
    """What scores add to a ranking by the history of the same models; unknown for few of them."""
    images = [task for task, own in content.items() if len(own["models"]) >= 8]
    if not images:
        return Trust(0.0, 0.0, 0.0)
    models = sorted(set.intersection(*(set(content[task]["models"]) for task in images)))
    rows = [[content[task]["models"][model] for task in images] for model in models]
    table = Table(tuple(models), tuple(images), np.array([[c["value"] for c in r] for r in rows]))
    scores = {
        score: np.array([[cell["scores"].get(score, np.nan) for cell in row] for row in rows])
        for score in UNTESTED
    }
    return fit(table, scores=scores, elsewhere=ScorePanel()).panel.trust


def ours(
    models: Content, scores: Sequence[str], panel: ScorePanel
) -> tuple[np.ndarray, np.ndarray]:
    """Locations and P(best) by the posterior without history, ``(n,)`` each."""
    names = list(models)
    posterior = fit(Table(tuple(names), (), np.empty((len(names), 0))), elsewhere=panel)
    given = {
        score: {name: models[name]["scores"][score] for name in names}
        for score in scores
        if all(score in models[name]["scores"] for name in names)
    }
    untrained = [name for name, own in models.items() if own["untrained"]]
    ranking = posterior.for_task(scores=given, untrained=untrained)
    order = [ranking.order.index(name) for name in names]
    best = np.array([ranking[name].best for name in names])
    return ranking.location[order], best


def guesses(models: Content, panel: ScorePanel, single: str, seed: int) -> dict[str, np.ndarray]:
    """Every method's prediction ``(n,)`` for a pool."""
    names = list(models)
    common = set.intersection(*(set(own["scores"]) for own in models.values()))
    columns = {s: np.array([models[name]["scores"][s] for name in names]) for s in sorted(common)}
    last = np.array([2.0 * own["untrained"] for own in models.values()])
    sizes = np.array([float(models[name]["facts"].get("parameters", 0.0)) for name in names])
    return {
        "random": np.random.default_rng(seed).normal(size=len(names)),
        "parameters": sizes,
        f"best single score ({single})": columns[single],
        "best single score, untrained last": columns[single] - last * np.ptp(columns[single]),
        "sum of ranks": np.sum([rankdata(column) for column in columns.values()], axis=0),
        "ours, first look": ours(models, LOOKED, panel)[0],
        "ours, whole": ours(models, UNTESTED, panel)[0],
    }


def best_single(content: Content, tasks: Sequence[str], among: Sequence[str] = ()) -> str:
    """The score, of all or of some, that orders the models of ``tasks`` best."""
    taus: dict[str, list[float]] = {}
    for task in tasks:
        models = content[task]["models"]
        truth = [own["value"] for own in models.values()]
        for score in set.intersection(*(set(own["scores"]) for own in models.values())):
            if among and score not in among:
                continue
            values = [own["scores"][score] for own in models.values()]
            taus.setdefault(score, []).append(tau_of(truth, values))
    complete = {s: float(np.mean(t)) for s, t in taus.items() if len(t) == len(tasks)}
    return max(sorted(complete), key=lambda score: complete[score])


def tau_of(truth: Sequence[float], guess: Sequence[float]) -> float:
    tau = float(weightedtau(truth, guess)[0])
    return tau if np.isfinite(tau) else 0.0


def pools(models: Content, seed: int) -> Iterator[tuple[str, Content]]:
    """The whole pool, and draws of small ones: size and models."""
    yield "whole", models
    random = np.random.default_rng(seed)
    for size in POOLS:
        for _ in range(DRAWS if size < len(models) else 0):
            drawn = sorted(random.choice(list(models), size, replace=False))
            yield f"{size}", {name: models[name] for name in drawn}


def answers(content: Content) -> str:
    """The page: each task judged with what the other tasks say scores are worth."""
    cells: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {}
    untrained = []
    for number, (task, own) in enumerate(content.items()):
        others = [name for name in content if name != task]
        panel = replace(without_history(content, others), trust=Trust())
        single = best_single(content, others)
        for size, models in pools(own["models"], number):
            truth = np.array([each["value"] for each in models.values()])
            if np.ptp(truth) == 0:
                continue
            for method, guess in guesses(models, panel, single, number).items():
                name = method.split(" (")[0]
                regret = 100.0 * float(truth.max() - truth[int(np.argmax(guess))])
                rows = cells.setdefault(size, {}).setdefault(name, {})
                rows.setdefault(task, []).append((tau_of(truth, guess), regret))
            _, best = ours(models, UNTESTED, panel)
            for model, chance in zip(models, best, strict=True):
                if models[model]["untrained"] and models[model]["value"] < truth.max():
                    untrained.append((float(chance), size, task, model))
    lines = [
        "# First contact",
        "",
        "<!-- Written by `python benchmarks/first_contact.py page`; do not edit. -->",
        "",
        f"{len(content)} tasks; each is judged with what the others say scores are worth. Every",
        "model was really fine-tuned once. Regret: points lost by the model put first.",
        "Differences to the best single score are paired over tasks (95 %).",
    ]
    for size, methods in cells.items():
        rows = {task: list(own) for task, own in next(iter(methods.values())).items()}
        lines += ["", f"## Pools of {size}" if size != "whole" else "## Whole pools", ""]
        lines += ["| method | weighted tau | difference | regret | difference |"]
        lines += ["| --- | ---: | ---: | ---: | ---: |"]
        estimates = [
            paired_bootstrap(
                {
                    method: {
                        ("tasks", 0): np.array(
                            [np.mean([pair[part] for pair in own[task]]) for task in rows]
                        )
                    }
                    for method, own in methods.items()
                },
                "best single score",
                metric=("tau", "regret")[part],
            )
            for part in (0, 1)
        ]
        for method in methods:
            cells_ = [method]
            for part, estimate in enumerate(estimates):
                digits = (3, 1)[part]
                mean, gap = estimate[method].overall, estimate[method].difference
                cells_.append(f"{mean.mean:.{digits}f}")
                cells_.append(
                    ""
                    if gap is None
                    else f"{gap.mean:+.{digits}f} ({gap.low:+.{digits}f}..{gap.high:+.{digits}f})"
                )
            lines.append("| " + " | ".join(cells_) + " |")
    worst = sorted(untrained, reverse=True)[:1]
    for chance, size, task, model in worst:
        share = np.mean([one[0] > 0.02 for one in untrained])
        lines += [
            "",
            f"Untrained networks that are not the best: P(best) above 2 % in {share:.0%} of "
            f"{len(untrained)} cases, at most {chance:.1%} ({model}, {task}, pool {size}).",
        ]
    return "\n".join(lines) + "\n"


def write_page(arguments: argparse.Namespace) -> None:
    """Write the page, and the shipped set's panel, from the table."""
    content = json.loads(TABLE.read_text(encoding="utf-8"))
    write_text(PAGE, answers(content))
    panel = replace(without_history(content, list(content)), trust=beside_history(content))
    write_json(SHIPPED, written(panel, len(content)).model_dump(mode="json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    made = verbs.add_parser("measure")
    made.add_argument("data", type=Path)
    made.add_argument("--weights", type=Path, default=EXAMPLE / "models")
    made.add_argument("--scale", type=float, default=1.0)
    made.add_argument("--only", nargs="*", help="tasks")
    made.add_argument("--models", nargs="*", help="of the pools; default: all")
    made.set_defaults(run=measure)
    kept = verbs.add_parser("table")
    kept.set_defaults(run=keep)
    verbs.add_parser("page").set_defaults(run=write_page)
    for each in (made, kept):
        each.add_argument("--work", type=Path, default=Path("runs/first_contact"))
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
