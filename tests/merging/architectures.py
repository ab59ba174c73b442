"""Tiny random models of many architectures, and an input for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from stockpot.compat import ensure_torchvision

ensure_torchvision(quiet=True)
import transformers  # noqa: E402

TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**TEXT, "num_key_value_heads": 2}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
EXPERTS = {
    **GROUPED,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}


@dataclass(frozen=True)
class Architecture:
    """A class of transformers, the settings of its config, and what it is fed with."""

    kind: str
    settings: dict[str, Any]
    inputs: str = "text"
    config: str | None = None

    def build(self, seed: int) -> Any:
        torch.manual_seed(seed)
        cls = getattr(transformers, self.kind)
        made = getattr(transformers, self.config) if self.config else cls.config_class
        config = made(**self.settings)
        config._attn_implementation = "eager"
        model = cls(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                # Biases and norms start as zeros and ones, where a mistake would not show.
                parameter.add_(0.02 * torch.randn_like(parameter))
        return model

    def batch(self) -> dict[str, Any]:
        return INPUTS[self.inputs]()


def ids(length: int = 12) -> torch.Tensor:
    return torch.randint(3, 90, (2, length), generator=torch.Generator().manual_seed(1))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def with_image(token: int = 95, count: int = 16) -> dict[str, torch.Tensor]:
    tokens = torch.cat([torch.full((2, count), token), ids()], dim=1)
    return {"input_ids": tokens, "pixel_values": noise(2, 3, 32, 32)}


INPUTS: dict[str, Callable[[], dict[str, Any]]] = {
    "text": lambda: {"input_ids": ids()},
    "pair": lambda: {"input_ids": ids(), "decoder_input_ids": ids(5)},
    "image": lambda: {"pixel_values": noise(2, 3, 32, 32)},
    "large image": lambda: {"pixel_values": noise(2, 3, 64, 64)},
    "image and text": lambda: {"input_ids": ids(), "pixel_values": noise(2, 3, 32, 32)},
    "image in text": with_image,
    "sound": lambda: {"input_values": noise(2, 800)},
    "spectrum": lambda: {"input_features": noise(2, 80, 60), "decoder_input_ids": ids(5)},
}

_BLOCKS = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]}
_SOUND = {
    **{k: v for k, v in TEXT.items() if k not in ("max_position_embeddings",)},
    "conv_dim": [16, 16],
    "conv_kernel": [8, 4],
    "conv_stride": [5, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
}
_SSM = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
_LAYERS = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "d_model": 32,
    "vocab_size": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_CLIP = {
    "text_config": {**TEXT, "projection_dim": 16},
    "vision_config": {**VISION, "projection_dim": 16},
    "projection_dim": 16,
}

ARCHITECTURES = (
    # text, encoders
    Architecture("BertForSequenceClassification", TEXT),
    Architecture("RobertaForMaskedLM", TEXT),
    Architecture("XLMRobertaForTokenClassification", TEXT),
    Architecture(
        "DistilBertForSequenceClassification",
        {"vocab_size": 96, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    ),
    Architecture("ElectraForSequenceClassification", {**TEXT, "embedding_size": 16}),
    Architecture("AlbertForMaskedLM", {**TEXT, "embedding_size": 16}),
    Architecture("MPNetForSequenceClassification", TEXT),
    Architecture("DebertaV2ForSequenceClassification", TEXT),
    Architecture("ModernBertForMaskedLM", {**TEXT, "reference_compile": False}),
    # text, decoders
    Architecture(
        "GPT2LMHeadModel", {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4}
    ),
    Architecture("GPTNeoXForCausalLM", TEXT),
    Architecture("LlamaForCausalLM", GROUPED),
    Architecture("LlamaForSequenceClassification", GROUPED),
    Architecture("MistralForCausalLM", GROUPED),
    Architecture("Qwen2ForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    Architecture("Qwen3ForCausalLM", {**GROUPED, "head_dim": 8}),
    Architecture("GemmaForCausalLM", {**GROUPED, "head_dim": 8}),
    Architecture("Gemma2ForCausalLM", {**GROUPED, "head_dim": 8}),
    Architecture("Gemma3ForCausalLM", {**GROUPED, "head_dim": 8}, config="Gemma3TextConfig"),
    Architecture("PhiForCausalLM", TEXT),
    Architecture("Phi3ForCausalLM", GROUPED),
    Architecture("Olmo2ForCausalLM", GROUPED),
    Architecture("StableLmForCausalLM", GROUPED),
    Architecture("CohereForCausalLM", GROUPED),
    Architecture("GraniteForCausalLM", GROUPED),
    Architecture("FalconForCausalLM", {**TEXT, "ffn_hidden_size": 48}),
    Architecture("OPTForCausalLM", {**TEXT, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    Architecture(
        "BloomForCausalLM", {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4}
    ),
    # mixtures of experts
    Architecture("MixtralForCausalLM", EXPERTS),
    Architecture("Qwen2MoeForCausalLM", {**EXPERTS, "shared_expert_intermediate_size": 24}),
    Architecture("Qwen3MoeForCausalLM", {**EXPERTS, "head_dim": 8}),
    Architecture("OlmoeForCausalLM", EXPERTS),
    Architecture("GptOssForCausalLM", {**EXPERTS, "head_dim": 8}),
    Architecture(
        "DeepseekV3ForCausalLM",
        {**EXPERTS, **LATENT, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
         "first_k_dense_replace": 1, "num_key_value_heads": 4},
    ),
    # state spaces
    Architecture("MambaForCausalLM", _SSM),
    Architecture("Mamba2ForCausalLM", {**_SSM, "num_heads": 8, "head_dim": 8, "n_groups": 2}),
    # encoder and decoder
    Architecture(
        "T5ForConditionalGeneration",
        {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
         "decoder_start_token_id": 0},
        "pair",
    ),
    Architecture(
        "BartForConditionalGeneration", {**_LAYERS, "max_position_embeddings": 64}, "pair"
    ),
    Architecture("MarianMTModel", {**_LAYERS, "max_position_embeddings": 64}, "pair"),
    # vision
    Architecture("ViTForImageClassification", VISION, "image"),
    Architecture("DeiTForImageClassification", VISION, "image"),
    Architecture("BeitForImageClassification", VISION, "image"),
    Architecture("Dinov2ForImageClassification", VISION, "image"),
    Architecture(
        "SwinForImageClassification",
        {**_BLOCKS, "image_size": 32, "patch_size": 2, "window_size": 4},
        "image",
    ),
    Architecture(
        "ConvNextForImageClassification",
        {"num_stages": 2, "hidden_sizes": [16, 32], "depths": [1, 1]},
        "image",
    ),
    Architecture(
        "ResNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
        "image",
    ),
    Architecture(
        "SegformerForSemanticSegmentation",
        {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16,
         "num_attention_heads": [1, 1, 2, 2]},
        "large image",
    ),
    # speech
    Architecture("Wav2Vec2ForCTC", _SOUND, "sound"),
    Architecture("HubertForCTC", _SOUND, "sound"),
    Architecture(
        "WhisperForConditionalGeneration",
        {**_LAYERS, "max_source_positions": 30, "max_target_positions": 32, "num_mel_bins": 80},
        "spectrum",
    ),
    # vision and language
    Architecture("CLIPModel", _CLIP, "image and text"),
    Architecture("SiglipModel", {k: v for k, v in _CLIP.items() if k != "projection_dim"},
                 "image and text"),
    Architecture(
        "LlavaForConditionalGeneration",
        {"text_config": {"model_type": "llama", **GROUPED},
         "vision_config": {"model_type": "clip_vision_model", **VISION},
         "image_token_index": 95},
        "image in text",
    ),
)  # fmt: skip
FAST = ("BertForSequenceClassification", "LlamaForCausalLM", "T5ForConditionalGeneration")
"""Looked at in every run of the tests; the others in the long one."""
