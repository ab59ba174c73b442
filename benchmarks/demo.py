"""Which setting should the demo have? Fine-tunings of MiniLM for sentiment, and their average.

    python benchmarks/demo.py --held-out editorials --layer 5 --steps 80 --seeds 12 13
    python benchmarks/demo.py --table runs/demo.jsonl

Every fine-tuning of a setting starts from the base with the linear probe as its head and has its
own rate, order and dropout, as in ``stockpot recycle``; the weights of the last step count. The
average of all, and of parts of them, is judged beside the linear probe and the mean fine-tuning, on
texts of a source that nothing was trained on. One line of JSON per setting, held-out source, and
seed is appended to the log; ``--table`` turns it into Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from stockpot.backbones import Backbone, Model, load_backbone
from stockpot.backbones.spec import BackboneSpec
from stockpot.demo import fetch
from stockpot.evaluation import ensemble
from stockpot.tasks import Split, Task, load_task, named_generator, split_task
from stockpot.tasks.specs import parse_task_spec
from stockpot.training import HyperParameters, build_feed, extract_features, linear_probe
from stockpot.training.feed import Feed
from stockpot.training.predict import predict
from stockpot.training.rows import limit_task
from stockpot.training.trainer import Trainer

DROPOUT, DECAY = (0.1, 0.0, 0.3), (0.0, 1e-4)
LARGEST = 3000  # texts per source whose activations are computed at all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--held-out", nargs="+", default=["editorials"])
    parser.add_argument(
        "--layer", type=int, default=5, help="first trained layer; 0: all, and words"
    )
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch", type=int, default=12, help="texts per source and step")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 2e-4, 3e-4, 5e-4] * 2)
    parser.add_argument("--rows", type=int, default=1500, help="texts per training source")
    parser.add_argument("--judged", type=int, default=1500, help="held-out texts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--log", type=Path, default=Path("runs/demo.jsonl"))
    parser.add_argument("--table", type=Path, help="print a log as Markdown, and do nothing else")
    arguments = parser.parse_args()
    if arguments.table:
        print(table([json.loads(line) for line in arguments.table.read_text().splitlines()]))
        return
    torch.set_num_threads(1)
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    search = Search(arguments.layer, arguments.assets, arguments.log.parent)
    for seed in arguments.seeds:
        for held_out in arguments.held_out:
            for line in search.judge(arguments, held_out, seed):
                print(json.dumps(line), flush=True)
                with arguments.log.open("a") as log:
                    log.write(json.dumps(line) + "\n")


class Search:
    """The task, the base, and activations below the first trained layer."""

    def __init__(self, layer: int, assets: Path | None, cache: Path) -> None:
        folders = fetch(("minilm", "sentiment"), assets)
        path = str((folders["sentiment"] / "sentiment.csv").resolve())
        spec = {"kind": "text", "path": path, "target": "sign", "margin": 0.5}
        whole = load_task(parse_task_spec(spec), root=Path("/"))
        self.task: Task = limit_task(whole, LARGEST, 0)
        value = {"kind": "transformers", "name": str(folders["minilm"].resolve()), "max_length": 32}
        if layer:
            value["freeze_below"] = f"encoder.layer.{layer}"
        spec = BackboneSpec.model_validate({**value, "pooling": "mean"})
        self.base: Backbone = load_backbone(spec, example=self.task.inputs[:2])
        folder = cache / f"layer-{layer}"
        folder.mkdir(parents=True, exist_ok=True)
        self.feed: Feed = build_feed(self.task, self.base, folder=folder, views=0, seed=0)
        kept = folder / "features.npy"
        if not kept.exists():
            rows = np.arange(len(self.task))
            np.save(kept, extract_features(self.base, self.feed, rows))
        self.features = np.load(kept)

    def judge(self, a: argparse.Namespace, held_out: str, seed: int) -> list[dict[str, Any]]:
        """Accuracies in percent: of the probe, the mean fine-tuning, ensemble and average."""
        split = split_task(self.task, held_out=[held_out], seed=seed, limit_per_domain=a.rows)
        test = named_generator(seed, "judged").permutation(self.task.rows(held_out))[: a.judged]
        head = self._probe(split)
        runs = [self._run(a, head, split, seed, i, rate) for i, rate in enumerate(a.rates)]
        outputs = [self._outputs(state, test) for state in runs]
        probe = self.features[test] @ head[0].T + head[1]
        lines = []
        for name, chosen in _groups(a.rates).items():
            average = {key: torch.stack([runs[i][key] for i in chosen]).mean(0) for key in runs[0]}
            each = [self._percent(outputs[i], test) for i in chosen]
            joined = ensemble([outputs[i] for i in chosen], "classification")
            lines.append(
                {
                    "held_out": held_out,
                    "layer": a.layer,
                    "steps": a.steps,
                    "batch": a.batch,
                    "rows": a.rows,
                    "judged": len(test),
                    "runs": name,
                    "rates": [a.rates[i] for i in chosen],
                    "seed": seed,
                    "probe": self._percent(probe, test),
                    "single": round(fmean(each), 2),
                    "lowest": min(each),
                    "highest": max(each),
                    "ensemble": self._percent(joined, test),
                    "average": self._percent(self._outputs(average, test), test),
                    "validation": self._validation(average, split),
                }
            )
        return lines

    def _probe(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        train = np.concatenate(list(split.train.values()))
        validation = np.concatenate(list(split.validation.values()))
        labels = self.task.labels
        return linear_probe(
            self.features[train],
            labels[train],
            self.features[validation],
            labels[validation],
            n_outputs=2,
            kind="classification",
        )

    def _run(
        self,
        a: argparse.Namespace,
        head: tuple[np.ndarray, np.ndarray],
        split: Split,
        seed: int,
        index: int,
        rate: float,
    ) -> dict[str, torch.Tensor]:
        self.base.reset()
        dropout = DROPOUT[index % len(DROPOUT)]
        model = Model(self.base, 2, dropout=dropout)
        model.set_head(*head)
        settings = HyperParameters(
            learning_rate=rate,
            weight_decay=DECAY[index % len(DECAY)],
            dropout=dropout,
            batch_size=a.batch,
            steps=a.steps,
            evaluate_every=a.steps,
            average_from=1.0,
        )
        trainer = Trainer(
            model,
            self.feed,
            self.task.labels,
            split.train,
            split.validation,
            settings,
            seed=1000 * seed + index,
            kind="classification",
        )
        trainer.advance(a.steps)
        return trainer.state()

    def _outputs(self, state: dict[str, torch.Tensor], rows: np.ndarray) -> np.ndarray:
        model = Model(self.base, 2)
        model.load_state(state)
        return predict(model, self.feed, rows)

    def _percent(self, outputs: np.ndarray, rows: np.ndarray) -> float:
        return round(100 * float((outputs.argmax(1) == self.task.labels[rows]).mean()), 2)

    def _validation(self, state: dict[str, torch.Tensor], split: Split) -> float:
        parts = split.validation.values()
        return round(fmean(self._percent(self._outputs(state, rows), rows) for rows in parts), 2)


def _groups(rates: list[float]) -> dict[str, list[int]]:
    """All runs, and, of six or more, those with the lower and with the higher rates."""
    order = [int(i) for i in np.argsort(rates, kind="stable")]
    half = len(rates) // 2
    if len(rates) < 6:
        return {"all": order}
    return {"all": order, "lower rates": order[:half], "higher rates": order[half:]}


def table(lines: list[dict[str, Any]]) -> str:
    """One row per setting, with means over seeds and the gains of every seed."""
    keys = ("held_out", "layer", "steps", "batch", "rows", "judged", "runs", "rates")
    settings: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        settings[json.dumps([line[key] for key in keys])].append(line)
    rows = [
        "| held out | first layer | steps | rows | rates | seeds | probe | one fine-tuning "
        "| ensemble | average | over one fine-tuning, by seed | over the probe, by seed |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, group in settings.items():
        held_out, layer, steps, _, texts, _, _, rates = json.loads(key)
        means = [
            f"{fmean(line[name] for line in group):.1f}"
            for name in ("probe", "single", "ensemble", "average")
        ]
        gains = [
            ", ".join(f"{line['average'] - line[name]:+.1f}" for line in group)
            for name in ("single", "probe")
        ]
        spread = f"{len(rates)} of {min(rates):g} to {max(rates):g}"
        seeds = ", ".join(str(line["seed"]) for line in group)
        cells = [held_out, str(layer), str(steps), str(texts), spread, seeds, *means, *gains]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
