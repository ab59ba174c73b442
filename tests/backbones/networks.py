"""Tiny networks and model folders, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, *"abcdef", "good", "bad", "film", "food")


class Block(nn.Module):
    """Residual block with BatchNorm: two values of one tensor meet in the addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, values: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(values)) + values)


class Cnn(nn.Module):
    """(N, 3, H, W) -> (N, 6), with names as a published network would have them."""

    feature_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.blocks = nn.ModuleList([Block(6) for _ in range(3)])
        self.last = nn.Conv2d(6, 6, 1)

    def forward(self, images: Tensor) -> Tensor:
        values = torch.relu(self.bn(self.stem(images)))
        for block in self.blocks:
            values = block(values)
        return self.last(values).mean((2, 3))


def cnn(seed: int = 0) -> nn.Module:
    """A ``Cnn`` with weights and BatchNorm statistics that are not trivial."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Cnn()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.running_mean, 0, 0.1)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
        return network


class TwoPaths(nn.Module):
    """Two tensors go into ``join``; one into ``last``."""

    feature_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.join = nn.Bilinear(4, 4, 4)
        self.last = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        left, right = self.left(images).mean((2, 3)), self.right(images).mean((2, 3))
        return self.last(self.join(left, right))


def two_paths() -> nn.Module:
    """See ``TwoPaths``."""
    return TwoPaths()


class Untraceable(nn.Module):
    """Its path depends on the data."""

    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        values = self.first(images)
        if values.sum() > 0:
            values = self.second(values)
        return values.mean((2, 3))


def untraceable() -> nn.Module:
    """See ``Untraceable``."""
    return Untraceable()


def not_a_module() -> int:
    """What a backbone function must not return."""
    return 3


def linear() -> nn.Module:
    """Arrays (N, 5) -> (N, 4) -> (N, 3)."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    layers.input_shape = (5,)  # type: ignore[assignment]
    return layers


def linear_with_buffers() -> nn.Module:
    """The same with BatchNorm, whose running statistics and counter training changes."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
    layers.input_shape = (5,)  # type: ignore[assignment]
    return layers


def text_folder(
    folder: Path,
    kind: str = "bert",
    *,
    seed: int = 0,
    layers: int = 3,
    width: int = 8,
    spread: float = 0.02,
) -> Path:
    """A transformers folder with a tiny random encoder and a word tokenizer.

    ``spread``: of the random weights; with the libraries' default texts hardly differ.
    """
    import transformers

    from stockpot.compat import ensure_torchvision

    ensure_torchvision()
    size: dict[str, Any] = {
        "vocab_size": len(WORDS),
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "max_position_embeddings": 20,
        "initializer_range": spread,
    }
    configs = {
        "bert": lambda: transformers.BertConfig(**size),
        "roberta": lambda: transformers.RobertaConfig(**size, pad_token_id=0),
        "mpnet": lambda: transformers.MPNetConfig(**size, pad_token_id=0),
        "distilbert": lambda: transformers.DistilBertConfig(
            vocab_size=len(WORDS),
            dim=width,
            n_layers=layers,
            n_heads=2,
            hidden_dim=12,
            initializer_range=spread,
        ),
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = transformers.AutoModel.from_config(configs[kind]())
    folder.mkdir(parents=True)
    network.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def masked_folder(folder: Path, kind: str, **settings: Any) -> Path:
    """The same as a masked language model, as most bases are published: its pooler is left out."""
    import transformers

    text_folder(folder, kind, **settings)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of whole words that needs no download."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def vit_folder(folder: Path, image_size: int = 16) -> Path:
    """A transformers folder with a tiny vision transformer."""
    import transformers

    from stockpot.compat import ensure_torchvision

    ensure_torchvision()
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=12,
        image_size=image_size,
        patch_size=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = transformers.ViTModel(config)
    folder.mkdir(parents=True)
    network.save_pretrained(folder)
    return folder
