"""Parents' configs side by side: what changes the meaning of weights refuses, the rest is noted.

Two models whose tensors have one shape may still read them in different ways: another base of the
rotary embedding, another activation, labels in another order. Their average would load, and mean
nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stockpot.checkpoints import Checkpoint
from stockpot.errors import CheckpointError
from stockpot.files import file_digest
from stockpot.merging.companions import code_files
from stockpot.reading import read_json, visible

_MEANING = re.compile(
    r"model_type|rope_\w+|\w*rope_theta|rotary_\w+|partial_rotary_factor|position_embedding_type|alibi|"
    r"\w*hidden_act|\w*activation\w*|act_fn|swiglu_limit|is_decoder|add_cross_attention|"
    r"((num|n)_)?(attention_|decoder_|encoder_|key_value_|query_)*(attention_)?heads?|num_kv_heads|"
    r"head_dim|(\w+_)?eps(ilon)?|layer_types|\w*sliding_window\w*|parallel_attn|"
    r"use_parallel_residual|(attention|embedding|residual|logits?)_(multiplier|scaling|scale)|"
    r"scale_embedding|scale_attn_\w+|query_pre_attn_scalar|\w*_softcapping|normalize_before|"
    r"num_experts_per_tok|norm_topk_prob|routed_scaling_factor|scoring_func|"
    r"word_embedding_dimension|prediction_type|"
    r"patch_size|tubelet_size|vision_feature_(layer|select_strategy)|pooling_mode\w*|"
    r"image_mean|image_std|do_normalize|do_rescale|rescale_factor|mean|std|"
    r"do_lower_case|strip_accents|normalizer|pre_tokenizer|merges"
)
"""Keys that say how weights are read, or what inputs they were trained on."""

_UNIMPORTANT = re.compile(
    r"_\w+|name_or_path|processor_class|transformers_version|(torch_)?dtype|architectures|use_cache|\w*dropout\w*|"
    r"\w*_pdrop|initializer_\w+|gradient_checkpointing|output_\w+|return_dict|quantization_config|"
    r"compression_config|id2label|label2id|label_names|finetuning_task|problem_type|\w+_class|"
    r"model_max_length|\w*layerdrop|drop_path_rate|hf_hub_id|tag|url|file|custom_load|auto_map|"
    r"added_tokens_decoder|extra_special_tokens"
)
"""Keys that change no output of a model that is used as it is."""

_ROPE = 10000.0
"""Base of rotary embeddings where a config names none (Su et al. 2021, arXiv 2104.09864)."""

_HEAD = re.compile(r"(^|\.)(classifier|score|head|fc|logits|out_proj)(\.|$)")
_MOST = 90  # characters of a value in a message


@dataclass(frozen=True)
class Comparison:
    """How parents differ: in what their weights mean, and in the rest, a sentence each."""

    meaning: tuple[str, ...]
    rest: tuple[str, ...]

    def refuse(self) -> None:
        """Raise ``CheckpointError`` where weights mean different things."""
        if self.meaning:
            more = f" (and {len(self.meaning) - 1} more)" if len(self.meaning) > 1 else ""
            raise CheckpointError(
                f"the models' weights mean different things: {self.meaning[0]}{more}",
                hint="choose models that agree; --force (force=True) merges them all the same",
            )


def compare_configs(models: Sequence[Checkpoint], base: Checkpoint | None) -> Comparison:
    """What the parents' configs, image processors and tokenizers say differently.

    Labels are compared among the models alone: a base may have another head, or none. Parents
    without a folder say nothing. Raises ``CheckpointError`` for a config that cannot be read.
    """
    meaning: list[str] = []
    rest: list[str] = []
    parents = [source for source in (*models, base) if source is not None and source.home]
    for other in parents[1:]:
        first = parents[0]
        if other.home == first.home:
            continue
        mine, theirs = _said(first, other)
        for key in (*mine, *(key for key in theirs if key not in mine)):
            a, b = mine.get(key), theirs.get(key)
            if a is None or b is None:
                a, b = _default(key, a, b), _default(key, b, a)
            if a == b:
                continue
            text = f"{key} is {_shown(a)} in {first.label} and {_shown(b)} in {other.label}"
            parts = re.split(r"[.: ]+", key)
            known = any(_MEANING.fullmatch(part) for part in parts)
            (meaning if known and a is not None and b is not None else rest).append(text)
        labels = None if other is base else _label_difference(first, other)
        if labels:
            meaning.append(labels)
    rest += _code(parents)
    return Comparison(tuple(dict.fromkeys(meaning)), tuple(dict.fromkeys(rest)))


def _code(parents: Sequence[Checkpoint]) -> Iterator[str]:
    """That code of the parents' own is kept, and how it differs."""
    own = [{f.name: f for f in code_files(source.home)} for source in parents if source.home]
    names = sorted({name for files in own for name in files})
    if names:
        yield f"code that config.json names (auto_map) is copied and not run: {', '.join(names)}"
    for name in names:
        if len({file_digest(files[name]) if name in files else "" for files in own}) > 1:
            yield f"{name} is not the same in {' and '.join(source.label for source in parents)}"


def _default(key: str, value: Any, other: Any) -> Any:
    """What is meant where a config says nothing and another one does."""
    silent = {"rope_theta": _ROPE, "rope_type": "default"}
    last = key.rpartition(".")[2]
    return silent.get(last) if value is None and other is not None else value


def _said(*sources: Checkpoint) -> list[dict[str, Any]]:
    """Everything that the models' folders say and that could matter, flat."""
    said = []
    homes = [source.home for source in sources if source.home is not None]
    tokenizers = [home / "tokenizer.json" for home in homes]
    differ = all(path.is_file() for path in tokenizers)
    differ = differ and len({file_digest(path) for path in tokenizers}) > 1
    for home, tokenizer in zip(homes, tokenizers, strict=True):
        own = dict(_flat(_with_one_rope(_json(home / "config.json"))))
        for config in sorted(home.glob("*/config.json")):
            content = _flat(_with_one_rope(_json(config)))
            own |= {f"{config.parent.name}/config.json: {k}": value for k, value in content}
        for file in ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
            own |= {f"{file}: {key}": value for key, value in _flat(_json(home / file))}
        if differ:
            own |= {f"tokenizer.json: {k}": v for k, v in _tokenizer_parts(tokenizer).items()}
        said.append(own)
    return said


def _tokenizer_parts(path: Path) -> dict[str, Any]:
    """How a tokenizer cuts a text; which numbers its tokens have is looked at elsewhere."""
    content = _json(path)
    model = content.get("model") or {}
    merges = [" ".join(m) if isinstance(m, list) else m for m in model.get("merges") or ()]
    parts = {key: content.get(key) or {} for key in ("normalizer", "pre_tokenizer")}
    return {**parts, "merges": merges}


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if _UNIMPORTANT.fullmatch(key) and not _MEANING.fullmatch(key):
            continue
        if isinstance(item, Mapping):
            yield from _flat(item, f"{before}{key}.")
        elif item is not None:
            yield f"{before}{key}", item


def _with_one_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with ``rope_parameters`` as transformers 5 writes them, whoever wrote it."""
    content = {
        key: _with_one_rope(part)
        if isinstance(part, Mapping) and key != "rope_parameters"
        else part
        for key, part in config.items()
    }
    scaling = content.pop("rope_scaling", None)
    theta = content.pop("rope_theta", None)
    if scaling is None and theta is None:
        return content
    rope = {k: v for k, v in (scaling or {}).items() if k != "type"}
    rope["rope_type"] = rope.get("rope_type", (scaling or {}).get("type", "default"))
    if theta is not None:
        rope.setdefault("rope_theta", theta)
    return {**content, "rope_parameters": {**rope, **content.get("rope_parameters", {})}}


def _label_difference(first: Checkpoint, other: Checkpoint) -> str | None:
    """How the labels of two heads differ; None where one has none, or only numbered ones."""
    mine, theirs = _labels(first), _labels(other)
    if mine is None or theirs is None or mine == theirs or len(mine) != len(theirs):
        return None
    at = next(i for i, pair in enumerate(zip(mine, theirs, strict=True)) if pair[0] != pair[1])
    order = "labels in another order" if set(mine) == set(theirs) else "other labels"
    return (
        f"{other.label} has {order}: row {at} of its head is {theirs[at]!r}, in {first.label} "
        f"{mine[at]!r}"
    )


def _labels(source: Checkpoint) -> list[str] | None:
    assert source.home is not None
    config = _json(source.home / "config.json")
    table = config.get("id2label")
    names = config.get("label_names") or (config.get("pretrained_cfg") or {}).get("label_names")
    if isinstance(table, Mapping) and table:
        try:
            names = [table[key] for key in sorted(table, key=int)]
        except ValueError:
            return None
    if not isinstance(names, list) or all(re.fullmatch(r"LABEL_\d+", str(n)) for n in names):
        return None
    heads = (i for name, i in source.tensors.items() if _HEAD.search(name) and i.shape)
    return [str(n) for n in names] if any(i.shape[0] == len(names) for i in heads) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path, "a model's config", error=CheckpointError)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return value if isinstance(value, dict) else {}


def _shown(value: Any) -> str:
    return "not said" if value is None else visible(json.dumps(value), _MOST)
