"""Cases for ``adapters.py``: tiny models of transformers, an adapter for each feature of PEFT."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from stockpot.compat import ensure_torchvision

ensure_torchvision()
import peft  # noqa: E402

VOCABULARY = 60
IDS = torch.arange(2, 26).reshape(2, 12) % VOCABULARY

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Family:
    """A tiny model: its class, its config, and what it is asked."""

    loader: str
    config: Callable[[], Any]
    inputs: Callable[[], dict[str, torch.Tensor]] = lambda: {"input_ids": IDS}

    def build(self) -> Any:
        torch.manual_seed(0)
        return getattr(transformers, self.loader)(self.config()).eval()

    def load(self, folder: Path) -> Any:
        return getattr(transformers, self.loader).from_pretrained(folder).eval()

    def ask(self, model: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            found = model(**self.inputs())
        return found.logits if "logits" in found else found.last_hidden_state


def _gpt2(**rest: Any) -> Any:
    return transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, **rest
    )


def _llama(**rest: Any) -> Any:
    return transformers.LlamaConfig(**TEXT, **rest)


def _bert() -> Any:
    shape = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
    return transformers.BertConfig(**shape, num_labels=3)


def _mixtral() -> Any:
    return transformers.MixtralConfig(**TEXT, num_local_experts=4, num_experts_per_tok=2)


def _qwen_moe() -> Any:
    return transformers.Qwen3MoeConfig(
        **TEXT, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8
    )


def _gpt_oss() -> Any:
    return transformers.GptOssConfig(
        **{**TEXT, "intermediate_size": 32}, num_local_experts=4, num_experts_per_tok=2, head_dim=8
    )


def _llava() -> Any:
    vision = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
    )
    return transformers.LlavaConfig(
        vision_config=vision,
        text_config=_llama(),
        image_token_index=VOCABULARY - 1,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )


def _llava_inputs() -> dict[str, torch.Tensor]:
    ids = torch.cat([torch.full((1, 4), VOCABULARY - 1), IDS[:1, :6]], dim=1)
    torch.manual_seed(3)
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 16, 16)}


def _vit() -> Any:
    return transformers.ViTConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
        num_labels=3,
    )


def _image() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {"pixel_values": torch.randn(2, 3, 16, 16)}


def _whisper() -> Any:
    return transformers.WhisperConfig(
        vocab_size=VOCABULARY,
        num_mel_bins=8,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=12,
        max_target_positions=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
    )


def _speech() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {"input_features": torch.randn(1, 8, 24), "decoder_input_ids": IDS[:1, :5]}


def _wav2vec() -> Any:
    return transformers.Wav2Vec2Config(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        conv_dim=(16, 16),
        conv_stride=(2, 2),
        conv_kernel=(3, 3),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )


def _sound() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {"input_values": torch.randn(1, 200)}


def _t5() -> Any:
    return transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4
    )


def _seq2seq() -> dict[str, torch.Tensor]:
    return {"input_ids": IDS, "decoder_input_ids": IDS[:, :5]}


GPT2 = Family("GPT2LMHeadModel", _gpt2)
LLAMA = Family("LlamaForCausalLM", _llama)
TIED = Family("LlamaForCausalLM", partial(_llama, tie_word_embeddings=True))
BERT = Family("BertForSequenceClassification", _bert)
MIXTRAL = Family("MixtralForCausalLM", _mixtral)
QWEN_MOE = Family("Qwen3MoeForCausalLM", _qwen_moe)
GPT_OSS = Family("GptOssForCausalLM", _gpt_oss)
LLAVA = Family("LlavaForConditionalGeneration", _llava, _llava_inputs)
VIT = Family("ViTForImageClassification", _vit, _image)
WHISPER = Family("WhisperForConditionalGeneration", _whisper, _speech)
WAV2VEC = Family("Wav2Vec2Model", _wav2vec, _sound)
T5 = Family("T5ForConditionalGeneration", _t5, _seq2seq)


@dataclass(frozen=True)
class Case:
    """One feature on one model. ``refused`` is what the refusal must say, where it must refuse.

    ``prepare`` changes the model before it gets its adapter, such as its vocabulary.
    """

    name: str
    family: Family
    config: Callable[[], Any]
    refused: str | None = None
    prepare: Callable[[Any], None] | None = None
    note: str = ""
    save: dict[str, Any] = field(default_factory=dict)


def more_tokens(model: Any) -> None:
    torch.manual_seed(5)
    model.resize_token_embeddings(VOCABULARY + 5)


def cases() -> list[Case]:
    """Every case, by name."""
    return [Case(name, family, config, **rest) for name, family, config, rest in _rows()]


def _rows() -> Iterator[tuple[str, Family, Callable[[], Any], dict[str, Any]]]:
    ours = ("prepare", "save", "note", "refused")
    plain = {"r": 4, "lora_alpha": 6}
    loras = ((name, family, "LoraConfig", {**plain, **rest}) for name, family, rest in _LORAS)
    for name, family, kind, options in (*loras, *_OTHERS):
        theirs = {key: value for key, value in options.items() if key not in ours}
        rest = {key: value for key, value in options.items() if key in ours}
        yield name, family, partial(_config, kind, theirs), rest


def _config(kind: str, options: dict[str, Any]) -> Any:
    return getattr(peft, kind)(**copy.deepcopy(options))


_CONV1D = ["c_attn", "c_proj", "c_fc"]
_EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
_QV = {"target_modules": ["q_proj", "v_proj"]}
_BERT_QV = {"target_modules": ["query", "value"]}
_WHOLE = {"save": {"save_embedding_layers": True}}
_NO_MERGE = "PEFT's own merge changes {} too"

_LORAS: list[tuple[str, Family, dict[str, Any]]] = [
    ("plain", LLAMA, {**_QV}),
    ("all linear layers", LLAMA, {"target_modules": "all-linear"}),
    ("rslora", LLAMA, {**_QV, "use_rslora": True}),
    (
        "rank_pattern, alpha_pattern",
        LLAMA,
        {
            **_QV,
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {r"layers\.1\.self_attn\.v_proj": 9},
        },
    ),
    ("rslora with patterns", LLAMA, {**_QV, "use_rslora": True, "rank_pattern": {"q_proj": 2}}),
    ("layers_to_transform", LLAMA, {**_QV, "layers_to_transform": [1]}),
    ("exclude_modules", LLAMA, {"target_modules": ["v_proj"], "exclude_modules": r".*\.0\..*"}),
    ("fan_in_fan_out (Conv1D)", GPT2, {"target_modules": _CONV1D, "fan_in_fan_out": True}),
    ("Conv1D without fan_in_fan_out", GPT2, {"target_modules": _CONV1D}),
    (
        "Conv1D beside a tied linear head",
        GPT2,
        {"target_modules": [*_CONV1D, "lm_head"], "note": _NO_MERGE.format("the embedding")},
    ),
    ("a square Conv1D alone", GPT2, {"target_modules": r".*\.attn\.c_proj"}),
    ("embedding", LLAMA, {"target_modules": ["embed_tokens", "q_proj"]}),
    ("Conv2d, names that transformers changes", VIT, {"target_modules": ["projection", "q_proj"]}),
    ("Conv1d", WAV2VEC, {"target_modules": r".*conv_layers\.\d\.conv|.*q_proj"}),
    ("encoder and decoder", T5, {"target_modules": ["q", "v", "wi"]}),
    ("speech, encoder and decoder", WHISPER, {**_QV}),
    ("language model of LLaVA", LLAVA, {**_QV}),
    ("LLaVA, vision and projector too", LLAVA, {"target_modules": ["q_proj", "linear_1", "fc1"]}),
    ("bias: lora_only", BERT, {**_BERT_QV, "bias": "lora_only"}),
    ("bias: all", BERT, {**_BERT_QV, "bias": "all"}),
    ("lora_bias", BERT, {**_BERT_QV, "lora_bias": True}),
    ("task head of SEQ_CLS", BERT, {**_BERT_QV, "task_type": "SEQ_CLS"}),
    ("modules_to_save", BERT, {**_BERT_QV, "modules_to_save": ["classifier", "pooler"]}),
    ("trainable_token_indices", LLAMA, {**_QV, "trainable_token_indices": [3, 7]}),
    (
        "trainable_token_indices by module",
        LLAMA,
        {**_QV, "trainable_token_indices": {"embed_tokens": [3], "lm_head": [4, 7]}},
    ),
    ("trained tokens, tied head", TIED, {**_QV, "trainable_token_indices": [3, 7]}),
    ("resized vocabulary", LLAMA, {**_QV, "prepare": more_tokens, **_WHOLE}),
    ("resized vocabulary, tied head", TIED, {**_QV, "prepare": more_tokens, **_WHOLE}),
    (
        "resized vocabulary in modules_to_save",
        LLAMA,
        {**_QV, "modules_to_save": ["embed_tokens", "lm_head"], "prepare": more_tokens},
    ),
    (
        "embedding stored beside its LoRA",
        LLAMA,
        {"target_modules": ["embed_tokens", "q_proj"], **_WHOLE},
    ),
    (
        "tied head alone",
        TIED,
        {"target_modules": ["lm_head"], "note": _NO_MERGE.format("the embedding")},
    ),
    (
        "tied embedding alone",
        TIED,
        {"target_modules": ["embed_tokens"], "note": _NO_MERGE.format("the head")},
    ),
    (
        "tied head and embedding, ensure_weight_tying",
        TIED,
        {"target_modules": ["lm_head", "embed_tokens"], "ensure_weight_tying": True},
    ),
    ("tied head in modules_to_save", TIED, {**_QV, "modules_to_save": ["lm_head"]}),
    ("tied embedding in modules_to_save", TIED, {**_QV, "modules_to_save": ["embed_tokens"]}),
    ("DoRA", LLAMA, {**_QV, "use_dora": True}),
    ("DoRA with rslora", LLAMA, {**_QV, "use_dora": True, "use_rslora": True}),
    ("DoRA of Conv1D", GPT2, {"target_modules": _CONV1D, "use_dora": True}),
    ("DoRA of Conv2d", VIT, {"target_modules": ["projection"], "use_dora": True}),
    ("DoRA of an embedding", LLAMA, {"target_modules": ["embed_tokens"], "use_dora": True}),
    ("DoRA with PiSSA", LLAMA, {**_QV, "use_dora": True, "init_lora_weights": "pissa"}),
    (
        "target_parameters: experts kept apart in the file",
        QWEN_MOE,
        {"target_modules": [], "target_parameters": _EXPERTS},
    ),
    (
        "target_parameters: one, beside modules",
        QWEN_MOE,
        {"target_modules": ["q_proj"], "target_parameters": _EXPERTS[:1]},
    ),
    (
        "target_parameters: Mixtral's names",
        MIXTRAL,
        {"target_modules": [], "target_parameters": _EXPERTS},
    ),
    (
        "target_parameters: fused, stored transposed, square",
        GPT_OSS,
        {"target_modules": [], "target_parameters": _EXPERTS},
    ),
    ("attention of a mixture of experts", MIXTRAL, {**_QV}),
    *(
        (f"init_lora_weights: {start}", LLAMA, {**_QV, "init_lora_weights": start})
        for start in ("gaussian", "orthogonal", "mica", "pissa", "olora")
    ),
    (
        "PiSSA of Conv1D",
        GPT2,
        {"target_modules": ["c_attn", "c_fc"], "init_lora_weights": "pissa"},
    ),
    ("PiSSA with rslora", LLAMA, {**_QV, "init_lora_weights": "pissa", "use_rslora": True}),
    (
        "PiSSA by a random decomposition",
        LLAMA,
        {**_QV, "init_lora_weights": "pissa_niter_4", "refused": "pissa_niter_4"},
    ),
    (
        "VeLoRA",
        LLAMA,
        {**_QV, "velora_config": peft.VeloraConfig(num_groups=4)},
    ),
    (
        "aLoRA",
        LLAMA,
        {
            **_QV,
            "alora_invocation_tokens": [3],
            "task_type": "CAUSAL_LM",
            "refused": "alora_invocation_tokens",
        },
    ),
    (
        "layer_replication",
        LLAMA,
        {**_QV, "layer_replication": [[0, 2], [1, 2]], "refused": "layer_replication"},
    ),
    ("KaSA", LLAMA, {**_QV, "kasa_config": peft.KasaConfig(), "refused": "kasa_config"}),
]

_FEED = {"feedforward_modules": ["down_proj"]}
_CAUSAL = {"task_type": "CAUSAL_LM"}

_OTHERS: list[tuple[str, Family, str, dict[str, Any]]] = [
    ("AdaLoRA", LLAMA, "AdaLoraConfig", {**_QV, "init_r": 4, "target_r": 2, "total_step": 10}),
    ("LoHa", LLAMA, "LoHaConfig", {**_QV, "r": 4, "alpha": 6}),
    (
        "LoHa with patterns",
        LLAMA,
        "LoHaConfig",
        {**_QV, "r": 4, "alpha": 6, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
    ),
    ("LoHa of Conv2d", VIT, "LoHaConfig", {"r": 4, "alpha": 60, "target_modules": ["projection"]}),
    (
        "LoHa of Conv2d, Tucker's form",
        VIT,
        "LoHaConfig",
        {"r": 4, "alpha": 600, "target_modules": ["projection"], "use_effective_conv2d": True},
    ),
    ("LoKr", LLAMA, "LoKrConfig", {**_QV, "r": 4, "alpha": 6}),
    (
        "LoKr, both factors decomposed",
        LLAMA,
        "LoKrConfig",
        {**_QV, "r": 2, "alpha": 6, "decompose_both": True, "decompose_factor": 4},
    ),
    (
        "LoKr with patterns",
        LLAMA,
        "LoKrConfig",
        {**_QV, "r": 2, "alpha": 6, "rank_pattern": {"q_proj": 1}},
    ),
    (
        "LoKr of Conv2d, Tucker's form",
        VIT,
        "LoKrConfig",
        {"r": 2, "alpha": 6, "target_modules": ["projection"], "use_effective_conv2d": True},
    ),
    (
        "IA3",
        LLAMA,
        "IA3Config",
        {"target_modules": ["k_proj", "v_proj", "down_proj"], **_FEED},
    ),
    (
        "IA3 with biases",
        BERT,
        "IA3Config",
        {
            "target_modules": ["key", "value", "output.dense"],
            "feedforward_modules": ["output.dense"],
        },
    ),
    (
        "IA3 of Conv1D",
        GPT2,
        "IA3Config",
        {
            "target_modules": ["c_attn", "mlp.c_proj"],
            "feedforward_modules": ["mlp.c_proj"],
            "fan_in_fan_out": True,
        },
    ),
    ("VeRA", LLAMA, "VeraConfig", {**_QV, "r": 4}),
    (
        "VeRA without its projections",
        LLAMA,
        "VeraConfig",
        {**_QV, "r": 4, "save_projection": False, "refused": "vera_A"},
    ),
    ("trainable tokens alone", LLAMA, "TrainableTokensConfig", {"token_indices": [3, 7]}),
    ("LayerNorm tuning", GPT2, "LNTuningConfig", {"target_modules": ["ln_1", "ln_2"], **_CAUSAL}),
    ("OFT", LLAMA, "OFTConfig", {**_QV, "oft_block_size": 8, "refused": "OFT"}),
    ("BOFT", LLAMA, "BOFTConfig", {**_QV, "boft_block_size": 4, "refused": "BOFT"}),
    ("HRA", LLAMA, "HRAConfig", {**_QV, "r": 4, "refused": "HRA"}),
    (
        "VB-LoRA",
        LLAMA,
        "VBLoRAConfig",
        {**_QV, "r": 4, "vector_length": 8, "num_vectors": 8, "refused": "VBLORA"},
    ),
    ("FourierFT", LLAMA, "FourierFTConfig", {**_QV, "n_frequency": 20, "refused": "FOURIERFT"}),
    *(
        (kind, LLAMA, config, {"num_virtual_tokens": 3, **_CAUSAL, "refused": kind})
        for kind, config in (
            ("PREFIX_TUNING", "PrefixTuningConfig"),
            ("PROMPT_TUNING", "PromptTuningConfig"),
        )
    ),
]
