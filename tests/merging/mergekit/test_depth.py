"""The number of layers is written under the architecture's own key."""

from __future__ import annotations

import pytest

from stockpot.merging.mergekit.outputs import with_layers

TYPES = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("config", "stack", "changed"),
    [
        ({"num_hidden_layers": 4}, "model.layers.", {"num_hidden_layers": 2}),
        ({"n_layer": 4}, "transformer.h.", {"n_layer": 2}),
        ({"n_layers": 4}, "transformer.layer.", {"n_layers": 2}),
        ({"num_hidden_layers": 4}, "bert.encoder.layer.", {"num_hidden_layers": 2}),
        (
            {"num_hidden_layers": 4, "layer_types": TYPES},
            "model.layers.",
            {"num_hidden_layers": 2, "layer_types": ["b", "d"]},
        ),
        # T5
        ({"num_layers": 4, "num_decoder_layers": 4}, "encoder.block.", {"num_layers": 2}),
        ({"num_layers": 4, "num_decoder_layers": 4}, "decoder.block.", {"num_decoder_layers": 2}),
        # BART, Whisper: the encoder's depth stands twice
        (
            {"encoder_layers": 4, "decoder_layers": 4, "num_hidden_layers": 4},
            "model.encoder.layers.",
            {"encoder_layers": 2, "num_hidden_layers": 2},
        ),
        (
            {"encoder_layers": 4, "decoder_layers": 4, "num_hidden_layers": 4},
            "model.decoder.layers.",
            {"decoder_layers": 2},
        ),
        # LLaVA
        (
            {"text_config": {"num_hidden_layers": 4}, "vision_config": {"num_hidden_layers": 4}},
            "model.language_model.layers.",
            {"text_config": {"num_hidden_layers": 2}},
        ),
        (
            {"text_config": {"num_hidden_layers": 4}, "vision_config": {"num_hidden_layers": 4}},
            "model.vision_tower.vision_model.encoder.layers.",
            {"vision_config": {"num_hidden_layers": 2}},
        ),
        # encoder-decoder of two models
        (
            {"encoder": {"num_hidden_layers": 4}, "decoder": {"num_hidden_layers": 4}},
            "decoder.bert.encoder.layer.",
            {"decoder": {"num_hidden_layers": 2}},
        ),
        # nothing that says the depth stays as it is
        ({"num_hidden_layers": 7, "sizes": TYPES}, "model.layers.", {}),
    ],
)
def test_depth(config, stack, changed):
    assert with_layers(config, stack, [1, 3], 4) == {**config, **changed}
