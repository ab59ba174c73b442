"""Names of tensors in files and in the classes of transformers."""

from __future__ import annotations

import pytest

from stockpot.errors import CheckpointError
from stockpot.merging.mergekit.classes import empty_model, names_in_class, vocabulary_tensors

pytestmark = pytest.mark.usefixtures("transformers")

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TEXT = {"model_type": "llama", "vocab_size": 40, **SMALL}
LLAVA = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "text_config": TEXT,
    "vision_config": {"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4, **SMALL},
}


def test_older_prefixes_are_those_of_the_class():
    model = empty_model(LLAVA)
    names = {
        "language_model.model.layers.1.mlp.up_proj.weight": (
            "model.language_model.layers.1.mlp.up_proj.weight"
        ),
        "language_model.model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
        "language_model.lm_head.weight": "lm_head.weight",
        "multi_modal_projector.linear_1.bias": "model.multi_modal_projector.linear_1.bias",
        "lm_head.weight": "lm_head.weight",
        "of.nothing": "of.nothing",
    }
    assert names_in_class(names, model) == names


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"architectures": ["LlamaForCausalLM"], **TEXT},
            {"model.embed_tokens.weight", "lm_head.weight"},
        ),
        (
            {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 1},
            {"transformer.wte.weight", "lm_head.weight"},
        ),
        (
            {"architectures": ["BertForMaskedLM"], "model_type": "bert", **SMALL},
            {
                "bert.embeddings.word_embeddings.weight",
                "cls.predictions.decoder.weight",
                "cls.predictions.decoder.bias",
                "cls.predictions.bias",
            },
        ),
        (LLAVA, {"model.language_model.embed_tokens.weight", "lm_head.weight"}),
    ],
)
def test_transformers_says_what_has_a_row_for_each_token(config, expected):
    assert vocabulary_tensors(empty_model(config)) == expected


def test_a_config_of_nothing():
    with pytest.raises(CheckpointError, match="cannot make a model"):
        empty_model({"architectures": ["UnheardOf"]})
