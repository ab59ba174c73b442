"""Family tree of the final weights: a layered graph from the base to the final model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stockpot.report import svg

_ROW, _HEIGHT, _MOST = 40.0, 28.0, 14
COLUMNS = {
    "base": "base",
    "wild": "from the wild",
    "auxiliary": "auxiliary",
    "probe": "linear probe",
    "run": "run",
    "merge": "merge",
    "final": "final",
}

# Colours of a drawing that stands alone; on a page its style sheet has them.
_STYLE = """
svg { --paper: #fff; --card: #fff; --ink: #1d2228; --average: #0b6e4f; font: 13px system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
.c0 { color: #3c434c; } .c1 { color: #c44a00; } .c2 { color: #0067a8; } .c3 { color: #008060; }
.c4 { color: #a0407f; } .c5 { color: #8a6d00; } .c6 { color: #3f7fbf; } .c-none { color: #6b7480; }
text { fill: var(--ink); }
.node rect { fill: var(--card); stroke: currentColor; stroke-width: 1.6; }
.node .behind { opacity: 0.5; }
.n-base rect { fill: currentColor; } .n-base text, .n-final text { fill: var(--paper); font-weight: 600; }
.n-wild rect { stroke-dasharray: 4 3; }
.n-final rect { fill: var(--average); stroke: var(--average); }
.edge { fill: none; stroke: currentColor; opacity: 0.6; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #14181d; --card: #1b2027; --ink: #e6e9ed; --average: #4fcfae; }
  .c0 { color: #d5d9de; } .c1 { color: #ff9a5c; } .c2 { color: #66b8f0; } .c3 { color: #4fcfae; }
  .c4 { color: #e39ac9; } .c5 { color: #e3c65a; } .c6 { color: #9db8ff; } .c-none { color: #9aa3ad; }
}"""  # noqa: E501


@dataclass(frozen=True)
class Node:
    """A box of the tree; ``stands_for`` > 1 where alike nodes were drawn as one.

    ``href``: where a click leads; empty for none. ``here``: the node that the page is about.
    """

    id: str
    label: str
    kind: str
    stands_for: int = 1
    href: str = ""
    here: bool = False


@dataclass(frozen=True)
class TreeEdge:
    start: str
    end: str
    role: str
    weight: float | None


def standalone(lineage: Mapping[str, Any]) -> str:
    """``lineage`` as an SVG file with its own colours, as wide as it is deep; light and dark."""
    drawing = family_tree(lineage, "tree", max(360.0, 230.0 * generations(lineage)), "Family tree")
    if not drawing:
        drawing = svg.figure(
            "tree", 360, 60, "Family tree", "Nothing yet.", svg.text(20, 34, "nothing yet")
        )
    namespace = '<svg xmlns="http://www.w3.org/2000/svg"'
    return drawing.replace("<svg", namespace, 1).replace(
        "<desc", f"<style>{_STYLE}</style><desc", 1
    )


def generations(lineage: Mapping[str, Any]) -> int:
    """How many columns the drawing has."""
    return max(depths(*_read(lineage)).values(), default=0) + 1


def family_tree(
    lineage: Mapping[str, Any],
    ident: str,
    width: float,
    title: str = "Family tree of the final weights",
) -> str:
    """Draw ``lineage`` (nodes and edges of results.json); empty text when there is none.

    Nodes may have a ``href``, and one may be ``here``.
    """
    nodes, edges = _read(lineage)
    if not nodes:
        return ""
    depth = depths(nodes, edges)
    nodes, edges = gather(nodes, edges, depth)
    columns = _ordered(nodes, edges, depth)
    tallest = max(len(column) for column in columns)
    height = tallest * _ROW + 14
    box = min(width / len(columns) * 0.68, 190.0)
    place = {}
    for index, column in enumerate(columns):
        left = index * (width - box) / max(len(columns) - 1, 1)
        first = (height - len(column) * _ROW) / 2 + _ROW / 2
        for row, name in enumerate(column):
            place[name] = (left, first + row * _ROW)
    source = _families(nodes, edges, depth)
    heaviest = max((edge.weight or 0.0 for edge in edges), default=0.0) or 1.0
    parts = []
    for edge in edges:
        lanes = [
            _lane(edge.start, level) for level in range(depth[edge.start] + 1, depth[edge.end])
        ]
        way = [place[name] for name in (edge.start, *lanes, edge.end)]
        parts.append(_edge(edge, way, box, source[edge.start], heaviest))
    parts += [_node(node, place[node.id], box, source[node.id]) for node in nodes]
    described = "; ".join(
        f"{name[edge.start]} to {name[edge.end]} ({edge.role})"
        for name in [{node.id: node.label for node in nodes}]
        for edge in edges[:40]
    )
    links = any(node.href for node in nodes)
    return svg.figure(ident, width, height, title, described + ".", *parts, links=links)


def depths(nodes: list[Node], edges: list[TreeEdge]) -> dict[str, int]:
    """Longest way from a node without parents; nodes of a cycle (not a lineage) stay at 0."""
    depth = {node.id: 0 for node in nodes}
    for _ in nodes:
        moved = False
        for edge in edges:
            deeper = depth[edge.start] + 1
            if depth[edge.end] < deeper <= len(nodes):
                depth[edge.end], moved = deeper, True
        if not moved:
            break
    return depth


def gather(
    nodes: list[Node], edges: list[TreeEdge], depth: dict[str, int]
) -> tuple[list[Node], list[TreeEdge]]:
    """Where a column is too long, join its nodes that have the same parents and children."""
    crowded = {
        level for level in depth.values() if sum(depth[node.id] == level for node in nodes) > _MOST
    }
    if not crowded:
        return nodes, edges
    key: dict[str, Any] = {}
    for node in nodes:
        near = (
            frozenset((edge.start, edge.role) for edge in edges if edge.end == node.id),
            frozenset((edge.end, edge.role) for edge in edges if edge.start == node.id),
        )
        key[node.id] = (node.kind, near) if depth[node.id] in crowded else node.id
    groups: dict[Any, list[Node]] = {}
    for node in nodes:
        groups.setdefault(key[node.id], []).append(node)
    kept, stands_in = [], {}
    for members in groups.values():
        first = members[0]
        for member in members:
            stands_in[member.id] = first.id
        words = first.label if len(members) == 1 else f"{len(members)} {first.kind}s"
        joined_here = any(member.here for member in members)
        link = first.href if len(members) == 1 else ""
        kept.append(Node(first.id, words, first.kind, len(members), link, joined_here))
    joined: dict[tuple[str, str, str], float | None] = {}
    for edge in edges:
        name = (stands_in[edge.start], stands_in[edge.end], edge.role)
        known = joined.get(name)
        weights = [weight for weight in (known, edge.weight) if weight is not None]
        joined[name] = sum(weights) if weights else None
    return kept, [TreeEdge(*name, weight) for name, weight in joined.items()]


def _read(lineage: Mapping[str, Any]) -> tuple[list[Node], list[TreeEdge]]:
    nodes = [
        Node(n["id"], n["label"], n["kind"], href=n.get("href", ""), here=n.get("here", False))
        for n in lineage.get("nodes", [])
    ]
    known = {node.id for node in nodes}
    edges = [
        TreeEdge(e["from"], e["to"], e["role"], e.get("weight"))
        for e in lineage.get("edges", [])
        if e["from"] in known and e["to"] in known
    ]
    return nodes, edges


def _lane(start: str, level: int) -> str:
    """Where the edges of a node pass a column in which they do not end: a row of their own."""
    return f"lane of {start} at {level}"


def _ordered(nodes: list[Node], edges: list[TreeEdge], depth: dict[str, int]) -> list[list[str]]:
    """Columns from left to right; in a column, names at the mean height of their parents."""
    rank = {kind: place for place, kind in enumerate(COLUMNS)}
    kinds = {node.id: rank.get(node.kind, len(rank)) for node in nodes}
    parents: dict[str, set[str]] = {node.id: set() for node in nodes}
    level = {node.id: depth[node.id] for node in nodes}
    for edge in edges:
        before = edge.start
        for between in range(depth[edge.start] + 1, depth[edge.end]):
            lane = _lane(edge.start, between)
            parents.setdefault(lane, set()).add(before)
            level[lane], kinds[lane], before = between, len(COLUMNS), lane
        if edge.role != "head":
            parents[edge.end].add(before)
    height: dict[str, float] = {}
    columns = []
    for each in sorted(set(level.values())):
        column = [name for name in level if level[name] == each]
        wanted = {}
        for index, name in enumerate(column):
            above = [height[parent] for parent in parents[name] if parent in height]
            wanted[name] = sum(above) / len(above) if above else index / len(column)
        column.sort(key=lambda name: (wanted[name], kinds[name]))
        for index, name in enumerate(column):
            height[name] = (index + 0.5) / len(column)
        columns.append(column)
    return columns


def _families(
    nodes: list[Node], edges: list[TreeEdge], depth: dict[str, int]
) -> dict[str, int | None]:
    """Colour of each node: that of the init or fine-tuning it descends from; none for joins."""
    order = [node.id for node in nodes if node.kind in ("wild", "auxiliary", "finetune")]
    family: dict[str, int | None] = {}
    for node in sorted(nodes, key=lambda each: depth[each.id]):
        parents = {
            family.get(edge.start) for edge in edges if edge.end == node.id and edge.role != "head"
        }
        if node.id in order:
            family[node.id] = order.index(node.id) + 1
        elif node.kind == "base":
            family[node.id] = 0
        elif node.kind in ("final", "merge", "probe") or len(parents) != 1:
            family[node.id] = None
        else:
            family[node.id] = parents.pop()
    return family


def _css(family: int | None) -> str:
    if not family:
        return "c-none" if family is None else "c0"
    return f"c{1 + (family - 1) % 6}"


def _node(node: Node, at: tuple[float, float], box: float, family: int | None) -> str:
    x, y = at
    size = 12.5 if box > 100 else 10.5
    words = svg.shortened(node.label, size, box - 14)
    drawn = svg.group(
        svg.tooltip(f"{node.label} ({COLUMNS.get(node.kind, node.kind)})"),
        *(
            [
                svg.element(
                    "rect",
                    x=x + 4,
                    y=y - _HEIGHT / 2 + 4,
                    width=box,
                    height=_HEIGHT,
                    rx=7,
                    class_="behind",
                )
            ]
            if node.stands_for > 1
            else []
        ),
        svg.element("rect", x=x, y=y - _HEIGHT / 2, width=box, height=_HEIGHT, rx=7),
        svg.text(x + box / 2, y + 4.2, words, text_anchor="middle"),
        font_size=size,
        class_=f"node n-{node.kind} {_css(family)}{' here' if node.here else ''}",
    )
    if not node.href:
        return drawn
    return svg.element("a", drawn, href=node.href, aria_label=f"{node.label}, {node.kind}")


def _edge(
    edge: TreeEdge,
    way: list[tuple[float, float]],
    box: float,
    family: int | None,
    heaviest: float,
) -> str:
    """A curve from box to box, straight where it passes a column on its way."""
    path = ""
    for (x1, y1), (x2, y2) in pairwise(way):
        path += f"{'L' if path else 'M'}{x1 + box:.0f} {y1:.0f}"
        middle = (x1 + box + x2) / 2
        path += f"C{middle:.0f} {y1:.0f} {middle:.0f} {y2:.0f} {x2:.0f} {y2:.0f}"
    share = "" if edge.weight is None else f", weight {edge.weight:.3g}"
    return svg.element(
        "path",
        svg.tooltip(f"{edge.role}{share}"),
        d=path,
        stroke_width=1.6 if edge.weight is None else 1.2 + 4.0 * edge.weight / heaviest,
        class_=f"edge e-{'head' if edge.role == 'head' else 'weights'} {_css(family)}",
    )
