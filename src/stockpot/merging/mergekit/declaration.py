"""What mergekit's language knows, and what becomes of it here: the one list, as data.

The methods' own parameters are declared with the methods (``merging/methods/mergekit_*.py``), whose
names and defaults are mergekit's. Here stand the keys of a file, and what has to be said of a key,
a method or a parameter. ``docs/mergekit.md`` is written from this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stockpot.merging.method import Method, PerModel, get_method
from stockpot.merging.methods import MERGEKIT
from stockpot.merging.parameters import Parameter

VERSION = "0.1.5"

Fate = Literal["same", "noted", "refused"]


@dataclass(frozen=True)
class ForeignKey:
    """A key of mergekit's files. ``table`` is the kind of table it stands in."""

    table: str
    name: str
    fate: Fate = "same"
    note: str = ""


SHIPPED = ("alpaca", "exaone", "llama3", "mistral")
"""Chat templates that mergekit brings, apart from chatml."""

_TEMPLATES = f"a text, auto or chatml; {', '.join(SHIPPED)} ship with mergekit: give the text"

KEYS = (
    ForeignKey("file", "merge_method"),
    ForeignKey("file", "base_model"),
    ForeignKey("file", "models"),
    ForeignKey("file", "slices"),
    ForeignKey("file", "modules"),
    ForeignKey("file", "parameters"),
    ForeignKey("file", "dtype"),
    ForeignKey("file", "out_dtype"),
    ForeignKey("file", "tokenizer_source"),
    ForeignKey("file", "tokenizer"),
    ForeignKey("file", "chat_template", note=_TEMPLATES),
    ForeignKey("file", "name", note="of a document among several (mergekit-multi)"),
    ForeignKey("model", "model"),
    ForeignKey("model", "parameters"),
    ForeignKey("slice", "sources"),
    ForeignKey("slice", "base_model"),
    ForeignKey("slice", "residual_weight", "noted", "changes nothing, in mergekit neither"),
    ForeignKey("slice", "parameters"),
    ForeignKey("source", "model"),
    ForeignKey("source", "layer_range"),
    ForeignKey("source", "parameters"),
    ForeignKey("module", "slices"),
    ForeignKey("module", "models"),
    ForeignKey("module", "parameters"),
    ForeignKey("condition", "value"),
    ForeignKey("condition", "filter"),
    ForeignKey("reference", "model"),
    ForeignKey(
        "reference", "lora", "noted", "the sum is not rounded to the base's type before it is used"
    ),
    ForeignKey(
        "reference",
        "override_architecture",
        "refused",
        "tensors are matched by their names, not by lists of architectures",
    ),
    ForeignKey("path", "path"),
    ForeignKey("path", "revision"),
    ForeignKey("tokenizer", "source"),
    ForeignKey("tokenizer", "tokens"),
    ForeignKey("tokenizer", "pad_to_multiple_of"),
    ForeignKey("token", "source"),
    ForeignKey("token", "force"),
    ForeignKey("token source", "kind"),
    ForeignKey("token source", "model"),
    ForeignKey("token source", "token_id"),
    ForeignKey("token source", "token"),
    ForeignKey("mixture", "base_model"),
    ForeignKey("mixture", "experts"),
    ForeignKey("mixture", "shared_experts"),
    ForeignKey("mixture", "gate_mode", note="random numbers are drawn by stockpot"),
    ForeignKey("mixture", "experts_per_token"),
    ForeignKey("mixture", "dtype"),
    ForeignKey("mixture", "architecture", note="DeepSeek's is not built"),
    ForeignKey("expert", "source_model"),
    ForeignKey("expert", "positive_prompts"),
    ForeignKey("expert", "negative_prompts"),
    ForeignKey("expert", "residual_scale"),
    ForeignKey("expert", "noise_scale", "refused", "a merge adds no noise: train what it gives"),
)

_RANDOM = "entries are drawn from another source of random numbers: equal in distribution"
_TIES = "of entries of equal size at the limit, the first are taken; mergekit's sort takes any"
_UNROUNDED = "sums and products are not rounded to 16 bits in between"

_FLOAT32 = "mergekit's file holds float32 whatever the dtype, ours the dtype"

METHOD_NOTES = {
    "ties": _TIES,
    "ramplus_tl": _FLOAT32,
    "dare_ties": _RANDOM,
    "dare_linear": _RANDOM,
    "della": _RANDOM,
    "della_linear": _RANDOM,
    "breadcrumbs": _TIES,
    "breadcrumbs_ties": _TIES,
    "sce": _TIES,
    "arcee_fusion": f"needs torch; {_FLOAT32}; quantiles are exact, of large tensors too",
}
"""What is to be said where a method is used, beyond ``UNROUNDED``."""

UNROUNDED = _UNROUNDED

PARAMETER_NOTES = {
    "int8_mask": "changes no number, in mergekit neither",
}


def foreign_method(name: str) -> Method:
    """mergekit's method ``name`` with mergekit's parameters and defaults."""
    return get_method(f"mergekit:{name}")


def foreign_parameters(method: Method) -> dict[str, Parameter]:
    """The parameters that mergekit's method has; those that only we give it are left out."""
    return {p.name: p for p in method.parameters if p.name not in ("arithmetic", "seed")}


def all_parameters() -> set[str]:
    """The names of the parameters of all of mergekit's methods."""
    return {name for method in MERGEKIT for name in foreign_parameters(foreign_method(method))}


def keys_of(table: str) -> dict[str, ForeignKey]:
    """The keys of one kind of table."""
    return {key.name: key for key in KEYS if key.table == table}


def scalar_kind(parameter: Parameter) -> Parameter:
    """The declaration of one value: of a per-model parameter, that of each model's."""
    return parameter.each if isinstance(parameter, PerModel) else parameter
