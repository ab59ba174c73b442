"""One merge, opened and planned, ready to run into any sink."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from stockpot.checkpoints import Checkpoint, MemoryCheckpoint, TensorInfo, open_checkpoint
from stockpot.checkpoints.checkpoint import join_digests
from stockpot.checkpoints.decoded import decoded
from stockpot.checkpoints.matching import match_names
from stockpot.checkpoints.open import adapter_folder, open_adapted, weights_folder
from stockpot.checkpoints.writer import CheckpointWriter
from stockpot.errors import InputError
from stockpot.merging.alignment import Heads
from stockpot.merging.chained import open_merged
from stockpot.merging.companions import copy_companions, correct_config, from_adapters
from stockpot.merging.configs import compare_configs
from stockpot.merging.engine import Engine, Options, Sink
from stockpot.merging.plan import MergePlan, make_plan
from stockpot.merging.pool import WorkerPool
from stockpot.merging.processes import run_forked, worth_forking
from stockpot.merging.report import MergeReport, ParentReport
from stockpot.merging.settings import Rule, Settings
from stockpot.merging.vocabulary import match_vocabularies
from stockpot.provenance import versions
from stockpot.system import usable_cores

if TYPE_CHECKING:
    import torch

Source: TypeAlias = (
    "str | Path | Mapping[str, Any] | HasState | Checkpoint | Spec | AdaptedSource | AlignedSource"
)


@runtime_checkable
class HasState(Protocol):
    """A module of torch."""

    def state_dict(self) -> Mapping[str, Any]:
        """Names -> tensors."""
        ...


Dtype: TypeAlias = "str | torch.dtype"

DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}


TRANSPLANT = "transplant"
"""The method of a merge whose second source gives nothing but its tokens (``transplant.py``)."""


class SelfPlanned(Protocol):
    """A recipe of another tool, which says itself what each tensor is made of."""

    @property
    def needs_folder(self) -> bool:
        """Whether the result is more than weights, so that one file cannot hold it."""
        ...

    def plan(self, sources: Sequence[Checkpoint], dtype: str | None) -> MergePlan:
        """Works for the engine, from the models and, last, the base."""
        ...

    def complete(self, folder: Path, sources: Sequence[Checkpoint]) -> None:
        """Bring what was copied from a parent into ``folder`` in line with the weights."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain values."""
        ...


@dataclass(frozen=True)
class Spec:
    """What to merge and by which rules: a recipe without its sources' contents.

    Fields are the arguments of ``stockpot.merging.merge``; ``force`` accepts parents whose configs
    give their weights other meanings, ``check_load`` has a folder loaded by its library before it
    is kept (``loading.py``), ``notes`` were made before and go into the report. With a ``layout``,
    that says what is done with each tensor: parameters, rules and heads are its own. ``rank``: the
    result is to be an adapter of this rank (``extraction.write_adapter``), no model.
    """

    models: Sequence[Source]
    method: str = "linear"
    base: Source | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    rules: Sequence[Rule] = ()
    heads: Heads = "auto"
    dtype: str | None = None
    layout: SelfPlanned | None = None
    force: bool = False
    check_load: bool = True
    notes: Sequence[str] = ()
    rank: int | None = None

    def __repr__(self) -> str:
        return f"Spec({self.method} of {len(self.models)} models)"


@dataclass(frozen=True)
class AdaptedSource:
    """A model with a LoRA adapter (folder or hub id) on top of it."""

    base: Source
    adapter: str


@dataclass(frozen=True)
class AlignedSource:
    """A model whose hidden units are put in the order of another one's (``weight_matching.py``)."""

    model: Source
    reference: Source


def aligned_spec(spec: Spec) -> Spec:
    """``spec`` with every model in the order of the base, or without one of the first model.

    Raises ``InputError`` for a recipe of another tool.
    """
    if spec.layout is not None:
        raise InputError("a mergekit recipe knows no alignment", hint="write stockpot's own")
    first = 0 if spec.base is not None else 1
    reference = spec.models[0] if spec.base is None else spec.base
    models = [
        model if i < first or isinstance(model, AlignedSource) else AlignedSource(model, reference)
        for i, model in enumerate(spec.models)
    ]
    return replace(spec, models=models)


class MergeJob:
    """Sources opened, settings checked, plan made. A context manager: closes what it opened."""

    def __init__(self, spec: Spec, options: Options | None = None) -> None:
        self._options = options or Options()
        if not spec.models:
            raise InputError("nothing to merge", hint="give at least one model")
        self.spec = spec
        self._stack = ExitStack()
        self.base: Checkpoint | None = None
        try:
            self.base = None if spec.base is None else self._open(spec.base, "base")
            self.models = [self._open(s, f"model {i + 1}") for i, s in enumerate(spec.models)]
            self.plan = self._make_plan()
            self.plan.warnings[:0] = [note for source in self.sources for note in source.notes]
            self.plan.warnings += self._compare_configs()
        except BaseException:
            self.close()
            raise

    def _open(self, source: Source, label: str) -> Checkpoint:
        if isinstance(source, Checkpoint):
            return source
        if isinstance(source, Spec):
            return self._stack.enter_context(
                open_merged(MergeJob(source, self._options), self._options)
            )
        if isinstance(source, AdaptedSource):
            path = Path(source.adapter).expanduser()
            folder = path if path.is_file() else weights_folder(source.adapter)
            if folder is None:
                raise InputError(f"{source.adapter} is no folder of an adapter")
            base = self._open(source.base, label)
            return open_adapted(folder, f"{base.label}+{source.adapter}", base)
        if isinstance(source, AlignedSource):
            from stockpot.merging.weight_matching import aligned_to

            return aligned_to(
                self._open(source.reference, "reference"), self._open(source.model, label)
            )
        if isinstance(source, HasState):
            source = source.state_dict()
        if isinstance(source, Mapping):
            return decoded(MemoryCheckpoint(source, label=label))
        folder = adapter_folder(source)
        if folder is not None and self.base is not None:
            # Adapters lie on the base that was given, whatever place their configs name.
            return open_adapted(folder, str(source), self.base)
        return self._stack.enter_context(open_checkpoint(source))

    def _make_plan(self) -> MergePlan:
        spec, values = self.spec, dict(self.spec.parameters)
        if spec.layout is not None:
            if values or spec.rules or spec.heads != "auto":
                problem = "a mergekit recipe says parameters and heads itself"
                raise InputError(problem, hint="change the file, or write stockpot's own")
            return spec.layout.plan(self.sources, dtype_code(spec.dtype))
        kinds = {
            kind for method in Settings.used(spec.method, spec.rules) for kind in method.extras
        }
        extras = {}
        for kind in sorted(kinds & values.keys()):
            files = values.pop(kind)
            extras[kind] = [self._open(file, f"{kind} {i + 1}") for i, file in enumerate(files)]
        renamed, renamings = match_names(self.sources)
        names = renamed[0].names
        count = len(self.models)
        settings = Settings(spec.method, values, models=count, rules=spec.rules, names=names)
        matched, words = match_vocabularies(renamed)
        plan = make_plan(
            matched[:count],
            matched[count] if self.base is not None else None,
            settings,
            heads=spec.heads,
            dtype=dtype_code(spec.dtype),
            extras=extras,
        )
        plan.warnings += [*renamings, *words]
        return plan

    def _compare_configs(self) -> list[str]:
        """Differences of the parents' configs, for the report. Raises where they are refused.

        A recipe of another tool is carried out as that tool does it.
        """
        models = self.models[:1] if self.spec.method == TRANSPLANT else self.models
        compared = compare_configs(models, self.base)
        if not self.spec.force and self.spec.layout is None:
            compared.refuse()
        return [*compared.meaning, *compared.rest]

    @property
    def sources(self) -> list[Checkpoint]:
        """The models and, last, the base: the order in which parents are numbered."""
        return [*self.models, *([self.base] if self.base is not None else [])]

    @property
    def stored(self) -> list[Checkpoint]:
        """``sources`` as they lie there: what is hashed, however they are read."""
        return [source.stored for source in self.sources]

    @property
    def donors(self) -> list[Checkpoint]:
        """Those whose config and tokenizer the result may take, the first one first."""
        if self.spec.layout is None or self.base is None:
            return self.sources
        return [self.base, *self.models]

    @property
    def label(self) -> str:
        """The merge in few words, for messages about its result."""
        return f"{self.spec.method} of {len(self.models)} models"

    @property
    def elements(self) -> int:
        return sum(work.info.size for work in self.plan.works)

    def prepare(self) -> dict[str, TensorInfo]:
        """Do what must come before the first byte of output; returns what the output will hold."""
        self.tasks = self.plan.prepare(self._options)
        return self.plan.tensors

    def run(self, sink: Sink, advance: Callable[[float], None] | None = None) -> None:
        """Merge every tensor into ``sink``, after ``prepare``."""
        engine = Engine(sink, self._options, advance)
        if isinstance(sink, CheckpointWriter) and worth_forking(self.tasks, self._options):
            engine.model_passes(self.tasks)
            run_forked(self.tasks, sink, self._options, advance)
        else:
            engine.run(self.tasks)

    def digests(self) -> list[str]:
        """Content hashes of the models and, last, the base."""
        return digests(self.stored, self._options.threads)

    def write_companions(self, folder: Path) -> bool:
        """Copy to ``folder`` config, tokenizer and the like of the first model that has them, in
        line with the result; whether one has.
        """
        home = next((source.home for source in self.donors if source.home is not None), None)
        if home is None:
            return False
        copy_companions(home, folder)
        changes = from_adapters(self.sources, folder)
        code = dtype_code(self.spec.dtype)
        dtype = next((name for name, known in DTYPES.items() if known == code), None)
        correct_config(folder / "config.json", dtype, changes)
        if self.spec.layout is not None:
            self.spec.layout.complete(folder, self.sources)
        return True

    def report(self, digests: Sequence[str] | None, seconds: float) -> MergeReport:
        """What was done; to be called after ``run``."""
        roles = ["model"] * len(self.models) + (["base"] if self.base is not None else [])
        known: Sequence[str | None] = digests or [None] * len(self.sources)
        return MergeReport(
            method=self.spec.method,
            recipe=self.recipe(),
            parents=tuple(
                ParentReport(source.label, role, digest)
                for source, role, digest in zip(self.sources, roles, known, strict=True)
            ),
            tensors=tuple(self.plan.reports()),
            dropped=tuple(self.plan.dropped),
            warnings=(*self.spec.notes, *self.plan.warnings),
            versions=versions(),
            seconds=seconds,
        )

    def recipe(self) -> dict[str, Any]:
        """The recipe as plain JSON values, sources by their labels."""
        spec = self.spec
        value: dict[str, Any] = {
            "method": spec.method,
            "models": [
                _described(source, model)
                for source, model in zip(spec.models, self.models, strict=True)
            ],
        }
        if self.base is not None and spec.base is not None:
            value["base"] = _described(spec.base, self.base)
        if spec.parameters:
            value["parameters"] = {name: _plain(item) for name, item in spec.parameters.items()}
        if spec.rules:
            value["rules"] = [rule.to_json() for rule in spec.rules]
        if spec.heads != "auto":
            value["heads"] = spec.heads
        if spec.dtype:
            value["dtype"] = spec.dtype
        if spec.layout is not None:
            value["mergekit"] = spec.layout.to_json()
        return value

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> MergeJob:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def dtype_code(dtype: Dtype | None) -> str | None:
    """Safetensors code of "bfloat16", "torch.float32", "BF16", ... Raises ``InputError``."""
    if dtype is None:
        return None
    short = str(dtype).removeprefix("torch.")
    code = DTYPES.get(short, short.upper())
    if code not in DTYPES.values():
        raise InputError(f"dtype: got {dtype!r}", hint=f"expected one of {', '.join(DTYPES)}")
    return code


def digests(
    sources: Sequence[Checkpoint],
    threads: int | None = None,
    hashed: Mapping[str, bytes] | None = None,
) -> list[str]:
    """``Checkpoint.digest()`` of each source, tensors shared among threads.

    ``hashed``: digests of tensors of a single source that need not be read.
    """
    known = {i: digest for i, s in enumerate(sources) if (digest := s.known_digest()) is not None}
    unknown = [i for i in range(len(sources)) if i not in known]
    found: dict[int, dict[str, bytes]] = {i: dict(hashed or {}) for i in unknown}

    def piece(number: int, name: str) -> Callable[[Any], None]:
        def hash_tensor(context: Any) -> None:
            found[number][name] = sources[number].tensor_digest(name)

        return hash_tensor

    # Large tensors first, so that no thread is left alone with one at the end.
    pieces = [
        (sources[i].info(name).nbytes, piece(i, name))
        for i in unknown
        for name in sources[i].names
        if name not in found[i]
    ]
    pieces.sort(key=lambda sized: -sized[0])
    pool: WorkerPool[Any] = WorkerPool(threads or usable_cores(), lambda: None)
    pool.run(iter([iter([[hash_tensor for _, hash_tensor in pieces]])]))
    for i in unknown:
        known[i] = join_digests(sources[i].tensors, found[i])
        sources[i].keep_digest(known[i])
    return [known[i] for i in range(len(sources))]


def _described(source: Source, opened: Checkpoint) -> Any:
    """A source in a recipe: its label, or the recipe of an inner merge."""
    if isinstance(source, AlignedSource):
        return {"align": opened.label}
    recipe = getattr(opened, "recipe", None)
    return {"merge": recipe} if isinstance(source, Spec) and recipe is not None else opened.label


def _plain(value: Any) -> Any:
    """A parameter as JSON: sources by name, everything else as it is."""
    if isinstance(value, Checkpoint):
        return value.label
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping) and any(hasattr(item, "shape") for item in value.values()):
        return "state in memory"
    return value
