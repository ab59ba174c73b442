"""``adapter_config.json``: what becomes of each of its keys, for each kind of adapter.

One declaration decides: a key is *used* here, *harmless* (with the reason why the weights do not
depend on it), or *refused* unless it has one of the values that ask for nothing. A key that is not
declared is refused as well, unless it is null, false or empty. The names are those of PEFT's config
classes (``peft.PEFT_TYPE_TO_CONFIG_MAPPING``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stockpot.errors import CheckpointError
from stockpot.reading import read_json
from stockpot.schema import fields

CONFIG_NAME = "adapter_config.json"
PEFT_HINT = "merge it into its base with PEFT first (merge_and_unload)"


@dataclass(frozen=True)
class Key:
    """What becomes of a key: ``why`` it is harmless or refused, which values ask for nothing."""

    fate: Literal["used", "harmless", "refused"]
    why: str = ""
    nothing: tuple[Any, ...] = (None, False, [], {}, "")


USED = Key("used")
_BY_TENSORS = Key("harmless", "the file's tensors name the modules")
_TRAINING = Key("harmless", "it acts while training only")
_SAID_BY_TENSORS = Key("harmless", "what was trained lies in the file")

COMMON: dict[str, Key] = {
    "peft_type": USED,
    "base_model_name_or_path": USED,
    "revision": USED,
    "modules_to_save": USED,
    "task_type": Key("harmless", "it names the model class"),
    "auto_mapping": Key("harmless", "it names the model class"),
    "peft_version": Key("harmless", "every key is declared, whatever the version"),
    "inference_mode": _TRAINING,
    "target_modules": _BY_TENSORS,
    "exclude_modules": _BY_TENSORS,
    "layers_to_transform": _BY_TENSORS,
    "layers_pattern": _BY_TENSORS,
    "fan_in_fan_out": USED,
    "bias": _SAID_BY_TENSORS,
    "init_weights": _TRAINING,
}
_LORA: dict[str, Key] = {
    **COMMON,
    "r": USED,
    "lora_alpha": USED,
    "rank_pattern": Key("harmless", "the factors have their rank"),
    "alpha_pattern": USED,
    "use_rslora": USED,
    "use_dora": USED,
    "lora_bias": _SAID_BY_TENSORS,
    "init_lora_weights": USED,
    "trainable_token_indices": USED,
    "target_parameters": USED,
    "ensure_weight_tying": USED,
    "lora_dropout": _TRAINING,
    "loftq_config": Key("harmless", "init_lora_weights says whether it is used"),
    "eva_config": Key("harmless", "it sets where training starts; the base stays"),
    "corda_config": Key("harmless", "init_lora_weights says whether it is used"),
    "lora_ga_config": Key("harmless", "init_lora_weights says whether it is used"),
    "velora_config": Key("harmless", "it changes the backward pass only"),
    "runtime_config": Key("harmless", "it says where to compute"),
    "megatron_core": Key("harmless", "it names a module of the trainer"),
    "qalora_group_size": Key("harmless", "use_qalora says whether it is used"),
    "megatron_config": Key("refused", "Megatron shards its layers"),
    "use_qalora": Key("refused", "QALoRA pools the inputs, which no change of the weights does"),
    "alora_invocation_tokens": Key("refused", "aLoRA is active for some tokens only"),
    "layer_replication": Key("refused", "the model has other layers than its base"),
    "arrow_config": Key("refused", "Arrow chooses between adapters for each token"),
    "kasa_config": Key("refused", "KaSA takes singular values from the base itself"),
    "monteclora_config": Key("refused", "MonteCLoRA samples its factors"),
    "use_bdlora": Key("refused", "block-diagonal factors are stored in another form"),
}
_LYCORIS: dict[str, Key] = {
    **COMMON,
    "r": USED,
    "alpha": USED,
    "rank_pattern": USED,
    "alpha_pattern": USED,
    "rank_dropout": _TRAINING,
    "module_dropout": _TRAINING,
    "use_effective_conv2d": _SAID_BY_TENSORS,
}

KINDS: dict[str, dict[str, Key]] = {
    "LORA": _LORA,
    "ADALORA": {
        **_LORA,
        "target_r": _TRAINING,
        "init_r": USED,
        **dict.fromkeys(
            ("tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),
            _TRAINING,
        ),
    },
    "LOHA": _LYCORIS,
    "LOKR": {
        **_LYCORIS,
        "decompose_both": _SAID_BY_TENSORS,
        "decompose_factor": _SAID_BY_TENSORS,
        "rank_dropout_scale": _TRAINING,
    },
    "IA3": {
        **COMMON,
        "feedforward_modules": USED,
        "init_ia3_weights": _TRAINING,
    },
    "VERA": {
        **COMMON,
        "r": Key("harmless", "the factors have their rank"),
        "projection_prng_key": Key("harmless", "the projections are read from the file"),
        "save_projection": USED,
        "vera_dropout": _TRAINING,
        "d_initial": _TRAINING,
    },
    "TRAINABLE_TOKENS": {**COMMON, "token_indices": USED},
    "LN_TUNING": COMMON,
}

_TOKENS = "adds tokens or states to the input, which no change of the weights does"
_ELSEWHERE = "changes weights by a formula that is not computed here"
_INPUTS = "depends on the input, which no change of the weights does"
NOT_READ: dict[str, str] = {
    **dict.fromkeys(
        (
            *("ADAPTION_PROMPT", "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "P_TUNING"),
            *("PREFIX_TUNING", "PROMPT_TUNING"),
        ),
        _TOKENS,
    ),
    **dict.fromkeys(("LILY", "PEANUT", "POLY", "SHADOW", "XLORA"), _INPUTS),
    **dict.fromkeys(
        (
            *("ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA"),
            *("GRALORA", "HIRA", "HRA", "MISS", "OFT", "OSF", "PSOFT", "PVERA", "RANDLORA"),
            *("ROAD", "SHIRA", "SUPERTUNING", "TINYLORA", "UNILORA", "VBLORA", "WAVEFT"),
        ),
        _ELSEWHERE,
    ),
}
"""Kinds of PEFT's that are refused, and why."""

LONGEST_PATTERN, MOST_REPEATS = 250, 3
"""Characters of a pattern and of a name that it is held against; ``*``, ``+`` and ``{`` in it."""


def _number(value: Any, what: str) -> float:
    return fields.number(value, what, 0.0)


def _flag(value: Any, what: str) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"'{what}' is {value!r:.40}, expected true or false")


def _names(value: Any, what: str) -> None:
    for name in fields.items(value, what):
        fields.name(name, what)


def _indices(value: Any, what: str) -> None:
    if isinstance(value, Mapping):
        for name, listed in fields.table(value, what).items():
            _indices(listed, f"{what}.{name}")
        return
    for index in fields.items(value, what, 1_000_000):
        fields.count(index, what)


def _patterns(value: Any, what: str) -> None:
    """Numbers by regular expression, of a kind that ends quickly whatever it is held against."""
    for pattern, given in fields.table(value, what).items():
        _number(given, f"{what}.{pattern}")
        plain = re.sub(r"\\.", "", pattern)
        if len(re.findall(r"[*+{]", plain)) > MOST_REPEATS or re.search(r"\)[*+?{]|\(\?", plain):
            raise ValueError(
                f"'{what}' has the pattern {pattern!r:.80}; at most {MOST_REPEATS} repeats, and "
                "none of a group, are matched"
            )
        if len(pattern) > LONGEST_PATTERN:
            raise ValueError(f"'{what}' has a pattern of more than {LONGEST_PATTERN} characters")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"'{what}' has the pattern {pattern!r:.80}: {error}") from None


_RULES: dict[str, Callable[[Any, str], object]] = {
    **dict.fromkeys(("r", "init_r", "lora_alpha", "alpha"), _number),
    **dict.fromkeys(("alpha_pattern", "rank_pattern"), _patterns),
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out", "ensure_weight_tying"), _flag),
    **dict.fromkeys(("modules_to_save", "target_parameters"), _names),
    **dict.fromkeys(("token_indices", "trainable_token_indices"), _indices),
    **dict.fromkeys(("peft_type", "base_model_name_or_path", "revision", "bias"), fields.text),
}
"""What values keys may have that are used; all may be null."""

# Where a LoRA starts: from nothing, or from a part of the base that is taken out of it.
_UNCHANGED_BASE = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
_CHANGED_BASE = {
    "corda": "the data that decided which part of the base was taken out",
    "loftq": "the rounding of the base",
    "lora_ga": "the gradients that decided which part of the base was taken out",
}


@dataclass(frozen=True)
class AdapterConfig:
    """A config whose every key is accounted for."""

    path: Path
    values: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return str(self.values["peft_type"])

    @property
    def base(self) -> str | None:
        """Path or hub id of the base, with its revision; None where none is named."""
        name, revision = self.values.get("base_model_name_or_path"), self.values.get("revision")
        if not name:
            return None
        return f"{name}@{revision}" if revision and not Path(str(name)).exists() else str(name)

    @property
    def initial(self) -> Literal["pissa", "olora"] | None:
        """Which part of the base the factors replace."""
        value = self.values.get("init_lora_weights", True)
        return value if value in ("pissa", "olora") else None

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key)
        return default if value is None else value


def read_config(folder: Path) -> AdapterConfig:
    """The config in ``folder``. Raises ``CheckpointError`` for what would change the weights in a
    manner that is not computed here.
    """
    path = folder / CONFIG_NAME
    try:
        values = read_json(path, "the config of an adapter", error=CheckpointError)
    except FileNotFoundError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no table")
    return check_values(path, values)


def check_values(path: Path, values: Mapping[str, Any]) -> AdapterConfig:
    """A config whose every key is accounted for. Raises ``CheckpointError``."""
    try:
        for key, value in values.items():
            if key in _RULES and value is not None:
                _RULES[key](value, key)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    kind = values.get("peft_type")
    if kind not in KINDS:
        why = NOT_READ.get(str(kind), "is no kind that is known here")
        raise CheckpointError(
            f"{path}: {kind or 'an adapter without peft_type'} {why}", hint=PEFT_HINT
        )
    for key, value in values.items():
        _check(path, KINDS[kind], key, value)
    config = AdapterConfig(path, values)
    _check_start(config)
    return config


def _check(path: Path, keys: Mapping[str, Key], key: str, value: Any) -> None:
    declared = keys.get(key, Key("refused", "this key is not known, a newer PEFT may use it"))
    if declared.fate == "refused" and value not in declared.nothing:
        raise CheckpointError(f"{path}: {key}: {value!r}: {declared.why}", hint=PEFT_HINT)


def _check_start(config: AdapterConfig) -> None:
    start = config.values.get("init_lora_weights", True)
    if not isinstance(start, str | bool | None):
        raise CheckpointError(f"{config.path}: init_lora_weights is {start!r:.40}")
    if start in _UNCHANGED_BASE or config.initial is not None:
        return
    name = str(start)
    why = "a random decomposition" if name.startswith("pissa_niter_") else _CHANGED_BASE.get(name)
    raise CheckpointError(
        f"{config.path}: init_lora_weights: {start!r}: the update needs "
        f"{why or 'an initialisation that is not known here'}",
        hint="save it with PEFT's path_initial_model_for_weight_conversion, as a plain LoRA",
    )
