"""Sentences that a tiny model can learn from, and evaluators of what it has learnt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.backbones.networks import WORDS

EVAL = """
import json
from pathlib import Path
import torch
from stockpot.compat import import_transformers

HERE = Path(__file__).parent


def network():
    library = import_transformers()
    return library.AutoModelForSequenceClassification.from_pretrained(HERE / "base", num_labels=2)


def right(model):
    tokenizer = import_transformers().AutoTokenizer.from_pretrained(HERE / "base")
    rows = [json.loads(line) for line in (HERE / "test.jsonl").read_text().splitlines()]
    batch = tokenizer([row["text"] for row in rows], return_tensors="pt", padding=True)
    with torch.no_grad():
        chosen = model(**batch).logits.argmax(1)
    return [float("ab"[int(a)] == row["label"]) for a, row in zip(chosen, rows, strict=True)]
"""


def sentences(path: Path, count: int, seed: int) -> Path:
    """JSON Lines: sentences of six words, "b" where those of the first half are frequent."""
    rng = np.random.default_rng(seed)
    words = [word for word in WORDS if word[:1] != "["]
    half = len(words) // 2
    lines = []
    for _ in range(count):
        label = int(rng.integers(2))
        share = 0.8 if label else 0.2
        chosen = [
            words[int(rng.integers(half)) + (0 if rng.random() < share else half)] for _ in range(6)
        ]
        lines.append(json.dumps({"text": " ".join(chosen), "label": "ab"[label]}))
    path.write_text("\n".join(lines) + "\n")
    return path
