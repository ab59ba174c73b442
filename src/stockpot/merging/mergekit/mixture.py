"""mergekit-moe's files: a mixture of experts, built of dense models of one architecture.

Attention, embeddings, norms and head are the base's. The feed-forward blocks of the models become
the experts of each layer. A router is made of the prompts that each expert is for, or at random.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stockpot.checkpoints import Checkpoint, MemoryCheckpoint
from stockpot.compat import import_transformers
from stockpot.errors import CheckpointError
from stockpot.extras import require
from stockpot.merging.alignment import Aligned
from stockpot.merging.engine import Copy, Work
from stockpot.merging.job import AdaptedSource, Source, Spec
from stockpot.merging.mergekit.document import Reference
from stockpot.merging.mergekit.gates import MODES, RANDOM, gates
from stockpot.merging.mergekit.names import read_config
from stockpot.merging.mergekit.reading import _Reader, _Table
from stockpot.merging.mergekit.views import taken
from stockpot.merging.plan import MergePlan
from stockpot.merging.yaml_file import YamlFile, resolve_source
from stockpot.yaml_lines import Location

_BLOCK = re.compile(r"(model\.layers\.\d+)\.mlp\.(gate_proj|up_proj|down_proj)\.weight")
_WITHOUT_WINDOW = {"sliding_window": None, "use_sliding_window": False}


@dataclass(frozen=True)
class Family:
    """An architecture with experts: how its tensors and the keys of its config are called.

    ``inputs``: model types that it can be built of. ``shared``: how many shared experts it has.
    """

    title: str
    model_type: str
    architecture: str
    inputs: tuple[str, ...]
    shared: int
    block: str
    names: Mapping[str, str]
    count: str


_PLAIN = {name: name for name in ("gate_proj", "up_proj", "down_proj")}
FAMILIES = (
    Family(
        "Mixtral",
        "mixtral",
        "MixtralForCausalLM",
        ("llama", "mistral"),
        0,
        "block_sparse_moe",
        {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"},
        "num_local_experts",
    ),
    Family(
        "Qwen MoE",
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        ("qwen2", "llama", "mistral"),
        1,
        "mlp",
        _PLAIN,
        "num_experts",
    ),
    Family(
        "Qwen3 MoE", "qwen3_moe", "Qwen3MoeForCausalLM", ("qwen3",), 0, "mlp", _PLAIN, "num_experts"
    ),
)


@dataclass(frozen=True)
class Expert:
    """A model whose feed-forward blocks are experts, and the texts that they are for."""

    model: Reference
    prompts: tuple[str, ...]
    against: tuple[str, ...]
    scale: float


@dataclass(frozen=True)
class MixtureRecipe:
    """A file of mergekit-moe's; see ``job.SelfPlanned``. ``active``: experts that a token uses."""

    value: Mapping[str, Any]
    base: Reference = field(compare=False)
    experts: tuple[Expert, ...] = field(compare=False)
    shared: tuple[Expert, ...] = field(compare=False)
    gate: str = field(compare=False)
    active: int = field(compare=False)
    wanted: str = field(compare=False)

    @property
    def needs_folder(self) -> bool:
        """The config is another one than the base's."""
        return True

    def references(self) -> tuple[Reference, ...]:
        """The models, the base last."""
        models = dict.fromkeys(expert.model for expert in (*self.experts, *self.shared))
        return (*(model for model in models if model != self.base), self.base)

    def plan(self, sources: Sequence[Checkpoint], dtype: str | None) -> MergePlan:
        """Works for the engine. Raises ``CheckpointError`` for models that do not fit."""
        opened = dict(zip(self.references(), sources, strict=True))
        base, family = opened[self.base], self.family(sources)
        prefixes = [
            m[1] for name in base.names if (m := _BLOCK.fullmatch(name)) and m[2] == "gate_proj"
        ]
        if not prefixes:
            raise CheckpointError(f"{base.label} has no feed-forward blocks named as Llama's")
        chosen = (*self.experts, *self.shared)
        routers, notes = gates(base, chosen, self.gate, len(prefixes))
        count = len(self.experts)
        made = {}
        for prefix, rows in zip(prefixes, routers, strict=True):
            made[f"{prefix}.{family.block}.gate.weight"] = rows[:count]
            if self.shared:
                made[f"{prefix}.{family.block}.shared_expert_gate.weight"] = rows[count:]
        router = MemoryCheckpoint(made, label="router")
        works: list[Work | Copy] = []
        for name in base.names:
            match = _BLOCK.fullmatch(name)
            if match is None:
                if ".mlp." in name:
                    raise CheckpointError(f"{base.label}: {family.title} has no place for '{name}'")
                works.append(taken(base, name, name, dtype))
                continue
            prefix, part = match.groups()
            block = f"{prefix}.{family.block}"
            for to, expert in self._blocks(block, family):
                source = opened[expert.model]
                if name not in source or source.info(name).shape != base.info(name).shape:
                    raise CheckpointError(f"{source.label}: '{name}' is not of the base's shape")
                target = family.names[part] if ".experts." in to else part
                scale = expert.scale if part == "down_proj" else 1.0
                works.append(taken(source, name, f"{to}.{target}.weight", dtype, scale))
            if part == "gate_proj":
                code = dtype or base.info(name).dtype
                kept = [n for n in made if n.startswith(f"{block}.")]
                works += [taken(router, n, n, code) for n in kept]
        notes += [f"built as {family.title}"]
        if read_config(base).get("sliding_window"):
            notes.append("sliding_window of the base is left out, as mergekit does")
        if len({expert.model for expert in self.experts}) == 1:
            notes.append("all experts are one model: without training the mixture is no better")
        aligned = [Aligned(work.info, "merge", ()) for work in works]
        return MergePlan(works, aligned, [], notes)

    def _blocks(self, block: str, family: Family) -> Iterator[tuple[str, Expert]]:
        for number, expert in enumerate(self.experts):
            yield f"{block}.experts.{number}", expert
        for expert in self.shared:
            yield f"{block}.shared_expert", expert

    def family(self, sources: Sequence[Checkpoint]) -> Family:
        """The architecture that is built. Raises ``CheckpointError`` where there is none."""
        types = sorted({str(read_config(source).get("model_type")) for source in sources})
        for family in FAMILIES:
            named = family.title.lower().startswith(self.wanted.lower())
            fits = family.shared == len(self.shared) and types[0] in family.inputs
            if named and fits and len(types) == 1:
                return family
        known = "; ".join(
            f"{f.title} of {', '.join(f.inputs)}" + (" with one shared expert" if f.shared else "")
            for f in FAMILIES
        )
        raise CheckpointError(
            f"no mixture of experts is built of {', '.join(types)} with {len(self.shared)} shared "
            f"experts{f' as {self.wanted}' if self.wanted else ''}",
            hint=f"there are: {known}",
        )

    def complete(self, folder: Path, sources: Sequence[Checkpoint]) -> None:
        """Write the config of the mixture in place of the base's."""
        family = self.family(sources)
        configs = require_transformers().AutoConfig
        values = configs.from_pretrained(folder).to_dict()
        biased = any(name.endswith("q_proj.bias") for name in sources[-1].names)
        values |= {
            **_WITHOUT_WINDOW,
            "model_type": family.model_type,
            "architectures": [family.architecture],
            family.count: len(self.experts),
            "num_experts_per_tok": self.active,
        }
        if family.model_type != "mixtral":
            values |= dict.fromkeys(
                ("moe_intermediate_size", "shared_expert_intermediate_size"),
                values["intermediate_size"],
            )
            values |= {"decoder_sparse_step": 1, "norm_topk_prob": True, "mlp_only_layers": []}
            values |= {"qkv_bias": biased, "layer_types": None}
        configs.for_model(**values).save_pretrained(folder)

    def to_json(self) -> dict[str, Any]:
        """The file as it was read."""
        return dict(self.value)


def require_transformers() -> Any:
    """The package. Raises ``MissingDependencyError`` without it."""
    require("transformers", "a mixture of experts")
    return import_transformers()


class _MixtureReader(_Reader):
    """Reads a file of mergekit-moe's; problems are collected in ``file``."""

    def mixture(self, value: Mapping[str, Any]) -> tuple[MixtureRecipe, str | None]:
        """The mixture, and the type that its file names."""
        with _Table(self._file, value, self._place, "mixture") as table:
            base = self._reference(*table.take("base_model"))
            experts = self._experts(*table.take("experts"))
            shared = self._experts(*table.take("shared_experts"))
            gate, where = table.take("gate_mode")
            active, spot = table.take("experts_per_token")
            dtype = self._dtype(*table.take("dtype"))
            wanted = self._text(*table.take("architecture")) or ""
        gate, active = gate or "hidden", 2 if active is None else active
        if gate not in MODES:
            self._file.problem(where, f"'gate_mode' is one of {', '.join(MODES)}, got {gate!r}")
        if type(active) is not int or not 1 <= active <= len(experts):
            self._file.problem(
                spot, f"'experts_per_token' is 1 to {len(experts)}, the number of experts"
            )
        for number, expert in enumerate((*experts, *shared)):
            if gate not in RANDOM and not expert.prompts:
                problem = f"expert {number + 1} has no 'positive_prompts', which {gate} gates need"
                self._file.problem((*self._place, "experts"), problem)
        texts = {(expert.prompts, expert.against) for expert in experts}
        if gate not in RANDOM and len(experts) > 1 and len(texts) == 1:
            self._file.problem((*self._place, "experts"), "all experts have the same prompts")
        return MixtureRecipe(value, base, experts, shared, gate, active, wanted), dtype

    def _experts(self, value: Any, place: Location) -> tuple[Expert, ...]:
        if value is not None and not isinstance(value, list):
            self._file.problem(place, f"'{place[-1]}' is a list of tables with 'source_model'")
        experts = []
        for number, item in enumerate(value if isinstance(value, list) else ()):
            with _Table(self._file, item, (*place, number), "expert") as table:
                model = self._reference(*table.take("source_model"))
                prompts = self._prompts(*table.take("positive_prompts"))
                against = self._prompts(*table.take("negative_prompts"))
                scale, spot = table.take("residual_scale")
                table.take("noise_scale")
            if scale is not None and not isinstance(scale, int | float):
                self._file.problem(spot, f"'residual_scale' is a number, got {scale!r}")
                scale = None
            experts.append(Expert(model, prompts, against, 1.0 if scale is None else float(scale)))
        return tuple(experts)

    def _prompts(self, value: Any, place: Location) -> tuple[str, ...]:
        items = value or []
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            self._file.problem(place, f"'{place[-1]}' is a list of texts")
            return ()
        return tuple(items)


def mixture_from_json(value: Mapping[str, Any]) -> MixtureRecipe:
    """The mixture that ``to_json`` was asked of."""
    file = YamlFile.of(value, Path("recipe"))
    mixture, _ = _MixtureReader(file, ()).mixture(value)
    file.check()
    return mixture


def read_mixture(file: YamlFile) -> Spec:
    """A file of mergekit-moe's as a merge. Raises ``RecipeError`` with every problem."""
    mixture, dtype = _MixtureReader(file, ()).mixture(file.value)
    file.check()

    def source(model: Reference) -> Source:
        base = resolve_source(model.model, file.path.parent)
        if model.adapter is None:
            return base
        return AdaptedSource(base, resolve_source(model.adapter, file.path.parent))

    sources = [source(model) for model in mixture.references()]
    based = len(sources) > 1
    return Spec(
        models=sources[:-1] if based else sources,
        method="mixture",
        base=sources[-1] if based else None,
        dtype=dtype,
        layout=mixture,
    )
