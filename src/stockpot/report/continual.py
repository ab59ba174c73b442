"""A comparison of continual learning for people: a self-contained page, terminal, Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.continual.schema import ContinualResults, MethodResult, SettingResult, TrialMean
from stockpot.evaluation.wording import points
from stockpot.files import write_text
from stockpot.report import svg
from stockpot.report.environment import make_environment
from stockpot.report.numbers import count, duration, millions, score, signed, spread, typographic
from stockpot.report.page import embedded

GROUPS = {
    "tangent": "Tangent components",
    "statistics": "Sums of statistics",
    "single": "One non-linear model",
    "ensemble": "Ensembles of non-linear models",
    "joint": "Joint training, all data at once",
}
MODES = {
    "data": "data-incremental: each task is a random part of the examples",
    "class": "class-incremental: each task brings new classes, told apart from all seen so far",
    "task": "task-incremental: each task brings new classes, told apart within the task",
}
_METRIC = "accuracy"
_WIDTH, _HEIGHT, _RIGHT = 560.0, 330.0, 190.0
_DATA_HERE = "data-of-the-page-go-here"
_LIMIT = 280_000


def write_continual(results: ContinualResults | Mapping[str, Any], path: str | Path) -> Path:
    """Write ``results`` (of ``stockpot.continual``) as one HTML page; returns its path.

    The page makes no request and reads without scripts. Raises ``OutputError`` when it cannot be
    written.
    """
    write_text(Path(path), render(ContinualResults.read(results)))
    return Path(path)


def render(results: ContinualResults) -> str:
    """The page as text; the same for the same results."""
    from markupsafe import Markup

    environment = make_environment(
        score=lambda value: score(value, _METRIC),
        signed=lambda value: signed(value, _METRIC),
        spread=lambda low, high: spread(low, high, _METRIC),
        count=count,
        duration=duration,
        millions=millions,
        typographic=typographic,
    )
    page = environment.get_template("continual.html.j2").render(
        results=results,
        headline=headline(results),
        said={s.name: comparisons(s) for s in results.settings},
        groups=[(s.name, _grouped(s)) for s in results.settings],
        best={s.name: _best(s) for s in results.settings},
        baseline=results.settings[0].label(results.baseline),
        modes=MODES,
        names=GROUPS,
        figures={s.name: Markup(steps_figure(s)) for s in results.settings},
        labels={m.method: m.label for m in results.settings[0].methods},
        data=_DATA_HERE,
    )
    return page.replace(_DATA_HERE, embedded(results.to_json(), max(_LIMIT - len(page), 40_000)), 1)


def headline(results: ContinualResults) -> str:
    """The best method of the first setting that trains task by task, and joint training."""
    setting = results.settings[0]
    able = [m for m in setting.methods if m.group != "joint"]
    best = max(able, key=lambda m: m.final.mean)
    final = best.final
    words = f"{best.label} is best in the setting {setting.name}: "
    words += f"{score(final.mean, _METRIC)} % ({spread(final.low, final.high, _METRIC)})"
    joint = [m for m in setting.methods if m.group == "joint"]
    if joint:
        top = max(joint, key=lambda m: m.final.mean)
        words += f"; joint training has {score(top.final.mean, _METRIC)} %"
    return words + "."


def comparisons(setting: SettingResult) -> list[str]:
    """What one setting says about pairs of methods, and about published numbers beside ours."""
    pairs = [
        f"{setting.label(one.method)} against {setting.label(one.against)}: {one.words}"
        for one in setting.comparisons
    ]
    published = [
        f"{setting.label(one.method)}: {one.lost:.1f} points below "
        f"{setting.label(one.against)} (published: {one.published:.1f})"
        for one in setting.published
    ]
    return [typographic(words) for words in pairs + published]


def markdown_tables(results: ContinualResults) -> str:
    """One table a setting; bold marks the best method that is not joint training."""
    parts = []
    for setting in results.settings:
        baseline = setting.label(results.baseline)
        head = ["Method", "Final (95 % interval)", f"Against {baseline}", "Mean over tasks ± sd"]
        ordered = setting.mode != "data"
        head += (["Forgetting", "BWT", "FWT"] if ordered else []) + ["Training", "Prediction"]
        lines = [_row(head), _row(["---"] * 3 + ["---:"] * (len(head) - 3))]
        best = _best(setting)
        for _, methods in _grouped(setting):
            for m in methods:
                lines.append(_row(_cells(m, best, ordered=ordered)))
        parts.append(f"**{setting.name}** ({_size(setting)})\n\n" + "\n".join(lines) + "\n")
        parts += [f"> {warning}\n" for warning in setting.warnings]
        parts.append("\n".join(f"- {words}" for words in comparisons(setting)) + "\n")
    return "\n".join(parts)


def terminal_tables(results: ContinualResults) -> str:
    """Plain text of at most 80 columns."""
    lines = textwrap.wrap(headline(results), 80)
    for setting in results.settings:
        lines += ["", f"{setting.name} ({_size(setting)})"]
        lines.append(f"{'':32}{'final':>6}  {'95 %':^11}{'A-bar':>8}{'forget':>8}{'BWT':>7}")
        for group, methods in _grouped(setting):
            lines.append(GROUPS[group].lower())
            for m in methods:
                final = m.final
                interval = f"{points(final.low)}-{points(final.high)}"
                rest = "".join(
                    f"{points(value.mean) if value else '':>{width}}"
                    for value, width in ((m.incremental, 8), (m.forgetting, 8), (m.backward, 7))
                )
                line = f"  {m.label[:29]:30}{points(final.mean):>6}  {interval:^11}{rest}"
                lines.append(line.rstrip())
        for warning in setting.warnings:
            lines += textwrap.wrap(f"warning: {warning}", 80)
        for words in comparisons(setting):
            lines += textwrap.wrap(words, 80, subsequent_indent="  ")
    return "\n".join(lines)


def steps_figure(setting: SettingResult) -> str:
    """Accuracy after each task, a line for each method, named at its end."""
    methods = [m for m in setting.methods if m.steps]
    joint = [m for m in setting.methods if not m.steps]
    if not methods or len(methods[0].steps) < 2:
        return ""
    values = [v for m in methods for v in m.steps] + [m.final.mean for m in joint]
    low, high = svg.padded(min(values), max(values), 0.05)
    tasks = len(methods[0].steps)
    right = _WIDTH - _RIGHT
    across = svg.Scale(1, tasks, 40.0, right - 8)
    up = svg.Scale(max(low, 0.0), min(high, 1.0), _HEIGHT - 38, 12.0)
    parts = []
    for tick in up.ticks(5):
        parts.append(svg.line(40, up(tick), right - 8, up(tick), class_="grid"))
        parts.append(
            svg.text(34, up(tick) + 4, f"{tick * 100:g}", class_="tick", text_anchor="end")
        )
    for task in range(1, tasks + 1):
        x = across(task)
        parts.append(svg.text(x, _HEIGHT - 20, str(task), class_="tick", text_anchor="middle"))
    words = "tasks seen"
    parts.append(svg.text(across(1), _HEIGHT - 3, words, class_="tick"))
    ends: list[tuple[float, str, str]] = []
    for index, m in enumerate(methods):
        points_ = [(across(t + 1), up(v)) for t, v in enumerate(m.steps)]
        colour = f"c{list(GROUPS).index(m.group) + 1}"
        dash = (None, "7 4", "2 4", "9 3 2 3")[_place(methods, index) % 4]
        told = svg.tooltip(f"{m.label}: {score(m.steps[-1], _METRIC)} %")
        line = svg.polyline(points_, class_="curve", stroke_dasharray=dash)
        parts.append(svg.group(told, line, class_=colour))
        ends.append((points_[-1][1], m.label, colour))
    for m in joint:
        y = up(m.final.mean)
        parts.append(svg.line(40, y, right - 8, y, class_="baseline"))
        ends.append((y, m.label, "c0"))
    parts += _end_labels(ends, right)
    return svg.figure(
        f"steps-{setting.name}",
        _WIDTH,
        _HEIGHT,
        f"Accuracy after each task, {setting.name}",
        f"{len(methods)} methods over {tasks} tasks, from {score(min(values), _METRIC)} to "
        f"{score(max(values), _METRIC)} percent; dotted lines are joint training.",
        *parts,
    )


def _end_labels(ends: list[tuple[float, str, str]], right: float) -> list[str]:
    """Names beside the ends of the lines, moved apart so that none covers another."""
    gap, placed = 14.0, []
    ends = sorted(ends)
    ys = [y for y, _, _ in ends]
    for index in range(1, len(ys)):
        ys[index] = max(ys[index], ys[index - 1] + gap)
    over = ys[-1] - (_HEIGHT - 40)
    if over > 0:
        ys[-1] -= over
        for index in range(len(ys) - 2, -1, -1):
            ys[index] = min(ys[index], ys[index + 1] - gap)
    for y, (end, label, colour) in zip(ys, ends, strict=True):
        words = svg.shortened(label, 11.5, _RIGHT - 14)
        placed.append(svg.line(right - 6, end, right + 6, y, class_="grid"))
        placed.append(svg.group(svg.text(right + 9, y + 4, words, class_="group"), class_=colour))
    return placed


def _place(methods: Sequence[MethodResult], index: int) -> int:
    """Which one of its group a method is."""
    group = methods[index].group
    return sum(m.group == group for m in methods[:index])


def _grouped(setting: SettingResult) -> list[tuple[str, list[MethodResult]]]:
    """Methods by group, best first within each."""
    found = []
    for group in GROUPS:
        own = [m for m in setting.methods if m.group == group]
        if own:
            found.append((group, sorted(own, key=lambda m: -m.final.mean)))
    return found


def _best(setting: SettingResult) -> float:
    able = [m.final.mean for m in setting.methods if m.group != "joint"]
    return max(able) if able else float("inf")


def _size(setting: SettingResult) -> str:
    each = setting.classes_per_task
    classes = f"{min(each)}" if min(each) == max(each) else f"{min(each)} to {max(each)}"
    return (
        f"{setting.tasks} tasks, {classes} class{'es' if max(each) > 1 else ''} each, "
        f"{count(setting.train)} training and {count(setting.test)} test examples"
    )


def _cells(m: MethodResult, best: float, *, ordered: bool) -> list[str]:
    final = m.final
    mean = score(final.mean, _METRIC)
    if final.mean == best and m.group != "joint":
        mean = f"**{mean}**"
    difference = typographic(m.difference.words) if m.difference else "(baseline)"
    cells = [m.label, f"{mean} ({spread(final.low, final.high, _METRIC)})", difference]
    cells.append(_with_spread(m.incremental))
    if ordered:
        cells += [_with_spread(value) for value in (m.forgetting, m.backward, m.forward)]
    return [*cells, duration(m.seconds), m.cost]


def _with_spread(value: TrialMean | None) -> str:
    if value is None:
        return "–"
    sd = "" if value.sd is None else f" ± {points(value.sd)}"
    return score(value.mean, _METRIC) + sd


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
