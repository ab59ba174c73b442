"""Two fine-tunings of a real sentence encoder, merged by each method, judged on both domains.

    python benchmarks/merge_real_weights.py

all-MiniLM-L6-v2 is the base (`stockpot demo --fetch-only` unpacks weights and texts). A linear head
for "positive or negative" is fitted on the base's features of both domains and then kept; one copy
of the encoder is fine-tuned under it on tweets, one on product reviews. Every method merges the two
encoders with its default parameters; transformers loads the merged folder. Held out: movie reviews.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch

from stockpot.backbones.compat import ensure_torchvision
from stockpot.demo.assets import fetch
from stockpot.merging import available_methods, get_method, merge

ensure_torchvision()
from transformers import AutoModel, AutoTokenizer  # noqa: E402

# Methods that need statistics of the data, give one model a task, or are no merge of two models.
LEFT_OUT = {
    "adamerging",
    "cocktail",
    "emr",
    "fisher",
    "lines",
    "regmean",
    "self_position",
    "tall",
}


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
    for method in available_methods():
        if method not in (arguments.methods or available_methods()) or method in LEFT_OUT:
            continue
        out = arguments.folder / "merged"
        needs_base = get_method(method).base != "none"
        merge(
            list(models.values()),
            method=method,
            base=base if needs_base else None,
            output=out,
            overwrite=True,
        )
        row(f"`{method}`", out, tokenizer, head, tests)


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
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([y for _, y in batch]))
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
