"""What the pages show of a registry. The only module here that knows the registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from stockpot.errors import CheckpointError, InputError
from stockpot.inspection import Inspection, compare
from stockpot.inspection.sources import unused
from stockpot.reading import visible
from stockpot.registry import Manifest, Registry
from stockpot.registry.index import Edge, Row
from stockpot.registry.registry import Unusable, models_of
from stockpot.registry.signing import signers
from stockpot.registry.tree import family, lineage

PAGE = 50  # models in a table
DRAWN = 60  # models in a drawing
_OFFERED = 300  # names offered where one is to be typed
_SIDE_BY_SIDE = 6  # models in one inspection
_QUICK = 60_000_000  # parameters of all models together, above which a sample is read
_CARD = 200_000
_LONG = 300  # characters of what is said of an entry
_BASES = ("base", "init")


@dataclass(frozen=True)
class ParentView:
    """A parent as a page shows it; ``id`` None where it is not in the registry."""

    id: str | None
    name: str
    digest: str
    role: str
    weight: float | None
    confidence: float | None


@dataclass(frozen=True)
class Entry:
    """A row of a table of models. ``tags`` are its places on lines, such as "main 3"."""

    row: Row
    parents: tuple[ParentView, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class LineView:
    """A line and its versions, oldest first; ``newest`` is the name of the last one's model."""

    name: str
    newest: str
    versions: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Overview:
    """Models that match a search, newest first, one page of them; the tree of the newest."""

    label: str
    count: int
    matches: int
    entries: tuple[Entry, ...]
    lines: tuple[LineView, ...]
    lineage: Mapping[str, Any]
    drawn: int
    quarantine: tuple[Unusable, ...]
    notice: str | None


@dataclass(frozen=True)
class ModelView:
    """Everything about one model."""

    entry: Entry
    manifest: Manifest
    children: tuple[Entry, ...]
    ancestors: int
    descendants: int
    metrics: tuple[tuple[str, float, tuple[float | None, ...]], ...]
    measured: tuple[ParentView, ...]
    lineage: Mapping[str, Any]
    drawn: int
    card: str
    files: tuple[tuple[str, int], ...]
    signed: tuple[str, ...]


def address(model: str) -> str:
    """The page of a model, by its id."""
    return f"/models/{quote(model, safe='')}"


def overview(place: str, search: str = "", page: int = 1) -> Overview:
    """The models of a registry. ``search``: part of a name, or the beginning of an id."""
    with Registry(place) as registry:
        lines = _lines(registry)
        found, matches = _search(registry, search.strip(), page)
        rows, edges = family(registry, limit=DRAWN)
        return Overview(
            label=registry.label,
            count=registry.index.count(),
            matches=matches,
            entries=_entries(registry, found, lines),
            lines=lines,
            lineage=_linked(rows, edges, lines),
            drawn=len(rows),
            quarantine=tuple(
                Unusable(visible(entry.key, _LONG), entry.state, visible(entry.what, _LONG))
                for entry in registry.quarantine()
            ),
            notice=registry.notice,
        )


def model(place: str, ident: str) -> ModelView:
    """A model by id, name, digest or line. Raises ``InputError`` for an unknown one."""
    with Registry(place) as registry:
        row = registry.row(ident)
        manifest = registry.manifest(row.id)
        lines = _lines(registry)
        rows, edges = family(registry, row.id, limit=DRAWN)
        entry = _entries(registry, [row], lines)[0]
        near = "num IN (SELECT child FROM edges WHERE parent = ?)"
        children = registry.index.rows(near, (row.num,), limit=PAGE)
        return ModelView(
            entry=entry,
            manifest=manifest,
            children=_entries(registry, children, lines),
            ancestors=len(registry.index.ancestors(row.num)),
            descendants=len(registry.index.descendants(row.num)),
            **_measured(registry, manifest, entry.parents),
            lineage=_linked(rows, edges, lines, here=row.id),
            drawn=len(rows),
            card=_card(registry, manifest),
            files=tuple((file.path, file.size) for file in manifest.files),
            signed=tuple(map(str, signers(registry, "manifest", manifest.id))),
        )


def offered(place: str) -> list[tuple[str, str]]:
    """Names and ids of the newest models, for lists to choose from."""
    with Registry(place) as registry:
        lines = [(line.name, line.versions[-1]["model"]) for line in _lines(registry)]
        rows = registry.index.newest(_OFFERED)
        return [*lines, *((row.name, row.id) for row in rows)]


def resolve(place: str, names: Iterable[str]) -> list[str]:
    """Ids of models given by name, id, digest or line. Raises ``InputError`` for unknown ones."""
    with Registry(place) as registry:
        return [registry.find(name) for name in names]


def relatives(place: str, ident: str) -> tuple[list[str], str | None]:
    """Which models to inspect with one, and their base: parents that are in the registry."""
    with Registry(place) as registry:
        row = registry.row(ident)
        edges = [edge for edge in registry.index.edges([row.num]) if edge.parent is not None]
        named = {each.num: each.id for each in registry.index.by_number(_parents_of(edges))}
        bases = [edge for edge in edges if edge.role in _BASES] or edges[:1] * (len(edges) == 1)
        base = named[bases[0].parent] if bases and bases[0].parent is not None else None
        others = [named[edge.parent] for edge in edges if edge.parent is not None]
        return [each for each in [row.id, *dict.fromkeys(others)] if each != base], base


def inspect(place: str, models: tuple[str, ...], base: str | None) -> Inspection:
    """Compare models of the registry, by id; of many only the first. A sample of large ones."""
    with Registry(place) as registry:
        chosen = models[:_SIDE_BY_SIDE]
        rows = [registry.row(each) for each in (*chosen, *([base] if base else []))]
        named: dict[str, Any] = {}
        for row in rows:
            named[unused(row.name, named)] = registry.checkpoint(row.id)
        names = list(named)
        ancestor = named.pop(names[-1]) if base else None
        if ancestor is not None:
            ancestor.label = names[-1]
        quick = sum(row.parameters for row in rows) > _QUICK
        return compare(named, ancestor, quick=quick)


def line(place: str, name: str) -> tuple[LineView, list[str]]:
    """A line, and the names of its versions' models. Raises ``InputError`` for an unknown one."""
    with Registry(place) as registry:
        found = next((line for line in _lines(registry) if line.name == name), None)
        if found is None:
            raise InputError(f"there is no line '{name}'")
        names = _names(registry, (version["model"] for version in found.versions))
        return found, [names[version["model"]] for version in found.versions]


def _parents_of(edges: Iterable[Edge]) -> set[int]:
    return {edge.parent for edge in edges if edge.parent is not None}


def _lines(registry: Registry) -> tuple[LineView, ...]:
    read = {name: tuple(registry.line(name)) for name in registry.lines()}
    found = {name: versions for name, versions in read.items() if versions}
    names = _names(registry, (versions[-1]["model"] for versions in found.values()))
    return tuple(
        LineView(name, names[versions[-1]["model"]], versions) for name, versions in found.items()
    )


def _names(registry: Registry, idents: Iterable[str]) -> dict[str, str]:
    """Names of models by id; of one that is gone, the beginning of its id."""
    found = {ident: ident[:12] for ident in idents}
    for ident in found:
        for row in registry.index.rows("id = ?", (ident,)):
            found[ident] = row.name
    return found


def _tags(lines: Iterable[LineView]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        for version in line.versions:
            found.setdefault(version["model"], []).append(f"{line.name} {version['number']}")
    return found


def _search(registry: Registry, search: str, page: int) -> tuple[list[Row], int]:
    condition, values = "1", []
    if search:
        escaped = search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        condition = "name LIKE ? ESCAPE '\\' OR note LIKE ? ESCAPE '\\' OR id LIKE ? ESCAPE '\\'"
        values = [f"%{escaped}%", f"%{escaped}%", f"{escaped}%"]
    found = registry.index.rows(condition, values)[::-1]
    return found[(page - 1) * PAGE : page * PAGE], len(found)


def _entries(
    registry: Registry, rows: Iterable[Row], lines: Iterable[LineView]
) -> tuple[Entry, ...]:
    rows = list(rows)
    edges = registry.index.edges(row.num for row in rows)
    parents = {each.num: each for each in registry.index.by_number(_parents_of(edges))}
    tags = _tags(lines)
    return tuple(
        Entry(
            row,
            tuple(_parent(edge, parents) for edge in edges if edge.child == row.num),
            tuple(tags.get(row.id, ())),
        )
        for row in rows
    )


def _parent(edge: Edge, known: Mapping[int, Row]) -> ParentView:
    row = None if edge.parent is None else known.get(edge.parent)
    return ParentView(
        id=None if row is None else row.id,
        name=edge.name if row is None else row.name,
        digest=edge.digest,
        role=edge.role,
        weight=edge.weight,
        confidence=edge.confidence,
    )


def _linked(
    rows: list[Row], edges: list[Edge], lines: Iterable[LineView], here: str | None = None
) -> dict[str, list[dict[str, object]]]:
    versions = {line.name: models_of(line.versions) for line in lines}
    drawing = lineage(rows, edges, versions)
    for node in drawing["nodes"]:
        if node["id"] == here:
            node["here"] = True
        else:
            node["href"] = address(str(node["id"]))
    return drawing


def _measured(
    registry: Registry, manifest: Manifest, parents: Iterable[ParentView]
) -> dict[str, Any]:
    """The model's metrics beside those of parents that were measured the same way."""
    known = []
    for parent in parents:
        if parent.id is not None:
            theirs = registry.index.metrics(registry.row(parent.id).num)
            if set(theirs) & set(manifest.metrics):
                known.append((parent, theirs))
    known = known[:3]
    rows = tuple(
        (name, value, tuple(theirs.get(name) for _, theirs in known))
        for name, value in sorted(manifest.metrics.items())
    )
    return {"metrics": rows, "measured": tuple(parent for parent, _ in known)}


def _card(registry: Registry, manifest: Manifest) -> str:
    """The text of the model card; empty where there is none that can be read."""
    for file in manifest.files:
        if file.path.lower() == "readme.md" and file.blob is not None and file.size <= _CARD:
            with suppress(CheckpointError, UnicodeDecodeError):
                return registry.blob(file.blob).tobytes().decode()
    return ""
