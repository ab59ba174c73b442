"""Which tensor of a base an adapter means, and whether it is stored as ``(out, in)``.

Adapters name modules of a model in memory. A file may put other prefixes before them ("model." or
"language_model.model."), keep experts apart that the model holds in one tensor, or leave out a head
that is tied to the embedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from stockpot.checkpoints.header import TensorInfo
from stockpot.compat import import_transformers

# What models hold in one tensor of experts, and what files call the parts.
_FUSED: dict[str, tuple[tuple[str, ...], ...]] = {
    "gate_up_proj": (("gate_proj", "w1"), ("up_proj", "w3")),
    "gate_proj": (("gate_proj", "w1"),),
    "up_proj": (("up_proj", "w3"),),
    "down_proj": (("down_proj", "w2"),),
}
# So many parts of a name at least (a module and its weight) say which tensor is meant.
_ENOUGH = 2
_LAYER = re.compile(r"(.*?\d+)\.")
_EXPERT = re.compile(r"(.*?\d+)\.(?:.*\.)?experts\.(\d+)\.(\w+)\.weight")


class BaseNames:
    """The tensors of a base, looked up by the names that adapters use."""

    def __init__(self, tensors: Mapping[str, TensorInfo], home: Path | None = None) -> None:
        """``home``: of the base's config, which says what transformers calls the tensors."""
        self.tensors = tensors
        self._home = home

    def find(self, name: str) -> str | None:
        """The base's name of ``name``: equal, or the only one with the longest common ending.

        Of names with equal endings the one wins whose other parts are the same words. Where none
        has its ending, transformers is asked what a model calls the tensors of its file. None where
        nothing, or more than one, fits.
        """
        if name in self.tensors:
            return name
        flat = self._flat.get(name.replace(".", "_"), [])
        if len(flat) == 1:
            return flat[0]
        known = self._by_ending(name)
        if known is None and (renamed := self._renamed):
            known = renamed.find(name)
            return None if known is None else self._model_names[known]
        return known

    def _by_ending(self, name: str) -> str | None:
        parts = name.split(".")
        scored = {}
        for known in self._by_end.get(".".join(parts[-_ENOUGH:]), []):
            others = known.split(".")
            common = _common_start(parts[::-1], others[::-1])
            rest, other_rest = parts[:-common], others[:-common]
            # Two numbers of layers are never the same layer.
            if not any(part.isdigit() for part in (*rest, *other_rest)):
                scored[known] = (common, len({*rest} & {*other_rest}))
        best = max(scored.values(), default=None)
        winners = [known for known, score in scored.items() if score == best]
        return winners[0] if len(winners) == 1 else None

    def experts(self, module: str, parameter: str) -> list[list[str]]:
        """Names of what ``module.parameter`` is fused from: a list for each expert, in order."""
        layer = _LAYER.match(f"{module}.")
        end = ".".join(layer[1].split(".")[-2:]) if layer else ""
        homes = [home for home in self._experts if ".".join(home.split(".")[-2:]) == end]
        if len(homes) != 1:
            return []
        experts = self._experts[homes[0]]
        found = []
        for number in range(len(experts)):
            leaves = experts.get(number, {})
            names = [
                next((leaves[alias] for alias in aliases if alias in leaves), None)
                for aliases in _FUSED.get(parameter, ())
            ]
            if not names or None in names:
                return []
            found.append([name for name in names if name is not None])
        return found

    @cached_property
    def _model_names(self) -> dict[str, str]:
        """What a model of transformers calls the tensors -> what the file calls them."""
        return renamed_by_transformers(self.tensors, self._home)

    @cached_property
    def _renamed(self) -> BaseNames | None:
        names = self._model_names
        return BaseNames({new: self.tensors[old] for new, old in names.items()}) if names else None

    @cached_property
    def _flat(self) -> dict[str, list[str]]:
        flat: dict[str, list[str]] = {}
        for name in self.tensors:
            flat.setdefault(name.replace(".", "_"), []).append(name)
        return flat

    @cached_property
    def _by_end(self) -> dict[str, list[str]]:
        ends: dict[str, list[str]] = {}
        for name in self.tensors:
            ends.setdefault(".".join(name.split(".")[-_ENOUGH:]), []).append(name)
        return ends

    @cached_property
    def _experts(self) -> dict[str, dict[int, dict[str, str]]]:
        """Layer -> number of an expert -> leaf -> name."""
        experts: dict[str, dict[int, dict[str, str]]] = {}
        for name in self.tensors:
            if match := _EXPERT.fullmatch(name):
                layer, number, leaf = match.groups()
                experts.setdefault(layer, {}).setdefault(int(number), {})[leaf] = name
        return experts

    def transposed(self, weight: str, *, flag: bool) -> bool:
        """Whether a square weight is stored ``(in, out)``, from the nearest weight that tells.

        A weight with a bias tells: its length is the number of outputs. ``flag`` decides where no
        weight does.
        """
        nearest: tuple[int, bool] | None = None
        for name, info in self.tensors.items():
            bias = self._bias(name)
            if len(info.shape) not in (2, 3) or bias is None or info.shape[-1] == info.shape[-2]:
                continue
            outputs = bias.shape[-1]
            if outputs not in info.shape[-2:]:
                continue
            common = _common_start(weight.split("."), name.split("."))
            if nearest is None or common > nearest[0]:
                nearest = common, info.shape[-1] == outputs
        return flag if nearest is None else nearest[1]

    def _bias(self, weight: str) -> TensorInfo | None:
        module = weight.removesuffix(".weight")
        return self.tensors.get(f"{module}.bias") or self.tensors.get(f"{weight}_bias")


def renamed_by_transformers(names: Iterable[str], home: Path | None) -> dict[str, str]:
    """Names in the model in memory -> names in its file, where the two differ.

    From the renamings that transformers 5 does when it loads the model of the config in ``home``;
    nothing where there is no config, no transformers, or a model that is not its own.
    """
    if home is None:
        return {}
    try:
        transformers = import_transformers()
        import torch
        from transformers import conversion_mapping, core_model_loading
    except ImportError:
        return {}
    try:
        config = transformers.AutoConfig.from_pretrained(home, local_files_only=True)
        with torch.device("meta"):
            model = getattr(transformers, config.architectures[0])(config)
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return {}
    rules: Any = conversion_mapping.get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, core_model_loading.WeightRenaming)]
    known = model.state_dict()
    renamed = {}
    for name in sorted(names):
        new, _ = core_model_loading.rename_source_key(
            name, renamings, [], model.base_model_prefix, known
        )
        if new != name:
            renamed[new] = name
    return renamed


def _common_start(a: Sequence[str], b: Sequence[str]) -> int:
    count = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        count += 1
    return count
