"""Tiny bases and data, and the recipes that make a model folder of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.backbones.networks import masked_folder, text_folder, vit_folder, write_tokenizer

DOMAINS = ("north", "east", "south")
ODD = ("no: 1", 'y"es, ümläut')
SEVEN = tuple(f"class {letter}/{number}" for number, letter in enumerate("gfedcba"))
SIZE = 32


def text_recipe(folder: Path, kind: str, classes: tuple[str, ...] = ODD) -> dict[str, Any]:
    """Texts whose label shows in one word; no classes: numbers to be predicted."""
    base(folder / "base", kind)
    rng = np.random.default_rng(0)
    signs = ("good", "bad", "film", "food", "a", "b", "c")
    with (folder / "texts.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(("text", "label", "domain"))
        for domain in DOMAINS:
            for row in range(35):
                label = row % max(2, len(classes))
                noise = rng.choice(list("def"), size=int(rng.integers(1, 9)))
                words = rng.permutation([signs[label], *noise]).tolist()
                value = classes[label] if classes else f"{2 * label - 1 + rng.normal() / 4:.3f}"
                writer.writerow((" ".join(words), value, domain))
    target = "classification" if classes else "regression"
    return recipe(
        {"kind": "text", "path": "texts.csv", "target": target},
        {"kind": "transformers", "name": "base", "max_length": 8},
    )


def image_recipe(folder: Path, kind: str, **backbone: Any) -> dict[str, Any]:
    """Images that are bright at the top or on the left, stored at ``SIZE`` pixels."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for tint, domain in enumerate(DOMAINS):
        for name in ("left side", "top"):
            place = folder / "images" / domain / name
            place.mkdir(parents=True)
            for index in range(12):
                pixels = rng.integers(0, 90, (SIZE, SIZE, 3))
                part = pixels[:, : SIZE // 2] if name != "top" else pixels[: SIZE // 2]
                part[..., tint] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    spec: dict[str, Any] = {"kind": "transformers", "name": "base"}
    if kind == "timm":
        spec = timm_base(folder)
    else:
        base(folder / "base", kind)
    return recipe({"kind": "images", "path": "images", "size": SIZE}, {**spec, **backbone})


def recipe(task: dict[str, Any], backbone: dict[str, Any]) -> dict[str, Any]:
    """A recipe that takes a second or two."""
    return {
        "title": "Tiny",
        "task": task,
        "held_out": ["south"],
        "backbone": backbone,
        "training": {
            "steps": 6,
            "batch_size": 8,
            "learning_rate": 0.0003,
            "weight_decay": 0.0,
            "dropout": 0.0,
            "evaluate_every": 3,
            "augmentation": False,
        },
        "protocols": ["erm", "soup_uniform"],
        "final": {"protocol": "soup_uniform"},
        "runs": 2,
        "connectivity": {"points": 3, "examples": 20},
        "resamples": 100,
    }


def base(folder: Path, kind: str) -> Path:
    """A transformers folder with a tiny random network."""
    if kind.startswith("masked-"):
        masked = kind.removeprefix("masked-")
        return masked_folder(folder, masked, layers=2, width=16, spread=0.3)
    if kind in ("bert", "roberta", "mpnet", "distilbert"):
        return text_folder(folder, kind, layers=2, width=16, spread=0.3)
    if kind == "vit":
        return vit_folder(folder, image_size=SIZE)
    import transformers

    from stockpot.compat import ensure_torchvision

    ensure_torchvision(quiet=True)
    text = {
        "vocab_size": 15,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "max_position_embeddings": 20,
    }
    configs = {
        "resnet": lambda: transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        ),
        "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1] * 4),
        "swin": lambda: transformers.SwinConfig(
            embed_dim=8, depths=[1, 1], num_heads=[2, 2], image_size=32, window_size=4
        ),
        "dinov2": lambda: transformers.Dinov2Config(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
        ),
        "electra": lambda: transformers.ElectraConfig(**text, embedding_size=16),
        "deberta": lambda: transformers.DebertaV2Config(**text, pooler_hidden_size=16),
        "albert": lambda: transformers.AlbertConfig(**text, embedding_size=16),
        "camembert": lambda: transformers.CamembertConfig(**text, pad_token_id=0),
        "modernbert": lambda: transformers.ModernBertConfig(
            **text, pad_token_id=0, bos_token_id=2, cls_token_id=2, eos_token_id=3, sep_token_id=3
        ),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.AutoModel.from_config(configs[kind]())
    folder.mkdir(parents=True)
    network.save_pretrained(folder)
    if network.main_input_name == "input_ids":
        write_tokenizer(folder)
    return folder


def timm_base(folder: Path) -> dict[str, Any]:
    """timm's smallest network, whose own configuration says 160 pixels; weights in a file."""
    from stockpot.checkpoints.torch_io import save_state
    from stockpot.compat import ensure_torchvision

    ensure_torchvision(quiet=True)
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    save_state(folder / "timm.safetensors", network.state_dict())
    return {
        "kind": "timm",
        "name": "test_resnet",
        "weights": "timm.safetensors",
        "options": {"pretrained": False},
    }
