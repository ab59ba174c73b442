"""What stands beside merged weights: config, vocabulary and chat template that fit them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stockpot.files import write_json
from stockpot.merging.mergekit.layout import ForeignLayout
from stockpot.merging.mergekit.tokens import FILES, with_vocabulary_size
from stockpot.reading import read_json, read_text

_DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "depth")
_SIDES = {
    "encoder": ("encoder_layers", "num_encoder_layers"),
    "decoder": ("decoder_layers", "num_decoder_layers"),
}
_PARTS = {
    "vision_config": ("vision", "visual"),
    "audio_config": ("audio",),
    "text_config": ("language", "text"),
    "encoder": ("encoder",),
    "decoder": ("decoder",),
}
"""Parts of nested configs, by words in the names of their tensors."""
_SETTINGS = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
    "message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def complete_output(folder: Path, layout: ForeignLayout) -> None:
    """Rewrite what was copied from a parent where the merge has changed it."""
    config = folder / "config.json"
    if config.is_file():
        content = read_json(config, "a model's config")
        changed = with_depth(content, layout)
        if layout.vocabulary is not None:
            changed = with_vocabulary_size(changed, layout.vocabulary.rows)
        if changed != content:
            write_json(config, changed)
    if layout.vocabulary is not None:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        layout.vocabulary.tokenizer.save_pretrained(folder)
    template = chat_template(layout)
    if template is not None:
        write_template(folder, template)


def chat_template(layout: ForeignLayout) -> str | None:
    """The template that the document asks for: a text, or the one that most models have."""
    wanted = layout.document.chat_template
    if wanted is None or wanted == "chatml":
        return None if wanted is None else CHATML
    if wanted != "auto":
        return wanted
    found = Counter(
        text
        for source in layout.sources.values()
        if source.home is not None and (text := own_template(source.home)) is not None
    )
    return found.most_common(1)[0][0] if found else None


def own_template(home: Path) -> str | None:
    """The chat template of a model folder; of several the one called "default"."""
    if (home / _TEMPLATE).is_file():
        return read_text(home / _TEMPLATE).strip()
    if not (home / _SETTINGS).is_file():
        return None
    template = read_json(home / _SETTINGS, "a tokenizer's settings").get("chat_template")
    if isinstance(template, list):
        by_name = {item.get("name"): item.get("template") for item in template}
        template = by_name.get("default")
    return template.strip() if isinstance(template, str) else None


def write_template(folder: Path, template: str) -> None:
    """Make ``template`` the only chat template of a folder."""
    (folder / _TEMPLATE).write_text(template, encoding="utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)
    settings = folder / _SETTINGS
    if settings.is_file():
        content = read_json(settings, "a tokenizer's settings")
        if content.pop("chat_template", None) is not None:
            write_json(settings, content)


def with_depth(config: dict[str, Any], layout: ForeignLayout) -> dict[str, Any]:
    """``config`` with the number of layers that the result has, lists of layers included."""
    if all(module.whole for module in layout.document.modules):
        return config
    donor = layout.names[layout.document.donor]
    for stack, origin in layout.depths.items():
        config = with_layers(config, stack, origin, donor.depth(stack))
    return config


def with_layers(
    config: dict[str, Any], stack: str, origin: Sequence[int], depth: int
) -> dict[str, Any]:
    """``config`` where the layers whose names begin with ``stack`` are now those in ``origin``.

    ``depth``: how many there were; only keys that say so are changed, in the part of a nested
    config that the stack's name speaks of, on the side of an encoder-decoder that it speaks of.
    """
    words = re.split(r"[._]", stack)
    for key, names in _PARTS.items():
        spoken = words[:1] if key in names else words  # of an encoder-decoder the first word counts
        if isinstance(config.get(key), dict) and any(name in spoken for name in names):
            return {**config, key: with_layers(config[key], stack, origin, depth)}
    sided = {side: keys for side, keys in _SIDES.items() if side in words}
    own = [key for side in ("decoder", "encoder") for key in sided.get(side, ())]
    keys = [key for key in own if config.get(key) == depth]
    if "decoder" not in words or not keys:
        keys += [key for key in _DEPTHS if config.get(key) == depth]
    lists = {
        name: [value[layer] for layer in origin]
        for name, value in config.items()
        if isinstance(value, list) and len(value) == depth and max(origin, default=0) < depth
    }
    return {**config, **(lists if keys else {}), **dict.fromkeys(keys, len(origin))}
