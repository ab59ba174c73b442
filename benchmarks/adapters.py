"""Adapters merged here against PEFT's own: the outputs of the model, for each feature.

    python benchmarks/adapters.py            # the table of docs/results/adapters.md

Tiny random models of transformers, one adapter of random values for each case. ``live`` is PEFT
with the adapter beside the base, which is what was trained; ``merged`` is its ``merge_and_unload``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import nn

from adapter_cases import Case, cases, peft
from stockpot.errors import StockpotError
from stockpot.merging import merge

PAGE = Path(__file__).parents[1] / "docs/results/adapters.md"
ROOM = 1e-5
"""Largest difference of an output that float32 explains."""


@dataclass(frozen=True)
class Row:
    """What a case gave: the largest difference of an output, or the refusal.

    A difference is a share of the largest output, where that is more than one.

    ``effect`` is what the adapter itself changes, without which a small difference says nothing.
    """

    case: Case
    live: float | None = None
    merged: float | None = None
    effect: float | None = None
    refusal: str | None = None

    @property
    def verdict(self) -> str:
        if self.case.refused is not None:
            return "refused" if self.case.refused in (self.refusal or "") else "WRONG"
        seen = self.effect is not None and self.effect > 10 * ROOM
        return "same" if seen and self.live is not None and self.live <= ROOM else "WRONG"


def train(model: nn.Module) -> None:
    """Random changes of everything that is trainable, as a training would leave it."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn_like(parameter))


def run(case: Case, folder: Path) -> Row:
    """Save base and adapter, merge by both, compare."""
    base, adapter, output = folder / "base", folder / "adapter", folder / "merged"
    family = case.family
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        family.build().save_pretrained(base)
        model = family.load(base)
        if case.prepare is not None:
            case.prepare(model)
        wrapped = peft.get_peft_model(model, case.config())
        train(wrapped)
        wrapped.eval().save_pretrained(adapter, **case.save)
        live = None if case.refused is not None else family.ask(wrapped)
        name_base(adapter, base)
        try:
            merge([adapter], output=output)
        except StockpotError as error:
            return Row(case, refusal=str(error))
        if live is None:
            return Row(case, refusal="merged without a word")
        ours = family.ask(family.load(output))
        loaded = family.load(base)
        if case.prepare is not None:
            case.prepare(loaded)
        theirs = peft.PeftModel.from_pretrained(loaded, adapter).eval()
        reloaded = family.ask(theirs)
        effect = _gap(family.ask(family.load(base)), ours)
        merged = family.ask(theirs.merge_and_unload())
    assert torch.allclose(reloaded, live, atol=1e-4), "the adapter does not survive PEFT itself"
    return Row(case, _gap(ours, reloaded), _gap(ours, merged), effect)


def name_base(adapter: Path, base: Path) -> None:
    """Let the adapter's config name its base."""
    path = adapter / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "base_model_name_or_path": str(base)}))


def _gap(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    width = min(ours.shape[-1], theirs.shape[-1])  # of vocabularies, before and after new tokens
    ours, theirs = ours[..., :width], theirs[..., :width]
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="part of a case's name")
    parser.add_argument("--write", action="store_true", help="write docs/results/adapters.md")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows = []
    for case in cases():
        if options.only and options.only not in case.name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = run(case, Path(folder))
            except Exception as error:
                if not options.only:
                    print(f"{case.name}: {type(error).__name__}: {error}")
                    continue
                raise
        rows.append(row)
        gaps = [f"{gap:.1e}" for gap in (row.live, row.merged, row.effect) if gap is not None]
        print(row.verdict, case.name, *gaps, row.refusal or "", sep=" | ", flush=True)
    counts = Counter(row.verdict for row in rows)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    if options.write:
        PAGE.write_text(page(rows, counts))


def page(rows: list[Row], counts: Counter[str]) -> str:
    """docs/results/adapters.md."""
    lines = [
        "# Adapters against PEFT",
        "",
        f"`python benchmarks/adapters.py --write`, PEFT {peft.__version__}, transformers "
        f"{transformers.__version__}: {counts['same']} cases the same, {counts['refused']} refused "
        f"by name, {counts['WRONG']} wrong. Tiny random models; *effect* is the largest change of "
        "an output by the adapter, *live* the largest difference between the model merged here and "
        "PEFT with the adapter beside the base, *merged* the same against PEFT's "
        f"`merge_and_unload`. All are shares of the largest output where that exceeds 1; up to "
        f"{ROOM:g} is the same.",
        "",
        "| feature | model | effect | live | merged | |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = [
            "" if value is None else f"{value:.1e}" for value in (row.effect, row.live, row.merged)
        ]
        said = (row.refusal or "").rpartition("/")[2].removeprefix("adapter_config.json: ")
        note = f"refused: {said}" if row.refusal else row.case.note
        model = row.case.family.loader
        lines.append(f"| {row.case.name} | {model} | {' | '.join(numbers)} | {note} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
