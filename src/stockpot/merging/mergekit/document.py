"""A mergekit file as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stockpot.merging.mergekit.values import Setting, holds_condition

Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class Reference:
    """A model: path or hub id (``owner/name@revision``), and an adapter on top of it."""

    model: str
    adapter: str | None = None

    def __str__(self) -> str:
        return self.model if self.adapter is None else f"{self.model}+{self.adapter}"


@dataclass(frozen=True)
class Input:
    """One model of a slice: layers ``first ... last - 1`` of it, None: all it has."""

    model: Reference
    layers: tuple[int, int] | None
    settings: Settings


@dataclass(frozen=True)
class OutputSlice:
    """Layers of the result, and what they are made of."""

    sources: tuple[Input, ...]
    base: Reference | None
    settings: Settings


@dataclass(frozen=True)
class Module:
    """A part of the model: one slice of whole models, or slices."""

    name: str | None
    slices: tuple[OutputSlice, ...]
    whole: bool
    settings: Settings


@dataclass(frozen=True)
class TokenSource:
    """Whose vector a token gets: a model's own, that of another token of a model, or zeros."""

    model: Reference | None = None
    token: str | None = None
    token_id: int | None = None
    zero: bool = False


@dataclass(frozen=True)
class TokenRule:
    """``force``: also where the models have a vector of their own."""

    source: TokenSource | None
    force: bool


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of the result: "union", "base", or a model's."""

    source: str | Reference
    tokens: Mapping[str, TokenRule] = field(default_factory=dict)
    multiple: int | None = None


@dataclass(frozen=True)
class Document:
    """One merge of a mergekit file."""

    name: str | None
    method: str
    base: Reference | None
    modules: tuple[Module, ...]
    settings: Settings
    dtype: str | None
    out_dtype: str | None
    vocabulary: Vocabulary | None
    chat_template: str | None
    notes: tuple[str, ...]

    def references(self) -> tuple[Reference, ...]:
        """Every model that is merged, in the order of the file; the base last, if any."""
        models = [
            source.model
            for module in self.modules
            for piece in module.slices
            for source in piece.sources
        ]
        if self.base is None:
            return tuple(dict.fromkeys(models))
        return (*(m for m in dict.fromkeys(models) if m != self.base), self.base)

    @property
    def has_conditions(self) -> bool:
        """Whether a setting depends on names of tensors."""
        tables = [self.settings, *(module.settings for module in self.modules)]
        for module in self.modules:
            for piece in module.slices:
                tables += [piece.settings, *(source.settings for source in piece.sources)]
        return any(holds_condition(setting) for table in tables for setting in table.values())

    @property
    def changes_tokenizer(self) -> bool:
        """Whether the result has a tokenizer of its own, which only a folder can hold."""
        return self.vocabulary is not None or self.chat_template is not None

    @property
    def donor(self) -> Reference:
        """The model whose config and tokenizer the result takes."""
        return self.base or self.references()[0]
