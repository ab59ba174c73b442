"""Which architectures mergekit knows by lists of tensors, and the modules that it cuts some into.

Names of classes, as a model's config gives them; all others mergekit infers from the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

_LISTED = """
Afmoe Apertus Arcee Baichuan Cohere Cohere2 Exaone Falcon GPTBigCode GPTNeoX Gemma Gemma2 Gemma3
Glm4 Glm4Moe Granite GraniteMoeHybrid InternLM2 LLaMa Lfm2 Llama Mamba Mistral MixFormerSequential
Mixtral Olmo2 Phi Phi3 Phi3Small Qwen2 Qwen3 Qwen3Moe Solar StableLMEpoch StableLm Starcoder2
"""
_HEADS = {
    "Bert": "MaskedLM MultipleChoice SequenceClassification TokenClassification",
    "DistilBert": "MaskedLM SequenceClassification TokenClassification",
    "Roberta": "MaskedLM SequenceClassification TokenClassification",
    "GPT2": "SequenceClassification",
    "Llama": "SequenceClassification",
    "T5": "ConditionalGeneration",
    "Whisper": "ConditionalGeneration",
    "Gemma3": "ConditionalGeneration",
    "Llama4": "ConditionalGeneration",
    "Mistral3": "ConditionalGeneration",
    "Qwen2VL": "ConditionalGeneration",
    "Qwen2_5_VL": "ConditionalGeneration",
    "Qwen3VL": "ConditionalGeneration",
    "Qwen3VLMoe": "ConditionalGeneration",
}
LISTED = frozenset(
    [
        *(f"{name}ForCausalLM" for name in _LISTED.split()),
        *(f"{name}For{head}" for name, heads in _HEADS.items() for head in heads.split()),
        *("BertModel", "DistilBertModel", "RobertaModel", "ChatGLMModel"),
        *("GPT2LMHeadModel", "JAISLMHeadModel", "QWenLMHeadModel", "_AfmoePartialForCausalLM"),
    ]
)

_TEXT_AND_VISION = {
    "text_decoder": ("language_model.", "model.language_model.", "lm_head."),
    "multi_modal_projector": ("multi_modal_projector.", "model.multi_modal_projector."),
    "vision_tower": ("vision_tower.", "model.vision_tower."),
}
_QWEN = {
    "text_decoder": ("model.", "lm_head."),
    "multi_modal_projector": (
        *("visual.merger.", "model.visual.merger.", "model.visual.deepstack_merger_list."),
    ),
    "vision_tower": ("visual.", "model.visual."),
}
MODULES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Gemma3ForConditionalGeneration": _TEXT_AND_VISION,
    "Mistral3ForConditionalGeneration": _TEXT_AND_VISION,
    "Llama4ForConditionalGeneration": {
        "text_decoder": _TEXT_AND_VISION["text_decoder"],
        "multi_modal_projector": _TEXT_AND_VISION["multi_modal_projector"],
        "vision_model": ("vision_model.", "model.vision_model."),
    },
    "Qwen2VLForConditionalGeneration": _QWEN,
    "Qwen2_5_VLForConditionalGeneration": _QWEN,
    "Qwen3VLForConditionalGeneration": _QWEN,
    "Qwen3VLMoeForConditionalGeneration": _QWEN,
    "T5ForConditionalGeneration": {
        "decoder": ("decoder.",),
        "encoder": ("encoder.",),
        "shared": ("shared.", "lm_head."),
    },
    "WhisperForConditionalGeneration": {
        "decoder": ("model.decoder.",),
        "encoder": ("model.encoder.",),
    },
}
"""Architecture -> module -> how the names of its tensors begin; the longest beginning decides."""


def listed(architecture: str | None) -> bool:
    """Whether mergekit has a list of an architecture's tensors; lone files count as listed."""
    return architecture is None or architecture in LISTED
