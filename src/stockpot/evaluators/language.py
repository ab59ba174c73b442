"""Evaluators of causal language models on JSON Lines: likelihood of texts, and multiple choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stockpot.backbones.sources import quiet_library
from stockpot.checkpoints import Checkpoint
from stockpot.compat import import_transformers
from stockpot.errors import EvaluationError, InputError
from stockpot.evaluators.contract import LOSS, Evaluator, Rows, Scores, changing, checked
from stockpot.evaluators.function import load_in_place
from stockpot.files import digest, file_digest
from stockpot.reading import parse_json, read_text

Kind = Literal["perplexity", "choices"]
_MOST = 1_000_000_000  # bytes of a file of rows


class CausalEvaluator(Evaluator):
    """What scores causal models of transformers: one is loaded, later weights are put into it."""

    def __init__(self) -> None:
        self.tokenizer: Any = None
        self.model: Any = None
        self._series: object = None

    def prepare(self, model: Checkpoint) -> None:
        """Load model and tokenizer of the folder. Raises ``InputError`` where it is none."""
        if model.home is None:
            raise InputError(f"{model.label} lies in no folder with config and tokenizer")
        try:
            with quiet_library("transformers"):
                library = import_transformers()
                self.tokenizer = library.AutoTokenizer.from_pretrained(model.home)
                self.model = library.AutoModelForCausalLM.from_pretrained(model.home)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{model.home} holds no causal language model: {reason}") from error
        self.model.eval()

    def load(self, model: Checkpoint) -> None:
        """Put weights into the module."""
        if self.model is None:
            self.prepare(model)
        load_in_place(self.model, model, changing(model, self._series))
        self._series = getattr(model, "series", None)


class LanguageEvaluator(CausalEvaluator):
    """A causal model of transformers on the rows of a JSON Lines file.

    ``perplexity``: rows ``{"text": ...}``; a row's score is its mean negative log-likelihood a
    token, in nats, lower is better (the exponential of the mean is the perplexity).
    ``by_byte``: that of the whole text, after the mark that begins one, in nats a byte of UTF-8, so
    that models with different tokenizers can be compared.
    ``choices``: rows ``{"prompt": ..., "options": [...], "answer": 0}``; 1 where the right option
    has the largest mean log-likelihood a token after the prompt, else 0.

    Raises ``InputError`` naming the line that is no such row.
    """

    takes_rows = True

    def __init__(self, path: Path, kind: Kind, *, by_byte: bool = False) -> None:
        super().__init__()
        self.label = f"{kind}{' a byte' if by_byte else ''} on {path.name}"
        self._by_byte = by_byte
        self.metric = LOSS if kind == "perplexity" else "accuracy"
        self._kind: Kind = kind
        self._rows = [_row(line, n, path, kind) for n, line in _lines(path)]
        if not self._rows:
            raise InputError(f"{path} holds no rows")
        self.size = len(self._rows)
        self.identity = digest([kind, file_digest(path), *(["byte"] if by_byte else [])])

    def evaluate(self, model: Checkpoint, rows: Rows | None = None) -> Scores | float:
        """Scores of the rows, one after the other."""
        self.load(model)
        chosen = range(len(self._rows)) if rows is None else rows
        return checked([self._score(self._rows[row]) for row in chosen], self.metric, len(chosen))

    def _score(self, row: dict[str, Any]) -> float:
        if self._kind == "perplexity":
            text = row["text"]
            return -self._by_bytes(text) if self._by_byte else -self._likelihood("", text)
        found = [self._likelihood(row["prompt"], option) for option in row["options"]]
        if not np.isfinite(found).all():
            raise EvaluationError(f"a log-likelihood is {min(found)}")
        return float(int(np.argmax(found)) == row["answer"])

    def _by_bytes(self, text: str) -> float:
        """Log-likelihood of a text after the mark that begins one, in nats a byte."""
        import torch

        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        marks = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        mark = next((one for one in marks if one is not None), None)
        longest = getattr(self.model.config, "max_position_embeddings", ids.shape[1])
        if mark is None or not text or ids.shape[1] > longest:
            why = "no mark that begins a text" if mark is None else f"no place for '{text[:40]}'"
            raise EvaluationError(f"likelihood a byte: the model has {why}")
        whole = torch.cat([torch.full((1, 1), mark, dtype=ids.dtype), ids], 1)
        return float(self._tokens(whole).sum()) / len(text.encode())

    def _likelihood(self, prompt: str, text: str) -> float:
        """Mean log-likelihood of the tokens of ``text`` after ``prompt``, in nats."""
        whole = self.tokenizer(prompt + text, return_tensors="pt", truncation=True)["input_ids"]
        before = max(_shared(self.tokenizer(prompt)["input_ids"], whole[0].tolist()), 1)
        if whole.shape[1] <= before:
            raise EvaluationError(f"no token of a text is left to be scored: '{text[:40]}'")
        return float(self._tokens(whole)[before - 1 :].mean())

    def _tokens(self, whole: Any) -> Any:
        """Log-likelihood (T - 1,) of every token of (1, T) after those before it."""
        import torch

        with torch.no_grad():
            logits = self.model(input_ids=whole[:, :-1]).logits[0].float()
        return torch.log_softmax(logits, -1).gather(1, whole[0, 1:, None])[:, 0]


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts begin with alike: a tokenizer may join a prompt's last with what
    follows, and may put a mark at the end of both."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _lines(path: Path) -> Sequence[tuple[int, str]]:
    try:
        text = read_text(path, limit=_MOST)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]


def _row(line: str, number: int, path: Path, kind: Kind) -> dict[str, Any]:
    try:
        row = parse_json(line)
        if kind == "perplexity":
            good = isinstance(row["text"], str)
        else:
            texts, answer = [row["prompt"], *row["options"]], row["answer"]
            good = all(isinstance(text, str) for text in texts) and type(answer) is int
            good = good and isinstance(row["options"], list) and 0 <= answer < len(row["options"])
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        expected = "'text'" if kind == "perplexity" else "'prompt', 'options' and 'answer'"
        raise InputError(f"{path}:{number}: no row with {expected}")
    return dict(row)
