"""Does a mergekit file mean here what it means there? Every recipe, merged by both, compared.

    python -m venv oracle && oracle/bin/pip install mergekit==0.1.5 pytest
    git clone https://github.com/arcee-ai/mergekit
    python benchmarks/mergekit_parity.py mergekit --python oracle/bin/python

Recipes: mergekit's examples, those its tests make, and one for every key, method and parameter in
every form (``mergekit_recipes.py``). Models are tiny: eight architectures, float32 and bfloat16.
``--keep FOLDER`` keeps models and mergekit's results for the next time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from mergekit_recipes import examples, generated
from stockpot.checkpoints import Checkpoint, open_checkpoint
from stockpot.errors import StockpotError
from stockpot.merging.merge import run_merge
from stockpot.merging.mergekit.declaration import foreign_method, foreign_parameters
from stockpot.merging.methods import MERGEKIT
from stockpot.merging.recipe import load_recipe

WORKER = Path(__file__).with_name("mergekit_worker.py")
PAGE = Path(__file__).parents[1] / "docs/results/mergekit_parity.md"
RANDOM = ("dare", "della")
TIED = ("ties", "breadcrumbs", "breadcrumbs_ties", "sce")
ROOM = {"F64": 1e-5, "F32": 1e-5, "F16": 4e-3, "BF16": 3.2e-2}
"""Largest difference that rounding explains, as a share of an entry and of the tensor's spread."""


@dataclass(frozen=True)
class Outcome:
    """What became of one recipe. ``fate``: same, noted, refused, both refuse or different."""

    name: str
    fate: str
    words: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a checkout of mergekit (examples, tests)")
    parser.add_argument("--python", required=True, help="the Python that has mergekit")
    parser.add_argument("--keep", type=Path, help="folder for models and results")
    parser.add_argument("--only", default="", help="recipes whose name holds this")
    parser.add_argument("--page", action="store_true", help=f"write {PAGE.name}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = (arguments.keep or Path(temporary)).absolute()
        prepare(home, arguments.source.absolute(), arguments.python)
        outcomes = [
            compare(recipe, home)
            for recipe in sorted((home / "recipes").glob("*.yml"))
            if arguments.only in recipe.stem
        ]
    for outcome in outcomes:
        if outcome.fate not in ("same", "noted"):
            print(f"{outcome.fate:12} {outcome.name:40} {outcome.words}")
    print(summary(outcomes))
    if arguments.page:
        PAGE.write_text(page(outcomes), encoding="utf-8")


def prepare(home: Path, source: Path, python: str) -> None:
    """Models, recipes and mergekit's results in ``home``, what is there already aside."""

    def worker(*words: str) -> None:
        subprocess.run([python, str(WORKER), *words], check=True, capture_output=True, text=True)

    if not (home / "models").is_dir():
        worker("models", str(home))
        worker("tests", str(home), str(source))
    parameters = {name: list(foreign_parameters(foreign_method(name))) for name in MERGEKIT}
    recipes = dict(examples(source, home / "models"))
    for name, recipe in generated(home / "models", parameters):
        several = recipe if isinstance(recipe, list) else [recipe]
        recipes[name] = yaml.safe_dump_all(several, sort_keys=False)
    for name, text in recipes.items():
        path = home / "recipes" / f"{name}.yml"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    worker("merge", str(home))


def compare(recipe: Path, home: Path) -> Outcome:
    """Merge one recipe and hold the result against mergekit's."""
    name = recipe.stem
    theirs = home / "mergekit" / name
    refusal = theirs.with_name(f"{name}.error")
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = run_merge(load_recipe(recipe), Path(folder) / "out")
        except StockpotError as error:
            text = " ".join(str(error).replace(str(home), "").split()).partition(".yml:")
            text = text[2].partition(": ")[2] or text[0]
            return Outcome(name, "both refuse" if refusal.exists() else "refused", text)
        if refusal.exists():
            words = " ".join(refusal.read_text(encoding="utf-8").split())[:160]
            return Outcome(name, "theirs fails", words)
        method = report.method.partition(":")[2]
        with open_checkpoint(theirs) as expected, open_checkpoint(Path(folder) / "out") as found:
            order = token_order(theirs, Path(folder) / "out")
            words, noted = difference(expected, found, method, order)
        words = words or other_files(theirs, Path(folder) / "out")
    if words:
        return Outcome(name, "DIFFERENT", words)
    return Outcome(name, "noted" if noted else "same", noted)


def token_order(expected: Path, found: Path) -> list[int]:
    """For each row of mergekit's embeddings our row of the same token; empty: the same rows.

    Of tokens that are new to the base mergekit's order changes from run to run.
    """
    numbers = []
    for folder in (found, expected):
        if not (folder / "tokenizer.json").is_file():
            return []
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        added = {item["content"]: item["id"] for item in content["added_tokens"]}
        numbers.append({**content["model"]["vocab"], **added})
    ours, theirs = numbers
    if ours == theirs or ours.keys() != theirs.keys():
        return []
    return [ours[token] for token in sorted(theirs, key=lambda token: theirs[token])]


def difference(
    expected: Checkpoint, found: Checkpoint, method: str, order: list[int]
) -> tuple[str, str]:
    """(what differs beyond what rounding and notes explain, what a note explains), in words.

    Tensors that only we write (mergekit leaves out the embeddings of some models) are no matter.
    """
    own = {in_memory(name) if name not in expected else name: name for name in found.names}
    missing = [name for name in expected.names if name not in own]
    if missing:
        return f"lacks {missing[:2]}", ""
    noted = ""
    for name in expected.names:
        info, other = expected.info(name), found.info(own[name])
        wider = info.dtype == "F32" and method in ("arcee_fusion", "ramplus_tl")
        if info.shape != other.shape or (info.dtype != other.dtype and not wider):
            return f"'{name}': {other.dtype} {other.shape} for {info.dtype} {info.shape}", ""
        x = np.asarray(expected.read(name), np.float64).ravel()
        y = np.asarray(found.read(own[name]), np.float64)
        if order and name.endswith(("lm_head.weight", "embed_tokens.weight")):
            y = y[[*order, *range(len(order), len(y))]]
        y = y.ravel()
        room = ROOM.get(other.dtype, 0.0)
        wrong = np.abs(x - y) > room * (np.abs(x) + np.abs(x).max(initial=0.0)) / 2
        if not wrong.any():
            continue
        count, place = int(wrong.sum()), int(np.argmax(wrong * np.abs(x - y)))
        words = f"'{name}': {count} of {x.size}, at {place} {y[place]:.6g} for {x[place]:.6g}"
        rounding = (
            other.dtype in ("F16", "BF16")
            and not (np.abs(x - y) > 8 * room * (np.abs(x) + np.abs(x).max()) / 2).any()
        )
        narrow = other.dtype in ("F16", "BF16") and method.startswith(RANDOM)
        if count > max(0.01 * x.size, 2) or not (rounding or narrow or method in TIED):
            return words, ""
        reason = (
            "rounding in 16 bits"
            if rounding
            else "a density rounded to 16 bits decides"
            if narrow
            else "entries of equal size at the limit"
        )
        noted = noted or f"{reason}: {words}"
    return "", noted


def in_memory(name: str) -> str:
    """The name that a tensor of LLaVA has in the class, where a file keeps an older one."""
    if name.startswith("language_model.lm_head"):
        return name.removeprefix("language_model.")
    if name.startswith("language_model.model."):
        return f"model.{name.replace('.model.', '.', 1)}"
    return f"model.{name}"


def other_files(expected: Path, found: Path) -> str:
    """How config, vocabulary and chat template differ, in words."""
    ours, theirs = (
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for folder in (found, expected)
    )
    for key in ("num_hidden_layers", "n_layer", "num_layers", "vocab_size"):
        if ours.get(key) != theirs.get(key):
            return f"config: {key} is {ours.get(key)}, mergekit's {theirs.get(key)}"
    return ""


FATES = ("same", "noted", "refused", "both refuse", "theirs fails", "DIFFERENT")
TITLES = ("same", "noted", "refused", "both refuse", "mergekit fails", "silently different")


def summary(outcomes: list[Outcome]) -> str:
    count = Counter(outcome.fate for outcome in outcomes)
    words = [f"{count[fate]} {title}" for fate, title in zip(FATES, TITLES, strict=True)]
    return f"{len(outcomes)} recipes: {', '.join(words)}"


def group(name: str) -> str:
    """Where a recipe comes from, in words."""
    if name.startswith(("example-", "test-")):
        return f"mergekit's {name.partition('-')[0]}s"
    method = name.partition("-")[0]
    return f"`{method}`" if method in MERGEKIT else "keys"


def page(outcomes: list[Outcome]) -> str:
    """The results as Markdown."""
    groups = ["mergekit's examples", "mergekit's tests", "keys", *(f"`{m}`" for m in MERGEKIT)]
    lines = [
        "# mergekit's recipes, merged by both",
        "",
        "<!-- Written by benchmarks/mergekit_parity.py --page. -->",
        "",
        "`python benchmarks/mergekit_parity.py MERGEKIT --python PYTHON_THAT_HAS_MERGEKIT --page`",
        "",
        "Every recipe is merged by mergekit 0.1.5 and by stockpot; tensors, shapes, types, number",
        "of layers and vocabulary are compared. Float32 entries may differ by 1e-5 of the mean of",
        "entry and largest entry, bfloat16 by 3%, float16 by 0.4%: mergekit calculates in these.",
        "",
        f"**{summary(outcomes)}.**",
        "",
        f"| recipes | number | {' | '.join(TITLES)} |",
        "|---" * (len(TITLES) + 2) + "|",
    ]
    for title in groups:
        own = [outcome for outcome in outcomes if group(outcome.name) == title]
        count = Counter(outcome.fate for outcome in own)
        cells = " | ".join(str(count[fate] or "") for fate in FATES)
        lines.append(f"| {title} | {len(own)} | {cells} |")
    lines += ["", "- *same*: the same numbers.", *(f"- {text}" for text in LEGEND), ""]
    for fate, title in zip(FATES[1:], TITLES[1:], strict=True):
        own = [outcome for outcome in outcomes if outcome.fate == fate]
        if own:
            lines += [f"## {title[0].upper()}{title[1:]}", "", "| recipe | |", "|---|---|"]
            lines += [f"| {o.name} | {o.words.replace('|', '/')} |" for o in own]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


LEGEND = (
    "*noted*: a few entries differ, as a note with the result says: entries of equal size at a "
    "limit, rounding in 16 bits.",
    "Random masks: mergekit draws them from stockpot's numbers here, so that they can be equal.",
    "*refused*: stockpot refuses, with the reason, before a byte is written.",
    "*both refuse*: so does mergekit.",
    "*mergekit fails*: stockpot merges what mergekit cannot.",
)


if __name__ == "__main__":
    main()
