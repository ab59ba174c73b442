"""Reads a mergekit file. Every key is taken by its name, and what is left over is a problem."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from stockpot.errors import InputError, MethodError
from stockpot.merging.job import dtype_code
from stockpot.merging.mergekit.declaration import (
    SHIPPED,
    all_parameters,
    foreign_method,
    foreign_parameters,
    keys_of,
    scalar_kind,
)
from stockpot.merging.mergekit.document import (
    Document,
    Input,
    Module,
    OutputSlice,
    Reference,
    Settings,
    TokenRule,
    TokenSource,
    Vocabulary,
)
from stockpot.merging.mergekit.values import (
    Setting,
    converted,
    holds_condition,
    is_condition,
    scalars,
)
from stockpot.merging.method import Method, PerModel
from stockpot.merging.methods import MERGEKIT
from stockpot.merging.parameters import Integer
from stockpot.merging.yaml_file import YamlFile
from stockpot.yaml_lines import Location, suggestion

_LAYER = Integer("layer_range", None)


class _Table:
    """A table of the file. Keys are taken by name; on leaving, those that are left are problems."""

    def __init__(self, file: YamlFile, value: Any, place: Location, kind: str) -> None:
        self._file, self._place, self._kind = file, place, kind
        self._keys = keys_of(kind)
        if not isinstance(value, Mapping):
            file.problem(place, f"expected a table with {', '.join(self._keys)}, got {value!r}")
            value = {}
        self._left = dict(value)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for key in self._left:
            near = suggestion(str(key), list(self._keys))
            self._file.problem((*self._place, key), f"mergekit has no key '{key}' here{near}")

    def take(self, name: str) -> tuple[Any, Location]:
        """The value of a declared key (None where it is missing) and its place."""
        key = self._keys[name]
        place = (*self._place, name)
        value = self._left.pop(name, None)
        if key.fate == "refused" and value is not None:
            self._file.problem(place, f"'{name}' is refused: {key.note}")
        return value, place


class _Reader:
    """Reads one document of a file; problems are collected in ``file``."""

    def __init__(self, file: YamlFile, place: Location) -> None:
        self._file, self._place = file, place
        self._notes: dict[str, None] = {}
        self._method: Method | None = None

    def read(self, value: Any) -> Document:
        with _Table(self._file, value, self._place, "file") as table:
            method = self._named_method(*table.take("merge_method"))
            base = self._optional(table.take("base_model"))
            modules = self._modules(table, base)
            settings = self._settings(*table.take("parameters"))
            dtype = self._dtype(*table.take("dtype"))
            out_dtype = self._dtype(*table.take("out_dtype"))
            vocabulary = self._vocabulary(table.take("tokenizer_source"), table.take("tokenizer"))
            template = self._template(*table.take("chat_template"))
            name = self._text(*table.take("name"))
        return Document(
            name,
            method,
            base,
            modules,
            settings,
            dtype,
            out_dtype,
            vocabulary,
            template,
            tuple(self._notes),
        )

    # ---- methods and parameters
    def _named_method(self, value: Any, place: Location) -> str:
        if not isinstance(value, str) or value not in MERGEKIT:
            near = suggestion(str(value), list(MERGEKIT))
            self._file.problem(
                place, f"mergekit has no method {value!r} (there are: {', '.join(MERGEKIT)}){near}"
            )
            return "linear"
        self._method = foreign_method(value)
        return value

    def _settings(self, value: Any, place: Location, *, of_input: bool = False) -> Settings:
        """A table of parameters; of an input only those that each input has are used."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._file.problem(place, "'parameters' is a table")
            return {}
        used = {}
        for name, setting in value.items():
            here = (*place, name)
            if self._well_formed(setting, here) and self._is_used(name, here, of_input=of_input):
                used[str(name)] = setting
                self._check_scalars(str(name), setting, here)
        return used

    def _is_used(self, name: str, place: Location, *, of_input: bool) -> bool:
        if self._method is None:
            return False
        known, short = foreign_parameters(self._method), self._method.name.partition(":")[2]
        if name not in known:
            if name not in all_parameters():
                near = suggestion(str(name), sorted(all_parameters()))
                self._file.problem(place, f"no method of mergekit has a parameter '{name}'{near}")
            note = f"'{name}' changes nothing: mergekit's {short} has no such parameter"
        elif of_input and not isinstance(known[name], PerModel):
            note = f"'{name}' of a model changes nothing: mergekit looks for it elsewhere"
        else:
            return True
        self._notes[note] = None
        return False

    def _check_scalars(self, name: str, setting: Setting, place: Location) -> None:
        assert self._method is not None
        kind = scalar_kind(foreign_parameters(self._method)[name])
        for value in scalars(setting):
            try:
                converted(kind, value)
            except MethodError as error:
                self._file.problem(place, error.message)

    def _well_formed(self, setting: Any, place: Location) -> bool:
        """Whether a setting is a scalar, scalars, a condition or conditions; else a problem."""
        if is_condition(setting):
            return self._condition(setting, place)
        if holds_condition(setting):
            well = [self._condition(item, (*place, i)) for i, item in enumerate(setting)]
            return all(well)
        return self._gradient(setting, place)

    def _condition(self, setting: Any, place: Location) -> bool:
        with _Table(self._file, setting, place, "condition") as table:
            value, spot = table.take("value")
            pattern, where = table.take("filter")
        if pattern is not None and not isinstance(pattern, str):
            self._file.problem(where, f"'filter' is a part of a tensor's name, got {pattern!r}")
            return False
        return is_condition(setting) and self._gradient(value, spot)

    def _gradient(self, value: Any, place: Location) -> bool:
        items = value if isinstance(value, list) else [value]
        if all(isinstance(item, bool | int | float | str) for item in items):
            return True
        self._file.problem(place, f"expected a value, or a list of values, got {value!r}")
        return False

    # ---- models, slices and modules
    def _modules(self, table: _Table, base: Reference | None) -> tuple[Module, ...]:
        taken = {key: table.take(key) for key in ("models", "slices", "modules")}
        given = [key for key, (value, _) in taken.items() if value]
        if len(given) != 1:
            self._file.problem(
                self._place, "exactly one of 'models', 'slices' and 'modules' says what to merge"
            )
            return ()
        if given == ["modules"]:
            return self._named_modules(*taken["modules"], base)
        return (self._module(None, taken["models"], taken["slices"], {}, base),)

    def _named_modules(
        self, value: Any, place: Location, base: Reference | None
    ) -> tuple[Module, ...]:
        if not isinstance(value, Mapping):
            self._file.problem(place, "'modules' is a table of modules")
            return ()
        modules = []
        for name, content in value.items():
            here = (*place, name)
            with _Table(self._file, content, here, "module") as table:
                models, slices = table.take("models"), table.take("slices")
                settings = self._settings(*table.take("parameters"))
            if bool(models[0]) == bool(slices[0]):
                self._file.problem(here, "a module has either 'models' or 'slices'")
            modules.append(self._module(str(name), models, slices, settings, base))
        return tuple(modules)

    def _module(
        self,
        name: str | None,
        models: tuple[Any, Location],
        slices: tuple[Any, Location],
        settings: Settings,
        base: Reference | None,
    ) -> Module:
        if models[0]:
            sources = self._inputs(*models, kind="model")
            if base is not None and all(source.model != base for source in sources):
                sources = (*sources, Input(base, None, {}))  # as mergekit does, for any method
            return Module(name, (OutputSlice(sources, None, {}),), True, settings)
        value, place = slices
        if not isinstance(value, list):
            self._file.problem(place, "'slices' is a list of tables with 'sources'")
            value = []
        pieces = [self._slice(item, (*place, i)) for i, item in enumerate(value)]
        return Module(name, tuple(pieces), False, settings)

    def _slice(self, value: Any, place: Location) -> OutputSlice:
        with _Table(self._file, value, place, "slice") as table:
            sources = self._inputs(*table.take("sources"), kind="source")
            base = self._optional(table.take("base_model"))
            if table.take("residual_weight")[0] is not None:
                self._notes["'residual_weight' changes nothing, in mergekit neither"] = None
            settings = self._settings(*table.take("parameters"))
        lengths = {source.layers[1] - source.layers[0] for source in sources if source.layers}
        if len(lengths) > 1:
            self._file.problem(place, "all sources of a slice have the same number of layers")
        return OutputSlice(sources, base, settings)

    def _inputs(self, value: Any, place: Location, *, kind: str) -> tuple[Input, ...]:
        if not isinstance(value, list) or not value:
            self._file.problem(place, f"'{place[-1]}' is a list with at least one model")
            return ()
        inputs = []
        for i, item in enumerate(value):
            with _Table(self._file, item, (*place, i), kind) as table:
                model = self._reference(*table.take("model"))
                layers = self._layers(*table.take("layer_range")) if kind == "source" else None
                settings = self._settings(*table.take("parameters"), of_input=True)
            inputs.append(Input(model, layers, settings))
        models = [one.model for one in inputs]
        if len(set(models)) < len(models):
            self._file.problem(place, "a model stands twice")
        return tuple(inputs)

    def _layers(self, value: Any, place: Location) -> tuple[int, int]:
        try:
            first, last = (converted(_LAYER, item) for item in value)
        except (MethodError, TypeError, ValueError):
            first, last = 1, 0
        if first > last:
            self._file.problem(place, f"'layer_range' is [first, last + 1], got {value!r}")
            return (0, 0)
        return first, last

    def _optional(self, taken: tuple[Any, Location]) -> Reference | None:
        return None if taken[0] is None else self._reference(*taken)

    def _reference(self, value: Any, place: Location) -> Reference:
        """``path@revision+adapter@revision``, or a table that says the same."""
        if isinstance(value, str):
            model, plus, adapter = value.partition("+")
            if "+" in adapter or not model or (plus and not adapter):
                self._file.problem(place, f"expected MODEL or MODEL+ADAPTER, got {value!r}")
            return Reference(model, adapter or None)
        with _Table(self._file, value, place, "reference") as table:
            model = self._path(*table.take("model"))
            lora, where = table.take("lora")
            table.take("override_architecture")
        return Reference(model or "", None if lora is None else self._path(lora, where))

    def _path(self, value: Any, place: Location) -> str:
        if isinstance(value, str):
            return value
        with _Table(self._file, value, place, "path") as table:
            path, where = table.take("path")
            revision, spot = table.take("revision")
        if not isinstance(path, str) or not path:
            self._file.problem(where, "expected the path or hub id of a model")
            return ""
        if revision is not None and not isinstance(revision, str):
            self._file.problem(spot, f"'revision' is a text, got {revision!r}")
        return path if revision is None else f"{path}@{revision}"

    # ---- types, vocabularies
    def _dtype(self, value: Any, place: Location) -> str | None:
        if value is None or value == "":
            return None
        try:
            return dtype_code(str(value))
        except InputError as error:
            self._file.problem(place, str(error))
            return None

    def _text(self, value: Any, place: Location) -> str | None:
        if value is not None and not isinstance(value, str):
            self._file.problem(place, f"'{place[-1]}' is a text, got {value!r}")
            return None
        return value or None

    def _template(self, value: Any, place: Location) -> str | None:
        template = self._text(value, place)
        if template is None or template in ("auto", "chatml"):
            return template
        if template in SHIPPED:
            self._file.problem(place, f"'{template}' is a text that ships with mergekit: give it")
        elif len(template) < 20 or "{" not in template:
            self._file.problem(place, f"{template!r} is no chat template")
        return template

    def _vocabulary(
        self, short: tuple[Any, Location], long: tuple[Any, Location]
    ) -> Vocabulary | None:
        if short[0] and long[0] is not None:
            self._file.problem(long[1], "either 'tokenizer_source' or 'tokenizer', not both")
        if short[0]:
            return Vocabulary(self._vocabulary_source(*short))
        if long[0] is None:
            return None
        with _Table(self._file, long[0], long[1], "tokenizer") as table:
            source, place = table.take("source")
            tokens, where = table.take("tokens")
            multiple, spot = table.take("pad_to_multiple_of")
        if multiple is not None and (not isinstance(multiple, int) or multiple < 0):
            self._file.problem(spot, f"'pad_to_multiple_of' is a whole number, got {multiple!r}")
            multiple = None
        if tokens is not None and not isinstance(tokens, Mapping):
            self._file.problem(where, "'tokens' is a table of tokens")
            tokens = None
        rules = {
            str(token): self._token(rule, (*where, token)) for token, rule in (tokens or {}).items()
        }
        chosen = "union" if source is None else self._vocabulary_source(source, place)
        return Vocabulary(chosen, rules, multiple or None)

    def _vocabulary_source(self, value: Any, place: Location) -> str | Reference:
        return value if value in ("union", "base") else self._reference(value, place)

    def _token(self, value: Any, place: Location) -> TokenRule:
        with _Table(self._file, value, place, "token") as table:
            source, where = table.take("source")
            force, spot = table.take("force")
        if force is not None and not isinstance(force, bool):
            self._file.problem(spot, f"'force' is true or false, got {force!r}")
        return TokenRule(self._token_source(source, where), bool(force))

    def _token_source(self, value: Any, place: Location) -> TokenSource | None:
        if value is None:
            return None
        if not isinstance(value, Mapping) or "kind" not in value:
            return TokenSource(self._reference(value, place))
        with _Table(self._file, value, place, "token source") as table:
            kind, where = table.take("kind")
            model = self._optional(table.take("model"))
            token_id, spot = table.take("token_id")
            token = self._text(*table.take("token"))
        if kind == "zero" and model is None and token_id is None and token is None:
            return TokenSource(zero=True)
        if kind != "model_token" or model is None:
            self._file.problem(where, "'kind' is zero, or model_token with a 'model'")
        if (token_id is None) == (token is None):
            self._file.problem(place, "either 'token' or 'token_id'")
        if token_id is not None and not isinstance(token_id, int):
            self._file.problem(spot, f"'token_id' is a whole number, got {token_id!r}")
        return TokenSource(model, token, token_id)


def read_document(file: YamlFile, value: Any, place: Location = ()) -> Document:
    """One document of ``file``; problems are noted there."""
    return _Reader(file, place).read(value)
