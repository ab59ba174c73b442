"""The story of a line on one page: scores of every version, the family tree, contributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stockpot.community import contributions, history
from stockpot.community.review import last_review
from stockpot.files import write_text
from stockpot.registry import Registry
from stockpot.registry.registry import models_of
from stockpot.registry.tree import family, lineage
from stockpot.report import svg, tree
from stockpot.report.environment import make_environment

_SHAPES = ("circle", "square", "diamond", "triangle", "ring", "left")


@dataclass(frozen=True)
class ContributionView:
    """A contribution on the page. ``state``: accepted, reverted, refused or open."""

    name: str
    author: str
    state: str
    reason: str
    checks: tuple[tuple[str, bool, str], ...]


def write_community_page(registry: Registry, line: str, path: str | Path) -> Path:
    """Write the page of a line; returns its path. No script, no request, light and dark."""
    path = Path(path)
    write_text(path, page(registry, line))
    return path


def page(registry: Registry, line: str) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    environment = make_environment()
    versions = registry.line(line)
    rows, edges = family(registry, registry.find(line))
    ids = {line: models_of(versions)}
    drawn = lineage(rows, edges, ids)
    scored = [
        (version["number"], version["event"]["scores"])
        for version in versions
        if version["event"].get("scores")
    ]
    tasks = list(dict.fromkeys(name for _, scores in scored for name in scores))
    return environment.get_template("community.html.j2").render(
        line=line,
        versions=[
            {
                "number": version["number"],
                "model": version["model"],
                "time": version["time"],
                "words": version["event"].get("words") or version["event"].get("what", ""),
                "scores": version["event"].get("scores", {}),
            }
            for version in versions
        ],
        tasks=tasks,
        told=told(registry, line),
        chart=Markup(chart(scored, tasks, "scores", 760, 330)),
        chart_narrow=Markup(chart(scored, tasks, "scores-narrow", 360, 300)),
        markers=[Markup(legend(index)) for index in range(len(tasks))],
        tree=Markup(tree.family_tree(drawn, "tree", 1108, f"Family tree of {line}")),
        tree_narrow=Markup(tree.family_tree(drawn, "tree-narrow", 360, f"Family tree of {line}")),
    )


def told(registry: Registry, line: str) -> list[ContributionView]:
    """What became of every contribution, and why."""
    inside = set(history(registry, line, whole=False).accepted)
    ever = {
        ident
        for version in registry.line(line)
        if version["event"].get("what") == "accept"
        for ident in version["event"]["contributions"]
    }
    found = []
    for each in contributions(registry, line):
        done = last_review(registry, each)
        if each.id in inside:
            state = "accepted"
        elif each.id in ever:
            state = "reverted"
        elif done is not None and not done["accepted"]:
            state = "refused"
        else:
            state = "open"
        checks = tuple((c["name"], c["passed"], c["words"]) for c in (done or {}).get("checks", ()))
        reason = (done or {}).get("reason", "not reviewed yet")
        found.append(ContributionView(each.name, each.author, state, reason, checks))
    return found


def chart(
    scored: Sequence[tuple[int, Mapping[str, Mapping[str, float]]]],
    tasks: Sequence[str],
    ident: str,
    width: float,
    height: float,
) -> str:
    """Score of every task (with its interval) over the versions; empty text without scores."""
    if not scored:
        return ""
    values = [
        each[end] for _, scores in scored for each in scores.values() for end in ("low", "high")
    ]
    low, high = svg.padded(min(values), min(1.0, max(values)), 0.05)
    across = svg.Scale(0.0, max(len(scored) - 1, 1), 70, width - 40)
    down = svg.Scale(low, min(high, 1.0), height - 40, 16)
    parts = []
    for tick in down.ticks(5):
        y = down(tick)
        parts.append(svg.line(52, y, width - 10, y, class_="grid"))
        parts.append(svg.text(46, y + 4, f"{tick:.0%}", text_anchor="end", font_size=12))
    for place, (number, _) in enumerate(scored):
        words = f"version {number}"
        parts.append(
            svg.text(across(place), height - 14, words, text_anchor="middle", font_size=12)
        )
    for index, task in enumerate(tasks):
        # Side by side, so that intervals do not hide each other.
        shift = (index - (len(tasks) - 1) / 2) * 6.0
        points = []
        marks = []
        for place, (number, scores) in enumerate(scored):
            if task not in scores:
                continue
            each = scores[task]
            x, y = across(place) + shift, down(each["mean"])
            points.append((x, y))
            words = f"{task}, version {number}: {each['mean']:.1%} ({each['low']:.1%} to "
            words += f"{each['high']:.1%})"
            marks.append(
                svg.line(
                    x,
                    down(each["low"]),
                    x,
                    down(each["high"]),
                    stroke="currentColor",
                    stroke_width=1.4,
                )
            )
            marks.append(svg.marker(_shape(index), x, y, 4.4, svg.tooltip(words)))
        line = svg.polyline(points, stroke="currentColor", stroke_width=1.2, opacity=0.55)
        parts.append(svg.group(line, *marks, class_=f"c{1 + index % 6}"))
    said = "; ".join(
        f"version {number}: " + ", ".join(f"{n} {s['mean']:.1%}" for n, s in scores.items())
        for number, scores in scored
    )
    return svg.figure(ident, width, height, "Scores by version", said + ".", *parts)


def _shape(index: int) -> str:
    return _SHAPES[index % len(_SHAPES)]


def legend(index: int) -> str:
    """The mark of a task in the chart, for a list beside it."""
    mark = svg.marker(_shape(index), 14, 6, 4.6)
    return svg.element(
        "svg",
        mark,
        viewBox="0 0 28 12",
        width=28,
        height=12,
        aria_hidden="true",
        class_=f"c{1 + index % 6}",
    )
