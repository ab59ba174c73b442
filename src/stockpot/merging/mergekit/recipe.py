"""mergekit's files as merges: one document, or several that build on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stockpot.checkpoints import Checkpoint
from stockpot.merging.job import AdaptedSource, Source, Spec
from stockpot.merging.mergekit.document import Document, Reference
from stockpot.merging.mergekit.layout import ForeignLayout
from stockpot.merging.mergekit.outputs import complete_output
from stockpot.merging.mergekit.reading import read_document
from stockpot.merging.plan import MergePlan
from stockpot.merging.yaml_file import YamlFile, resolve_source
from stockpot.yaml_lines import Location


@dataclass(frozen=True)
class MergekitRecipe:
    """A document that lays out a merge itself; see ``job.SelfPlanned``."""

    value: Mapping[str, Any]
    document: Document = field(compare=False)

    @property
    def needs_folder(self) -> bool:
        """Whether the result is more than weights."""
        return self.document.changes_tokenizer

    def plan(self, sources: Sequence[Checkpoint], dtype: str | None) -> MergePlan:
        """What is done with each tensor; ``sources`` are the document's models, its base last."""
        return self._layout(sources).plan(dtype)

    def complete(self, folder: Path, sources: Sequence[Checkpoint]) -> None:
        """Bring config, vocabulary and chat template in ``folder`` in line with the weights."""
        layout = self._layout(sources)
        for _ in layout.parts():
            pass
        complete_output(folder, layout)

    def to_json(self) -> dict[str, Any]:
        """The document as it was read."""
        return dict(self.value)

    def _layout(self, sources: Sequence[Checkpoint]) -> ForeignLayout:
        return ForeignLayout(
            self.document, dict(zip(self.document.references(), sources, strict=True))
        )


def recipe_from_json(value: Mapping[str, Any]) -> MergekitRecipe:
    """The recipe that ``to_json`` was asked of."""
    file = YamlFile.of(value, Path("recipe"))
    document = read_document(file, value)
    file.check()
    return MergekitRecipe(value, document)


def read_mergekit(file: YamlFile) -> Spec:
    """A mergekit file as a merge. Raises ``RecipeError`` with every problem and its line.

    Of several documents (mergekit-multi) the one without a name is the result, or the one that no
    other uses; the others are merged on the way.
    """
    several = len(file.documents) > 1
    places: list[Location] = [
        (f"document {number}",) if several else () for number in range(len(file.documents))
    ]
    documents = [
        read_document(file, value, place)
        for value, place in zip(file.documents, places, strict=True)
    ]
    file.check()
    named: dict[str | None, int] = {}
    for number, document in enumerate(documents):
        if document.name in named:
            file.problem(places[number], f"two documents are called {document.name!r}")
        named[document.name] = number
    file.check()
    result = _result(file, documents)
    file.check()
    spec = _spec(file, documents, named, result, ())
    file.check()
    return spec


def _result(file: YamlFile, documents: Sequence[Document]) -> int:
    """Number of the document whose result is asked for."""
    for number, document in enumerate(documents):
        if document.name is None:
            return number
    used = {model.model for document in documents for model in document.references()}
    last = [number for number, document in enumerate(documents) if document.name not in used]
    if len(last) != 1:
        file.problem((), "several documents are results: leave the name of one away")
        return 0
    return last[0]


def _spec(
    file: YamlFile,
    documents: Sequence[Document],
    named: Mapping[str | None, int],
    number: int,
    above: tuple[int, ...],
) -> Spec:
    """One document as a merge, with those that it builds on as its sources."""
    document = documents[number]

    def source(model: Reference) -> Source:
        inner = named.get(model.model)
        if inner is None:
            base: Source = resolve_source(model.model, file.path.parent)
        elif inner in (*above, number):
            file.problem((), f"documents that build on each other in a circle: {model.model}")
            return model.model
        else:
            base = _spec(file, documents, named, inner, (*above, number))
        if model.adapter is None:
            return base
        return AdaptedSource(base, resolve_source(model.adapter, file.path.parent))

    references = document.references()
    opened = [source(model) for model in references]
    based = document.base is not None and len(opened) > 1
    return Spec(
        models=opened[:-1] if based else opened,
        method=f"mergekit:{document.method}",
        base=opened[-1] if based else None,
        dtype=document.out_dtype or document.dtype,
        layout=MergekitRecipe(file.documents[number], document),
    )
