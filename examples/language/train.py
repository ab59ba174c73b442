"""A trainer for `stockpot recycle`: next-token training, with the loss on responses only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from stockpot.compat import import_transformers

library = import_transformers()  # also beside a torchvision that does not fit the torch
library.utils.logging.disable_progress_bar()
IGNORED = -100  # of labels: what the loss leaves out


def train(
    init: Path,
    output: Path,
    data: str,
    *,
    seed: int,
    learning_rate: float,
    epochs: int = 3,
    batch_size: int = 20,
    weight_decay: float = 0.0,
) -> None:
    """Fine-tune the model of ``init`` on lines with ``prompt`` and ``completion``."""
    library.set_seed(seed)
    tokenizer = library.AutoTokenizer.from_pretrained(init)
    model = library.AutoModelForCausalLM.from_pretrained(init).train()
    lines = Path(data).read_text(encoding="utf-8").splitlines()
    examples = [example(tokenizer, json.loads(line)) for line in lines]
    steps = epochs * -(-len(examples) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.1 * steps)) * (1 - step / steps)
    )
    for epoch in range(epochs):
        order = torch.randperm(len(examples)).tolist()
        for start in range(0, len(order), batch_size):
            batch = padded([examples[one] for one in order[start : start + batch_size]])
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}", flush=True)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def example(tokenizer: Any, row: dict[str, str]) -> dict[str, list[int]]:
    """Token numbers, and labels that leave out the prompt."""
    prompt = tokenizer(row["prompt"])["input_ids"]
    answer = [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id]
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}


def padded(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch. What is padded stands to the right, where a causal model does not see it."""
    longest = max(len(one["input_ids"]) for one in examples)
    return {
        key: torch.tensor([[*one[key], *[fill] * (longest - len(one[key]))] for one in examples])
        for key, fill in (("input_ids", 0), ("labels", IGNORED))
    }
