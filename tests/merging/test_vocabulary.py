"""Embeddings are averaged only where their rows mean the same tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stockpot.checkpoints import write_checkpoint
from stockpot.errors import CheckpointError
from stockpot.merging import merge

TOKENS = ["[PAD]", "a", "b", "c"]


def folder(path, rows, value, tokens=TOKENS, kind="tokenizer.json"):
    path.mkdir()
    write_checkpoint(
        path / "model.safetensors",
        {
            "model.embed_tokens.weight": np.full((rows, 2), value, np.float32),
            "w": np.full(3, value, np.float32),
        },
    )
    (path / "config.json").write_text("{}")
    table = {token: number for number, token in enumerate(tokens)}
    if kind == "vocab.txt":
        (path / kind).write_text("\n".join(tokens))
    elif kind == "vocab.json":
        (path / kind).write_text(json.dumps(table))
    elif kind == "unigram":
        vocabulary = {"model": {"vocab": [[token, -1.0] for token in tokens]}}
        (path / "tokenizer.json").write_text(json.dumps(vocabulary))
    else:
        extra = table.pop(tokens[-1])
        added = [{"content": tokens[-1], "id": extra}]
        (path / kind).write_text(json.dumps({"model": {"vocab": table}, "added_tokens": added}))
    return path


@pytest.mark.parametrize("kind", ["vocab.txt", "vocab.json", "unigram", "tokenizer.json"])
def test_equal_tokens_in_different_files(tmp_path, kind):
    merged = merge([folder(tmp_path / "a", 4, 1.0), folder(tmp_path / "b", 4, 3.0, kind=kind)])
    assert (merged.state["model.embed_tokens.weight"] == 2).all()


def test_padding_rows_are_brought_to_the_first_models_size(tmp_path):
    large, small = folder(tmp_path / "large", 8, 1.0), folder(tmp_path / "small", 4, 3.0)
    merged = merge([large, small])
    rows = merged.state["model.embed_tokens.weight"][:, 0].tolist()
    assert rows == [2, 2, 2, 2, 1, 1, 1, 1]
    assert any("brought to 8" in warning for warning in merged.report.warnings)
    assert len(merge([small, large]).state["model.embed_tokens.weight"]) == 4
    with_base = merge([large, large], method="task_arithmetic", base=small, scale=1.0)
    rows = with_base.state["model.embed_tokens.weight"][:, 0].tolist()
    assert rows == [-1, -1, -1, -1, 1, 1, 1, 1]


def test_other_tokens_are_refused_with_the_first_difference(tmp_path):
    a = folder(tmp_path / "a", 4, 1.0)
    moved = folder(tmp_path / "moved", 4, 1.0, tokens=["[PAD]", "b", "a", "c"])
    with pytest.raises(CheckpointError, match="token 'a' is number 1 and number 2"):
        merge([a, moved])
    more = folder(tmp_path / "more", 5, 1.0, tokens=[*TOKENS, "d"])
    with pytest.raises(CheckpointError, match="1 tokens are in one of them only"):
        merge([a, more])


def test_rows_of_unknown_meaning_are_not_padded(tmp_path):
    a, b = folder(tmp_path / "a", 4, 1.0), folder(tmp_path / "b", 5, 1.0)
    (b / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="embed_tokens"):
        merge([a, b])


def test_a_broken_tokenizer_is_named(tmp_path):
    a, b = folder(tmp_path / "a", 4, 1.0), folder(tmp_path / "b", 4, 1.0)
    (b / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(CheckpointError, match=r"vocabulary in .*tokenizer\.json"):
        merge([a, b])
