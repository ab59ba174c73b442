"""Trainers that a recipe can name: transformers' Trainer, and TRL's SFTTrainer.

Both read JSON Lines, take the same settings, train all weights or a LoRA adapter, which is merged
before it is saved, and leave a model folder with its tokenizer.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from stockpot.compat import import_transformers
from stockpot.errors import InputError
from stockpot.extras import require

Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]
Precision = Literal["no", "bf16", "fp16"]
_WORD = 100  # characters of a line that a message shows


def transformers(
    init: Path,
    output: Path,
    data: str | None,
    *,
    seed: int,
    learning_rate: float = 5e-5,
    weight_decay: float = 0.0,
    epochs: float = 3.0,
    steps: int = -1,
    batch_size: int = 16,
    accumulate: int = 1,
    schedule: Schedule = "linear",
    warmup_steps: int = 0,
    max_length: int = 128,
    head_only: bool = False,
    lora_rank: int = 0,
    lora_alpha: int = 16,
    precision: Precision = "no",
) -> None:
    """Fine-tune a text classifier with transformers' Trainer.

    ``data``: JSON Lines with ``text`` and ``label`` (a name, or a number from 0). ``steps``: of the
    optimizer, instead of ``epochs``, where it is above 0. ``head_only``: train what the base lacks
    alone. ``lora_rank``: 0 trains all weights.

    Raises ``InputError`` for data that is not of this kind.
    """
    library = import_transformers()
    library.set_seed(seed)
    tokenizer = library.AutoTokenizer.from_pretrained(init)
    model, examples = _classifier(library, init, tokenizer, data, max_length)
    if head_only:
        model.base_model.requires_grad_(False)
    if lora_rank:
        from peft import get_peft_model

        model = get_peft_model(model, _lora("SEQ_CLS", lora_rank, lora_alpha))
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        arguments = library.TrainingArguments(
            **_arguments(
                scratch,
                seed=seed,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                epochs=epochs,
                steps=steps,
                batch_size=batch_size,
                accumulate=accumulate,
                schedule=schedule,
                warmup_steps=warmup_steps,
                precision=precision,
            )
        )
        trainer = library.Trainer(
            model=model,
            args=arguments,
            train_dataset=examples,
            data_collator=library.DataCollatorWithPadding(tokenizer),
        )
        trainer.train()
    _save(model, tokenizer, output)


def trl(
    init: Path,
    output: Path,
    data: str | None,
    *,
    seed: int,
    learning_rate: float = 2e-5,
    weight_decay: float = 0.0,
    epochs: float = 3.0,
    steps: int = -1,
    batch_size: int = 8,
    accumulate: int = 1,
    schedule: Schedule = "linear",
    warmup_steps: int = 0,
    max_length: int = 1024,
    packing: bool = False,
    lora_rank: int = 0,
    lora_alpha: int = 16,
    precision: Precision = "no",
) -> None:
    """Fine-tune a causal language model with TRL's SFTTrainer.

    ``data``: JSON Lines with ``text``, with ``prompt`` and ``completion``, or with ``messages``.
    The rest as in :func:`transformers`.

    Raises ``MissingDependencyError`` where TRL is not installed.
    """
    require("trl", "training with TRL")
    rows = _rows(data, ())
    library = import_transformers()
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    library.set_seed(seed)
    tokenizer = library.AutoTokenizer.from_pretrained(init)
    with tempfile.TemporaryDirectory(prefix="stockpot-") as scratch:
        arguments = SFTConfig(
            **_arguments(
                scratch,
                seed=seed,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                epochs=epochs,
                steps=steps,
                batch_size=batch_size,
                accumulate=accumulate,
                schedule=schedule,
                warmup_steps=warmup_steps,
                precision=precision,
            ),
            max_length=max_length,
            packing=packing,
        )
        trainer = SFTTrainer(
            model=library.AutoModelForCausalLM.from_pretrained(init),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=_lora("CAUSAL_LM", lora_rank, lora_alpha) if lora_rank else None,
        )
        trainer.train()
    _save(trainer.model, tokenizer, output)


def _classifier(
    library: Any, init: Path, tokenizer: Any, data: str | None, max_length: int
) -> tuple[Any, list[dict[str, Any]]]:
    """A classifier for the labels that the data has, and its examples."""
    rows = _rows(data, ("text", "label"))
    number, names = _classes(
        [row["label"] for row in rows], library.AutoConfig.from_pretrained(init)
    )
    model = library.AutoModelForSequenceClassification.from_pretrained(
        init,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: place for place, name in enumerate(names)},
        ignore_mismatched_sizes=True,
    )
    texts = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_length)
    return model, [
        {**{key: texts[key][place] for key in texts}, "labels": number[row["label"]]}
        for place, row in enumerate(rows)
    ]


def _classes(labels: Sequence[Any], config: Any) -> tuple[dict[Any, int], list[str]]:
    """The class of each label that the data has, and the names of all classes.

    A number is the class itself. A name is the class that a classifier of ``config`` has for it;
    where that lacks one of them, names are numbered in order.
    """
    different = sorted(set(labels), key=lambda one: (str(type(one)), one))
    is_classifier = any("Classif" in name for name in config.architectures or ())
    known = [config.id2label[place] for place in range(config.num_labels)] if is_classifier else []
    if all(type(one) is int and one >= 0 for one in different):
        more = range(len(known), different[-1] + 1)
        return {one: one for one in different}, [*known, *map(str, more)]
    if not {str(one) for one in different} <= set(known):
        known = [str(one) for one in different]
    return {one: known.index(str(one)) for one in different}, known


def _arguments(
    scratch: str,
    *,
    seed: int,
    learning_rate: float,
    weight_decay: float,
    epochs: float,
    steps: int,
    batch_size: int,
    accumulate: int,
    schedule: Schedule,
    warmup_steps: int,
    precision: Precision,
) -> dict[str, Any]:
    """What both trainers call their settings; nothing is saved on the way, or sent anywhere."""
    import torch

    return {
        "output_dir": scratch,
        "seed": seed,
        "data_seed": seed,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "num_train_epochs": epochs,
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": accumulate,
        "lr_scheduler_type": schedule,
        "warmup_steps": warmup_steps,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def _lora(task: str, rank: int, alpha: int) -> Any:
    from peft import LoraConfig

    return LoraConfig(task_type=task, r=rank, lora_alpha=alpha, target_modules="all-linear")


def _save(model: Any, tokenizer: Any, output: Path) -> None:
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def _rows(data: str | None, keys: Sequence[str]) -> list[dict[str, Any]]:
    if data is None or not Path(data).is_file():
        raise InputError(f"data: {data} is no file", hint="give JSON Lines, an example a line")
    rows = []
    for number, line in enumerate(Path(data).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            lacking = [key for key in keys if key not in row]
        except (ValueError, TypeError):
            raise InputError(f"{data}:{number}: no JSON: {line[:_WORD]}") from None
        if lacking or not isinstance(row, dict):
            raise InputError(f"{data}:{number}: no row with {' and '.join(keys)}")
        rows.append(row)
    if not rows:
        raise InputError(f"{data} holds no rows")
    return rows
