"""Which tensors of one model stand for which of another: by name, or by name after a prefix.

Wrappers put words before every name ("module." by DataParallel, "model." by Lightning, "bert." by a
task model). One prefix a model is enough to undo them; nothing else is guessed. Inspection, merges,
reviews and recycling all match names here. Buffers that a model makes itself (``position_ids``,
causal masks, rotary frequencies) are no weights: some versions of a library store them, others not.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stockpot.checkpoints.checkpoint import Checkpoint
from stockpot.checkpoints.dtypes import Array
from stockpot.checkpoints.header import TensorInfo

Shape = tuple[int, ...]

# A suffix such as "weight" or "fc.bias" fits many names; more than this and it says nothing.
_AMBIGUOUS = 4
# A change of prefix is a wrapper only if it unites this share of the smaller model's names.
_MOST = 0.5


@dataclass(frozen=True)
class Alignment:
    """How a model's names meet those of the reference.

    ``names`` maps reference names to the model's names, for tensors of equal shape, in reference
    order. ``reference_prefix`` was taken from the reference's names and ``prefix`` put before what
    was left ("" and "" when the names are equal as they are). ``missing`` are reference names that
    the model lacks, ``extra`` the model's own, ``reshaped`` those in both with another shape.
    """

    names: Mapping[str, str]
    reference_prefix: str
    prefix: str
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    reshaped: Mapping[str, tuple[Shape, Shape]]

    @property
    def renamed(self) -> str | None:
        """The prefix change in words, or None when names are equal as they are."""
        if self.prefix == self.reference_prefix:
            return None
        if self.prefix and self.reference_prefix:
            return f"'{self.reference_prefix}' is '{self.prefix}'"
        return (
            f"without '{self.reference_prefix}'"
            if self.reference_prefix
            else f"'{self.prefix}' before"
        )


_BUFFERS = re.compile(
    r"(.*\.)?(position_ids|masked_bias|inv_freq|rotary_emb\.(cos|sin)_cached|relative_position_index"
    r"|attn_mask|causal_mask)"
)
_SIGNS = re.compile(
    r"\.(lora_(down|up|mid|A|B|E|embedding_A|embedding_B|magnitude_vector)|lora\.(down|up)|"
    r"hada_w1_a|lokr_w[12]|ia3_l|vera_lambda_b|dora_scale|lora_linear_layer)(\.|$)|_lora\.(down|up)\."
)
_CAUSAL_MASK = re.compile(r"(.*\.)?(attn|attention)\.bias")


def is_buffer(info: TensorInfo) -> bool:
    """Whether a tensor is one that the model makes itself, whatever is stored."""
    mask = _CAUSAL_MASK.fullmatch(info.name) is not None and len(info.shape) == 4
    return mask or _BUFFERS.fullmatch(info.name) is not None


def is_adapter(names: Iterable[str]) -> bool:
    """Whether tensors of these names are factors of an adapter, which are no weights of a model."""
    return any(_SIGNS.search(name) for name in names)


def shapes_of(weights: Checkpoint) -> dict[str, Shape]:
    """Names and shapes of all tensors but buffers."""
    return {name: i.shape for name, i in weights.tensors.items() if not is_buffer(i)}


def with_own_experts(models: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[str]]:
    """Models that agree in how experts lie, as :func:`.experts.unfused`; most have none."""
    if not any(".experts." in name for model in models for name in model.names):
        return list(models), []
    from stockpot.checkpoints.experts import unfused

    return unfused(models)


def match_names(models: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[str]]:
    """All models under the first one's names, and what was renamed in words."""
    models, words = with_own_experts(models)
    reference = shapes_of(models[0])
    matched = [models[0]]
    for model in models[1:]:
        found = align(reference, shapes_of(model))
        if found.renamed is None:
            matched.append(model)
            continue
        names = {
            name: found.reference_prefix + name.removeprefix(found.prefix)
            if name.startswith(found.prefix)
            else name
            for name in model.names
        }
        matched.append(RenamedCheckpoint(model, names))
        words.append(f"{model.label}: names match those of {models[0].label} {found.renamed}")
    return matched, words


class RenamedCheckpoint(Checkpoint):
    """A checkpoint with other names for its tensors; ``names``: own -> new."""

    def __init__(self, model: Checkpoint, names: Mapping[str, str]) -> None:
        self._model = model
        self._own = {new: own for own, new in names.items()}
        tensors = {
            new: TensorInfo(new, model.info(own).shape, model.info(own).dtype)
            for new, own in self._own.items()
        }
        super().__init__(tensors, label=model.label, path=model.path, metadata=model.metadata)

    @property
    def home(self) -> Path | None:
        return self._model.home

    def raw(self, name: str) -> Array:
        return self._model.raw(self._own[name])

    def prefetch(self, name: str) -> None:
        self._model.prefetch(self._own[name])

    def decode(self, name: str, start: int, stop: int, out: Array) -> Array:
        return self._model.decode(self._own[name], start, stop, out)

    def first_nonfinite(self, name: str, start: int, stop: int) -> int | None:
        return self._model.first_nonfinite(self._own[name], start, stop)


def align(reference: Mapping[str, Shape], model: Mapping[str, Shape]) -> Alignment:
    """Match the names of ``model`` with those of ``reference`` (both: name -> shape).

    Takes names as they are unless a change of prefix brings more tensors of equal shape together.
    """
    best = _apply(reference, model, "", "")
    if len(best.names) == len(reference) == len(model):
        return best
    for old, new in _candidates(reference, model):
        other = _apply(reference, model, old, new)
        if len(other.names) > max(len(best.names), _MOST * min(len(reference), len(model))):
            best = other
    return best


def _apply(
    reference: Mapping[str, Shape], model: Mapping[str, Shape], old: str, new: str
) -> Alignment:
    names: dict[str, str] = {}
    reshaped: dict[str, tuple[Shape, Shape]] = {}
    missing: list[str] = []
    used: set[str] = set()
    for name, shape in reference.items():
        other = new + name[len(old) :] if name.startswith(old) else None
        if other is None or other not in model:
            missing.append(name)
            continue
        used.add(other)
        if tuple(model[other]) == tuple(shape):
            names[name] = other
        else:
            reshaped[name] = (tuple(shape), tuple(model[other]))
    extra = tuple(name for name in model if name not in used)
    return Alignment(names, old, new, tuple(missing), extra, reshaped)


def _candidates(
    reference: Mapping[str, Shape], model: Mapping[str, Shape]
) -> list[tuple[str, str]]:
    """The prefix changes that most names vote for, each name by its longest common ending."""
    endings: dict[str, list[str]] = defaultdict(list)
    for name in reference:
        for ending in _endings(name):
            endings[ending].append(name)
    votes: Counter[tuple[str, str]] = Counter()
    for name, shape in model.items():
        for ending in _endings(name):
            found = [known for known in endings.get(ending, ()) if reference[known] == shape]
            if found:
                if len(found) <= _AMBIGUOUS:
                    new = name[: -len(ending)]
                    votes.update((known[: -len(ending)], new) for known in found)
                break
    return [change for change, _ in votes.most_common(3) if change != ("", "")]


def _endings(name: str) -> list[str]:
    """The name and what remains after each dot, longest first."""
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]
