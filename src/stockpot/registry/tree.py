"""The family tree of a registry, as nodes and edges and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stockpot.registry.index import Edge, Row
from stockpot.registry.registry import Registry


def family(
    registry: Registry, model: str | None = None, *, limit: int = 500
) -> tuple[list[Row], list[Edge]]:
    """Models and edges: all of them, or a model with its ancestors and descendants.

    At most ``limit`` models, the newest, and always the one that is asked for; edges from parents
    that are not among them are left out.
    """
    if model is None:
        rows = registry.index.newest(limit)[::-1]
    else:
        own = registry.row(model)
        numbers = {own.num, *registry.index.ancestors(own.num)}
        numbers |= set(registry.index.descendants(own.num))
        rows = registry.index.by_number(numbers)[-limit:]
        if own not in rows:
            rows = [own, *rows[1:]]
    known = {row.num for row in rows}
    edges = [edge for edge in registry.index.edges(known) if edge.parent in known]
    return rows, edges


def lineage(
    rows: Sequence[Row], edges: Sequence[Edge], lines: Mapping[str, Sequence[str]]
) -> dict[str, list[dict[str, object]]]:
    """Nodes and edges as ``report.tree.family_tree`` draws them.

    ``lines`` maps names of lines to the ids of their versions, which are drawn as such.
    """
    versions = {
        ident: f"{line} {place + 1}"
        for line, ids in lines.items()
        for place, ident in enumerate(ids)
    }
    inner = {edge.parent for edge in edges}
    ending = {edge.child for edge in edges}
    nodes: list[dict[str, object]] = []
    for row in rows:
        kind = row.kind
        if row.num not in ending and row.num in inner:
            kind = "base"
        elif row.id in versions:
            kind = "final"
        label = f"{row.name} ({versions[row.id]})" if row.id in versions else row.name
        nodes.append({"id": row.id, "label": label, "kind": kind})
    names = {row.num: row.id for row in rows}
    drawn: list[dict[str, object]] = [
        {
            "from": names[edge.parent],
            "to": names[edge.child],
            "role": edge.role,
            "weight": edge.weight,
        }
        for edge in edges
        if edge.parent is not None and edge.parent != edge.child
    ]
    return {"nodes": nodes, "edges": drawn}


def text(
    rows: Sequence[Row], edges: Sequence[Edge], lines: Mapping[str, Sequence[str]] | None = None
) -> str:
    """The tree for a terminal: each model below one parent, other parents named beside.

    That is one that no other parent came from, with the longest way to the root: an average of
    fine-tunings is shown below a fine-tuning, not below the base of all. Versions of a line hang on
    each other.
    """
    by_number = {row.num: row for row in rows}
    parents: dict[int, list[Edge]] = {}
    for edge in edges:
        if edge.parent in by_number and edge.parent != edge.child:
            parents.setdefault(edge.child, []).append(edge)
    versions = {ident for ids in (lines or {}).values() for ident in ids}
    lineal = {row.num for row in rows if row.id in versions}
    above = {num: _above(num, own, parents, lineal) for num, own in parents.items()}
    children: dict[int, list[int]] = {}
    for row in rows:
        if row.num in parents:
            children.setdefault(above[row.num], []).append(row.num)
    tags: dict[str, list[str]] = {}
    for line, ids in (lines or {}).items():
        for place, ident in enumerate(ids):
            newest = "*" if place == len(ids) - 1 else ""
            tags.setdefault(ident, []).append(f"[{line} {place + 1}{newest}]")

    written: list[str] = []
    shown: set[int] = set()

    def describe(row: Row) -> str:
        words = [row.name, row.id[:8], row.kind, *tags.get(row.id, [])]
        own = parents.get(row.num, [])
        sure = [edge.confidence for edge in own if edge.confidence is not None]
        if sure:
            words.append(f"(parent inferred, {sure[0]:.0%} sure)")
        others = [
            by_number[edge.parent].name
            for edge in own
            if edge.parent is not None and edge.parent != above[row.num]
        ]
        if others:
            words.append(f"(also from {', '.join(dict.fromkeys(others))})")
        return "  ".join(words)

    def descend(start: int) -> None:
        pending = [(start, "", "")]
        while pending:
            num, before, below = pending.pop()
            if num in shown:
                continue
            shown.add(num)
            written.append(before + describe(by_number[num]))
            own = [child for child in children.get(num, []) if child not in shown]
            for place in range(len(own) - 1, -1, -1):
                last = place == len(own) - 1
                turn, rail = ("└── ", "    ") if last else ("├── ", "│   ")
                pending.append((own[place], below + turn, below + rail))

    for row in rows:
        if row.num not in parents:
            descend(row.num)
    for row in rows:  # what only a cycle reaches, should a record claim one
        descend(row.num)
    return "\n".join(written)


def _above(
    child: int, own: Sequence[Edge], parents: Mapping[int, Sequence[Edge]], lineal: set[int]
) -> int:
    """The parent under which a model is drawn."""
    first = [edge for edge in own if edge.role in ("base", "init")]
    ordered = [edge.parent for edge in [*first, *own] if edge.parent is not None]
    if len(ordered) == 1 or (child in lineal and ordered[0] in lineal):
        return ordered[0]
    found: dict[int, set[int]] = {}
    for start in set(ordered):
        pending, seen = [start], {start}
        while pending:
            for edge in parents.get(pending.pop(), ()):
                if edge.parent is not None and edge.parent not in seen:
                    seen.add(edge.parent)
                    pending.append(edge.parent)
        found[start] = seen - {start}
    earlier = set().union(*found.values())
    near = [each for each in ordered if each not in earlier] or ordered
    return max(near, key=lambda each: len(found[each]))
