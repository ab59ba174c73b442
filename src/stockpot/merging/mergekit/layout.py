"""What each tensor of the result is made of: which tensors of which models, by which parameters.

A model is a few stacks of layers and what lies outside them. Outside, what comes before the layers
(embeddings) is made as the first slice says, what comes after them (norm, head) as the last one
says, both at the gradients' first point. mergekit knows some architectures by lists; of all others
it counts everything outside the layers as coming before them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.checkpoints.dtypes import is_float
from stockpot.errors import CheckpointError, MethodError
from stockpot.merging.alignment import Aligned
from stockpot.merging.engine import Copy, Work
from stockpot.merging.mergekit.architectures import MODULES, listed
from stockpot.merging.mergekit.classes import empty_model, names_in_class, vocabulary_tensors
from stockpot.merging.mergekit.declaration import (
    METHOD_NOTES,
    UNROUNDED,
    foreign_method,
    foreign_parameters,
    scalar_kind,
)
from stockpot.merging.mergekit.document import (
    Document,
    Input,
    Module,
    OutputSlice,
    Reference,
    Settings,
)
from stockpot.merging.mergekit.names import (
    NamedTensors,
    comes_before,
    module_of,
    promoted_type,
    read_config,
)
from stockpot.merging.mergekit.tokens import (
    SharedVocabulary,
    Tokenizers,
    VocabularyView,
)
from stockpot.merging.mergekit.values import resolved
from stockpot.merging.mergekit.views import ViewedCheckpoint
from stockpot.merging.method import Method, PerModel
from stockpot.merging.methods.mergekit_deltas import check_della
from stockpot.merging.plan import MergePlan

_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_ARITHMETIC = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass
class Part:
    """One tensor of the result: from which tensors, in which slice, and where in it.

    ``inputs``: (model, name of its tensor). ``t``: 0 at the slice's first layer, 1 at its last.
    """

    name: str
    piece: OutputSlice
    module: Module
    t: float
    inputs: list[tuple[Reference, str]]


@dataclass
class ForeignLayout:
    """A document of mergekit's, laid out over the models it names.

    ``depths``: after ``parts``, the layers of each stack of the result, as (model, layer).
    """

    document: Document
    sources: Mapping[Reference, Checkpoint]
    depths: dict[str, list[int]] = field(default_factory=dict)

    @cached_property
    def names(self) -> dict[Reference, NamedTensors]:
        return {model: NamedTensors(source.names) for model, source in self.sources.items()}

    @cached_property
    def architecture(self) -> str | None:
        """The class that the config of the first model names."""
        content = read_config(self.sources[self.document.donor])
        named = content.get("architectures") or []
        return named[0] if len(named) == 1 else None

    @cached_property
    def _tokenizers(self) -> Tokenizers:
        return Tokenizers(self.document, self.sources)

    @cached_property
    def vocabulary(self) -> SharedVocabulary | None:
        """The vocabulary that the document asks for; None: models keep theirs."""
        return None if self.document.vocabulary is None else self._tokenizers.shared()

    @cached_property
    def _empty(self) -> Any:
        return empty_model(read_config(self.sources[self.document.donor]))

    @cached_property
    def _token_tensors(self) -> set[str]:
        return vocabulary_tensors(self._empty)

    @cached_property
    def _called(self) -> dict[str, str]:
        """What mergekit calls the tensors of an architecture that it has no list for."""
        conditions = self.document.has_conditions
        if listed(self.architecture) or not conditions or find_spec("transformers") is None:
            return {}
        names = {name for source in self.sources.values() for name in source.names}
        try:
            return names_in_class(names, self._empty)
        except CheckpointError:
            return {}

    # ------------------------------------------------------------------------------------- parts
    def parts(self) -> Iterator[Part]:
        """Every tensor of the result. Raises ``CheckpointError`` for layers that are not there."""
        for module in self.document.modules:
            yield from self._module_parts(module)

    def _module_parts(self, module: Module) -> Iterator[Part]:
        first = module.slices[0]
        names = self.names[first.sources[0].model]
        belongs = self._members(module)
        outside = [name for name in names.outside if belongs(name)]
        for other in first.sources[1:]:
            more = self.names[other.model].outside
            outside += [name for name in more if name not in outside and belongs(name)]
        stacks = [stack for stack in names.stacks if belongs(stack)]
        if not module.whole and len(stacks) > 1:
            raise CheckpointError(
                f"slices of a model with several stacks of layers ({', '.join(stacks)})",
                hint="say which by 'modules'",
            )
        for name in outside:
            if self._comes_before(name):
                yield self._outside_part(name, module, first, first.sources)
        for stack in stacks:
            yield from self._stack_parts(stack, module)
        last = module.slices[-1]
        for name in outside:
            if not self._comes_before(name):
                # mergekit takes as many of the last slice's sources as the first slice has.
                chosen = last.sources[: len(first.sources)]
                yield self._outside_part(name, module, last, chosen)

    def _comes_before(self, name: str) -> bool:
        known = listed(self.architecture)
        return not known or comes_before(name)

    def _outside_part(
        self, name: str, module: Module, piece: OutputSlice, sources: Sequence[Input]
    ) -> Part:
        inputs = [(source.model, self._tied(source.model, name)) for source in sources]
        return Part(name, piece, module, 0.0, inputs)

    def _tied(self, model: Reference, name: str) -> str:
        """The tensor that stands for ``name``: the embeddings, for a head that is tied to them."""
        source = self.sources[model]
        if name in source or not name.endswith(_HEAD):
            return name
        tied = [other for other in source.names if other.endswith(_EMBEDDINGS)]
        return tied[0] if len(tied) == 1 else name

    def _stack_parts(self, stack: str, module: Module) -> Iterator[Part]:
        origin: list[int] = []
        for piece in module.slices:
            ranges = [self._range(source, stack) for source in piece.sources]
            counts = {stop - start for start, stop in ranges}
            if len(counts) > 1:
                raise CheckpointError(
                    f"the models of a slice have {' and '.join(map(str, sorted(counts)))} layers",
                    hint="all models of a slice need the same number of layers",
                )
            count = counts.pop()
            for index in range(count):
                t = index / (count - 1) if count > 1 else 1.0
                layers = [
                    self._layer(source.model, stack, start + index)
                    for source, (start, _) in zip(piece.sources, ranges, strict=True)
                ]
                for rest in dict.fromkeys(rest for layer in layers for rest in layer):
                    inputs = [
                        (source.model, layer.get(rest, f"{stack}{start + index}{rest}"))
                        for source, layer, (start, _) in zip(
                            piece.sources, layers, ranges, strict=True
                        )
                    ]
                    yield Part(f"{stack}{len(origin)}{rest}", piece, module, t, inputs)
                origin.append(ranges[0][0] + index)
        self.depths[stack] = origin

    def _range(self, source: Input, stack: str) -> tuple[int, int]:
        return source.layers or (0, self.names[source.model].depth(stack))

    def _layer(self, model: Reference, stack: str, number: int) -> dict[str, str]:
        """Rest of the name -> name, of one layer; empty within a stack that leaves numbers out."""
        depth = self.names[model].depth(stack)
        if number >= depth:
            raise CheckpointError(
                f"{self.sources[model].label} has no layer {number}",
                hint=f"its layers are 0 to {depth - 1}",
            )
        return self.names[model].stacks[stack].get(number, {})

    def _members(self, module: Module) -> Any:
        """Whether a name belongs to a module."""
        if module.name is None:
            return lambda name: True
        lists = MODULES.get(self.architecture or "")
        stacks = list(self.names[module.slices[0].sources[0].model].stacks)
        if lists is not None:
            known = list(lists)
        elif listed(self.architecture) or len(stacks) < 2:
            known = ["default"]
        else:
            known = ["default", *(stack.rstrip(".") for stack in stacks)]
        if module.name not in known:
            raise CheckpointError(
                f"the model has no module '{module.name}'",
                hint=f"its modules are {', '.join(known)}",
            )
        if lists is not None:
            return lambda name: module_of(name, lists) == module.name
        if known == ["default"]:
            return lambda name: True
        if module.name == "default":
            return lambda name: not any(name.startswith(stack) for stack in stacks)
        return lambda name: name.startswith(f"{module.name}.")

    # -------------------------------------------------------------------------------------- plan
    def plan(self, dtype: str | None) -> MergePlan:
        """Works for the engine. Raises what ``make_plan`` does, before anything is written."""
        method = foreign_method(self.document.method)
        works: list[Work | Copy] = []
        aligned: list[Aligned] = []
        views: dict[tuple[int, Reference], ViewedCheckpoint] = {}
        for part in self.parts():
            shown: list[tuple[Reference, Checkpoint]] = []
            for model, theirs in part.inputs:
                key = (id(part.piece), model)
                if key not in views:
                    views[key] = ViewedCheckpoint(self.sources[model], self.document.dtype)
                shown.append((model, views[key]))
                self._show(views[key], part, model, theirs)
            if self.vocabulary is not None and self._has_row_for_each_token(part.name):
                shown = self._in_one_vocabulary(part, shown)
            work = self._work(method, part, shown, dtype)
            works.append(work)
            action = "copy" if isinstance(work, Copy) else "merge"
            aligned.append(Aligned(work.info, action, ()))  # type: ignore[arg-type]
        return MergePlan(works, aligned, self._dropped(works), self._notes(works))

    def _show(self, view: ViewedCheckpoint, part: Part, model: Reference, theirs: str) -> None:
        if theirs not in self.sources[model]:
            raise CheckpointError(
                f"{self.sources[model].label} lacks '{theirs}', which another model of the slice "
                "has",
                hint="only models of one architecture are merged",
            )
        view.show(part.name, theirs)

    def _has_row_for_each_token(self, name: str) -> bool:
        """Whether a tensor is embeddings or head; files may have other prefixes than classes."""
        return any(
            name == other or name.endswith(f".{other}") or other.endswith(f".{name}")
            for other in self._token_tensors
        )

    def _in_one_vocabulary(
        self, part: Part, shown: Sequence[tuple[Reference, Checkpoint]]
    ) -> list[tuple[Reference, Checkpoint]]:
        """Views of a tensor in which all models have the rows of the result."""
        assert self.vocabulary is not None
        models = [model for model, _ in shown]
        base = part.piece.base or self.document.base
        views: list[tuple[Reference, Checkpoint]] = []
        for i, rows in enumerate(self.vocabulary.sources(models, base)):
            view = VocabularyView([v for _, v in shown], i, rows, self.vocabulary.rows)
            view.show(part.name)
            views.append((models[i], view))
        return views

    def _work(
        self,
        method: Method,
        part: Part,
        shown: Sequence[tuple[Reference, Checkpoint]],
        dtype: str | None,
    ) -> Work | Copy:
        name = part.name
        infos = [view.info(name) for _, view in shown]
        shapes = {info.shape for info in infos}
        if len(shapes) > 1:
            raise CheckpointError(
                f"'{name}' has shapes {', '.join(map(str, sorted(shapes)))}",
                hint="vocabularies of different sizes are brought together by 'tokenizer'",
            )
        if not all(is_float(info.dtype) for info in infos):
            return self._buffer(name, shown)
        code = promoted_type([info.dtype for info in infos])
        info = TensorInfo(name, infos[0].shape, dtype or self.document.out_dtype or code)
        base = self._base(method, part)
        values = self._values(method, part, base)
        models = [view for model, view in shown if model != base]
        origin = next((view for model, view in shown if model == base), None)
        if not models and origin is not None:
            copied = foreign_method("passthrough")
            return Work(info, [origin], None, copied, copied.resolve({}, models=1))
        arguments = method.resolve(values, models=len(models))
        if "arithmetic" in arguments:
            arguments["arithmetic"] = _ARITHMETIC[code]
        if "epsilon" in arguments and "density" in arguments:
            check_della(arguments)
        return Work(info, models, origin, method, arguments)

    def _buffer(self, name: str, shown: Sequence[tuple[Reference, Checkpoint]]) -> Copy:
        """A tensor of integers, which all models must agree on."""
        first = shown[0][1]
        for _, view in shown[1:]:
            if view.info(name) != first.info(name) or (
                view.tensor_digest(name) != first.tensor_digest(name)
            ):
                raise CheckpointError(
                    f"'{name}' holds whole numbers that differ between {first.label} and "
                    f"{view.label}",
                    hint="whole numbers cannot be merged; are these quantised weights?",
                )
        return Copy(first.info(name), first)

    def _base(self, method: Method, part: Part) -> Reference | None:
        """The base of a tensor, where the method takes one."""
        if method.base == "none":
            return None
        base = part.piece.base or self.document.base
        models = [model for model, _ in part.inputs]
        if base is None and method.base == "required":
            raise MethodError(
                f"mergekit's {self.document.method} needs a base", hint="give 'base_model'"
            )
        if base is not None and base not in models:
            raise MethodError(
                f"the base {base} is not among the sources of a slice",
                hint="mergekit wants it there, list it as a source",
            )
        return base

    def _values(self, method: Method, part: Part, base: Reference | None) -> dict[str, Any]:
        """Parameters of a tensor: asked for in the model, the slice, the module and the file."""
        shared = (part.piece.settings, part.module.settings, self.document.settings)
        values: dict[str, Any] = {}
        for name, parameter in foreign_parameters(method).items():
            kind = scalar_kind(parameter)
            if not isinstance(parameter, PerModel):
                called = self._called.get(part.name, part.name)
                values[name] = resolved(kind, shared, called, part.t)
                continue
            values[name] = [
                resolved(
                    kind,
                    (*_own(part.piece, model), *shared),
                    self._called.get(theirs, theirs),
                    part.t,
                )
                for model, theirs in part.inputs
                if model != base
            ]
        return values

    # ------------------------------------------------------------------------------------- words
    def _dropped(self, works: Sequence[Work | Copy]) -> list[str]:
        """Names of the first model that the result lacks, layers aside."""
        made = {work.info.name for work in works}
        first = self.names[self.document.donor]
        return [name for name in first.outside if name not in made]

    def _notes(self, works: Sequence[Work | Copy]) -> list[str]:
        notes = list(self.document.notes)
        if self.vocabulary is not None:
            notes += self._tokenizers.notes
        if self.document.method in METHOD_NOTES:
            notes.append(f"{self.document.method}: {METHOD_NOTES[self.document.method]}")
        narrow = any(isinstance(work, Work) and work.dtype.itemsize == 4 for work in works)
        if narrow:
            notes.append(f"unlike mergekit, {UNROUNDED}")
        return notes


def _own(piece: OutputSlice, model: Reference) -> list[Settings]:
    return [source.settings for source in piece.sources if source.model == model]
