"""The lines of Python that a model's card shows: what opens this folder, head included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stockpot.backbones.library import Expression
from stockpot.backbones.spec import BackboneSpec

_TEXT = "A joy from start to finish."


def usage(
    spec: BackboneSpec,
    modality: str,
    expression: Expression | None,
    classes: Sequence[str],
    images: Mapping[str, Any] | None,
    size: int | None,
) -> str:
    """Markdown: a sentence and lines that run in the folder itself; ``"."`` is its path.

    ``size``: side in pixels of what the network sees.
    """
    if expression is None:
        sentence, lines = _with_stockpot(spec, modality, classes)
    elif spec.kind == "timm":
        sentence = f"It opens in timm as `{expression.class_name}`, with its classes."
        lines = [
            "import timm, torch",
            "from PIL import Image",
            "",
            'model = timm.create_model("local-dir:.", pretrained=True).eval()',
            "prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))",
            "with torch.no_grad():",
            '    image = Image.open("photo.png").convert("RGB")',
            f"    print(model(prepare(image)[None]){'.softmax(1)' if classes else ''})",
        ]
    else:
        kind, file = ("image", '"photo.png"') if modality == "image" else ("text", f'"{_TEXT}"')
        sentence = f"It opens in transformers as `{expression.class_name}`, with its labels."
        option = ", truncation=True" if modality == "text" else ""
        if modality == "image" and not classes:
            sentence, lines = _with_stockpot(spec, modality, classes)
        else:
            lines = [
                "from transformers import pipeline",
                "",
                f'classify = pipeline("{kind}-classification", "."{option}, top_k=None)',
                f"print(classify({file}))",
            ]
    if images is not None and size != images["size"]:
        sentence += (
            f" In training images were brought to {images['size']} pixels first, then to {size}; "
            "`stockpot predict` does the same."
        )
    shown = _block(f"{sentence} In this folder:", lines)
    if expression is None and spec.kind == "transformers" and modality == "text":
        shown += "\n" + _block(
            "Without stockpot: the head lies beside the weights, in `head.safetensors`. "
            "transformers does not look there, and its text classification pipeline would put a "
            "new, random head on this folder.",
            _with_transformers(spec, classes),
        )
    return shown


def _block(sentence: str, lines: Sequence[str]) -> str:
    return "\n".join([sentence, "", "```python", *lines, "```", ""])


def _with_transformers(spec: BackboneSpec, classes: Sequence[str]) -> list[str]:
    """What stockpot computes from texts, in the words of torch and transformers."""
    vectors = {
        "mean": 'mask = batch["attention_mask"][..., None]\n'
        "vectors = (output.last_hidden_state * mask).sum(1) / mask.sum(1)",
        "cls": "vectors = output.last_hidden_state[:, 0]",
        "pooler": "vectors = output.pooler_output",
    }[spec.pooling]
    options = f'truncation=True, max_length={spec.max_length}, padding=True, return_tensors="pt"'
    return [
        "import torch",
        "from safetensors.torch import load_file",
        "from transformers import AutoModel, AutoTokenizer",
        "",
        'tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModel.from_pretrained(".")',
        'head = load_file("head.safetensors")',
        f'batch = tokenizer(["{_TEXT}"], {options})',
        "with torch.no_grad():",
        "    output = model(**batch)",
        *vectors.splitlines(),
        'logits = vectors @ head["weight"].T + head["bias"]',
        f"print({'logits.softmax(1)' if classes else 'logits'})",
    ]


def _with_stockpot(
    spec: BackboneSpec, modality: str, classes: Sequence[str]
) -> tuple[str, list[str]]:
    example = {
        "text": f'["{_TEXT}"]',
        "image": '["photo.png"]',
        "array": 'numpy.load("inputs.npy")',
    }[modality]
    root = ', root="."' if ".py:" in spec.name else ""
    sentence = "No class of a library holds this model with its head; stockpot opens it."
    if spec.kind == "function":
        sentence = f"The network is made by `{spec.name}`, which must be importable."
        if root:
            sentence = f"The network is made by `{spec.name}`; `root` is that file's folder."
    shown = "answers.labels, answers.probabilities" if classes else "answers.values"
    lines = ["import numpy", ""] if modality == "array" else []
    lines = [*([lines[0]] if lines else []), "import stockpot", ""]
    return sentence, [
        *lines,
        f'answers = stockpot.predict(".", {example}{root})',
        f"print({shown})",
    ]
