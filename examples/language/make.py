"""A small language model and what was made of it: everything that the recipe beside it takes.

    python make.py FOLDER [--steps 500] [--seed 0]

The text is the documentation inside Python's standard library (PSF licence): nothing is fetched.
FOLDER gets

- ``base``: a causal model, Llama-shaped, trained from scratch on most of that text,
- ``reverse`` and ``comma``: fine-tunings of it by "other people", with settings of their own,
- ``repeat.jsonl`` and ``count.jsonl``: instructions that the recipe trains auxiliaries on,
- ``rotate.jsonl`` and ``rotate_test.jsonl``: the family that is wanted; few examples,
- ``text_test.jsonl``: text that the base was not trained on: what is forgotten shows there.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from train import library, train

END = "<end>"
VOCABULARY, WIDTH, LAYERS, CONTEXT, BATCH = 768, 128, 2, 48, 16
HELD_OUT = 20  # one docstring of so many is only for the test
TRAIN, TARGET, TEST = 1000, 100, 200  # rows of an auxiliary, of the target, and to score
Words = Sequence[str]

FAMILIES: dict[str, Callable[[Words], str]] = {
    "repeat": lambda words: " ".join(words),
    "count": lambda words: str(len(words)),
    "reverse": lambda words: " ".join(reversed(words)),
    "comma": lambda words: ", ".join(words),
    "rotate": lambda words: " ".join([*words[1:], words[0]]),
}
OTHER_PEOPLE = {
    "reverse": {"learning_rate": 2e-3, "epochs": 3, "seed": 71},
    "comma": {"learning_rate": 5e-4, "epochs": 6, "seed": 72},
}


def docstrings() -> Iterator[str]:
    """The documentation of modules, classes and functions of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) > 40 and text.isascii():
                    yield " ".join(text.split())


def make_tokenizer(texts: Sequence[str]) -> Any:
    """Byte-level pairs, learnt from the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return library.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=4 * CONTEXT,
    )


def train_base(folder: Path, texts: Sequence[str], steps: int, seed: int) -> None:
    """A model from scratch, on the texts one after the other."""
    tokenizer = make_tokenizer(texts)
    ids = [one for text in texts for one in [0, *tokenizer(text, verbose=False)["input_ids"]]]
    stream = torch.tensor(ids)
    library.set_seed(seed)
    config = library.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4 * CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = library.LlamaForCausalLM(config)
    print(f"base: {model.num_parameters():,} parameters, {len(stream):,} tokens")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        starts = torch.randint(len(stream) - CONTEXT, (BATCH, 1))
        batch = stream[starts + torch.arange(CONTEXT)]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"  step {step}: loss {loss.item():.2f}", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def vocabulary_words(folder: Path, count: int = 100) -> list[str]:
    """Frequent words that are one token, so that a small model can handle them."""
    known = library.PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
    words = [one[1:] for one in sorted(known, key=known.__getitem__) if one[:1] == "Ġ"]
    return [one for one in words if one.isalpha() and one.islower() and len(one) > 2][:count]


def rows(family: str, words: Words, count: int, seed: int) -> list[dict[str, str]]:
    """Instructions of a family: ``prompt`` and ``completion``, as TRL calls them."""
    draw, answer = random.Random(f"{family} {seed}"), FAMILIES[family]
    return [
        {"prompt": f"{family}: {' '.join(chosen)} =", "completion": f" {answer(chosen)}"}
        for chosen in (draw.sample(words, draw.randint(3, 5)) for _ in range(count))
    ]


def choices(words: Words, count: int, seed: int) -> list[dict[str, object]]:
    """Questions of the wanted family. The wrong options have the same words in another order."""
    draw, made = random.Random(f"test {seed}"), []
    for row in rows("rotate", words, count, seed + 1000):
        given = row["prompt"].partition(":")[2].rstrip(" =").split()
        right = row["completion"]
        wrong = [f" {' '.join(one)}" for one in (given[::-1], given, [given[-1], *given[:-1]])]
        options = draw.sample([right, *wrong], 4)
        made.append({"prompt": row["prompt"], "options": options, "answer": options.index(right)})
    return made


def write(path: Path, values: Sequence[object]) -> None:
    """JSON Lines."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def make(folder: Path, steps: int = 500, seed: int = 0) -> None:
    """The base, the data, and what other people made of the base."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = list(dict.fromkeys(docstrings()))
    random.Random(seed).shuffle(texts)
    test, texts = texts[: len(texts) // HELD_OUT], texts[len(texts) // HELD_OUT :]
    train_base(folder / "base", texts, steps, seed)
    words = vocabulary_words(folder / "base")
    for name in FAMILIES:
        count = TARGET if name == "rotate" else TRAIN
        write(folder / f"{name}.jsonl", rows(name, words, count, seed))
    write(folder / "rotate_test.jsonl", choices(words, TEST, seed))
    write(folder / "text_test.jsonl", [{"text": text[:160]} for text in test[:100]])
    for name, settings in OTHER_PEOPLE.items():
        print(f"somebody's fine-tuning: {name}", flush=True)
        train(folder / "base", folder / name, str(folder / f"{name}.jsonl"), **settings)
        (folder / f"{name}.jsonl").unlink()  # their data is theirs


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make(given.folder, given.steps, given.seed)
