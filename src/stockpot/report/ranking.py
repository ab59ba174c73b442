"""Which model to start from, for people: a page with a picture of the posterior, and a table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stockpot.evaluation.intervals import Interval
from stockpot.files import write_text
from stockpot.ranking.schema import Belief, OrdersResult, ProposedModel, RankedModel, RankResults
from stockpot.report import numbers, svg
from stockpot.report.environment import make_environment

_ROW, _HEAD, _MOST = 27.0, 40.0, 40
_WIDTH = 80


def write_ranking(results: RankResults | Mapping[str, Any], path: Path | str) -> Path:
    """Write the page for ``results`` (the content of ``rank``'s ``results.json``) to ``path``.

    Raises ``OutputError`` when it cannot be written.
    """
    path = Path(path)
    write_text(path, render(RankResults.read(results)))
    return path


def render(results: RankResults) -> str:
    """The page as text: no script, no request to anywhere, light and dark."""
    from markupsafe import Markup

    environment = make_environment(
        score=numbers.score,
        spread=numbers.spread,
        count=numbers.count,
        duration=numbers.duration,
        millions=numbers.millions,
        size=millions,
        chance=chance,
        short=short,
    )
    metric = results.task.metric
    shown = results.models[:_MOST]
    figures = {
        "wide": Markup(posterior(results, shown, 1108, "posterior-wide")) if shown else "",
        "narrow": Markup(posterior(results, shown, 360, "posterior-narrow")) if shown else "",
        "orders": Markup(orders(results)) if results.verified else "",
    }
    return environment.get_template("ranking.html.j2").render(
        results=results,
        metric=metric,
        unit=numbers.percent(metric),
        words=headline(results),
        figures=figures,
        shown=shown,
        hidden=len(results.models) - len(shown),
        scores=score_names(results),
        by_value=results.by_value,
        details=[model for model in shown[:10] if model.reasons],
    )


def headline(results: RankResults) -> dict[str, str]:
    """Answer, how sure it is, and the next step, in one sentence each."""
    models = results.models
    if not models:
        name = results.proposals[0].name if results.proposals else None
        return {
            "answer": f"Try {name} first" if name else "There is nothing to start from",
            "sure": "No model that takes this task lies on this machine, so none was run. What "
            "is proposed rests on results on other tasks and on facts, not on your data.",
            "next": "",
        }
    first = models[0]
    equal = [model for model in models if _tied(model, first, results.by_value)]
    sure = "It has the highest expected result and is the best"
    answer = f"Start from {first.name}"
    if len(equal) > 1:
        answer = f"Start from {' or '.join(model.name for model in equal[:3])}"
        sure = f"{len(equal)} are tied for the highest expected result; {first.name} is the best"
    sure += f" of {len(models)} with probability {chance(first.p_best)}"
    if len(models) > 1:
        second = max(models[1:], key=lambda model: float(model.p_best))
        sure += f"; {second.name} with {chance(second.p_best)}"
    tuned = [model for model in models if model.tuned or model.known is not None]
    done = "None of them was fine-tuned on this task yet."
    if tuned:
        many = "All of them were" if len(tuned) == len(models) else f"{len(tuned)} of them were"
        many = "One of them was" if len(tuned) == 1 < len(models) else many
        done = f"{many} really fine-tuned on this task"
        done += f", judged by {numbers.count(results.task.judged_by)} examples."
    following = results.next
    advice = ""
    if following:
        cost = numbers.duration(following.seconds)
        advice = f"What to try next: fine-tune {following.model} (about {cost})."
    return {"answer": answer, "sure": f"{sure}. {done}", "next": advice}


def _tied(model: RankedModel, first: RankedModel, by_value: bool) -> bool:
    """Whether nothing that is shown tells two models apart: their means and chances are equal."""
    return (
        math.isclose(_point(model, by_value).mean, _point(first, by_value).mean, rel_tol=1e-6)
        and abs(model.p_best - first.p_best) < 0.005
    )


def chance(value: float) -> str:
    """A probability in percent; never 0 or 100 where it is neither."""
    if value < 0.005:
        return "<1 %"
    return f"{100 * min(value, 0.99):.0f}{numbers.NO_BREAK}%" if value < 1 else "100 %"


def short(value: float | None) -> str:
    """A score with four digits."""
    return "" if value is None else f"{value:.4g}"


def score_names(results: RankResults) -> list[str]:
    """Every score that some model has."""
    return sorted({name for model in results.models for name in model.scores})


def _point(belief: Belief, by_value: bool) -> Interval:
    """Mean, low and high in the unit of the figure."""
    return belief.value if by_value and belief.value is not None else belief.rank


def posterior(results: RankResults, models: Sequence[RankedModel], width: float, ident: str) -> str:
    """One row a model: interval before (thin) and after (thick) fine-tunings, what was measured,
    P(best) as a bar, and what fine-tuning it costs."""
    metric, by_value = results.task.metric, results.by_value
    wide = width > 600
    labels = min(max(svg.text_width(m.name, 13) for m in models) + 16, 260) if wide else 0.0
    room_best, room_cost = (150.0, 90.0) if wide else (74.0, 0.0)
    left, right = labels + 8, width - room_best - room_cost - 22
    step = _ROW if wide else 40.0
    points = [_point(model, by_value) for model in models]
    before = [_point(model.before, by_value) for model in models if _has(model, by_value)]
    measured = [value for model in models if (value := model.measured) is not None]
    ends = [end for point in (*points, *before) for end in (point.low, point.high)]
    if by_value:
        ends += measured
    low, high = svg.padded(min(ends), max(ends), 0.02 if by_value else 2.0)
    # The first place stands to the right, as a high accuracy does.
    scale = svg.Scale(low, high, left, right) if by_value else svg.Scale(high, low, left, right)
    bottom = _HEAD + len(models) * step
    tops = [_HEAD + index * step for index in range(0, len(models), 2)]
    parts = [svg.bands(tops, width, step)]
    parts.append(svg.text(left, 14, _axis_title(metric, by_value), class_="panel-title"))
    parts.append(svg.text(right + 22, 14, "P(best)", class_="panel-title"))
    if room_cost:
        parts.append(svg.text(width, 14, "cost", class_="panel-title", text_anchor="end"))
    ticks = svg.Scale(low, high, left, right).ticks(5 if wide else 3)
    for tick in ticks:
        if not by_value and (tick < 1 or tick != round(tick)):
            continue
        x = scale(tick)
        times = 100 if by_value and metric == "accuracy" else 1
        parts.append(svg.line(x, _HEAD - 12, x, bottom, class_="grid"))
        words = f"{tick * times:g}".replace("-", numbers.MINUS)
        parts.append(svg.text(x, bottom + 15, words, class_="tick", text_anchor="middle"))
    largest = max(float(model.p_best) for model in models) or 1.0
    for index, model in enumerate(models):
        y = _HEAD + index * step + (step / 2 if wide else step - 12)
        parts.append(_row(model, y, scale, by_value, metric, labels, wide))
        size = (room_best - 52) * float(model.p_best) / largest
        start = right + 22
        parts.append(
            svg.element(
                "rect", x=start, y=y - 6, width=max(size, 0.8), height=11, class_="best-bar"
            )
        )
        if wide:
            parts.append(svg.text(start + size + 6, y + 4, chance(model.p_best), class_="tick"))
            cost = numbers.duration(model.cost.tuning_seconds)
            parts.append(svg.text(width, y + 4, cost, class_="tick", text_anchor="end"))
    title = f"What is believed of each model: {_axis_title(metric, by_value)}"
    words = "; ".join(f"{m.name}: P(best) {chance(m.p_best)}" for m in models[:10])
    css = "wide" if wide else "narrow"
    return svg.figure(ident, width, bottom + 24, title, words, *parts, css=css)


def _has(model: RankedModel, by_value: bool) -> bool:
    return not by_value or model.before.value is not None


def _row(
    model: RankedModel,
    y: float,
    scale: svg.Scale,
    by_value: bool,
    metric: str,
    labels: float,
    wide: bool,
) -> str:
    after = _point(model, by_value)
    parts = []
    if wide:
        name = svg.shortened(model.name, 13, labels - 8)
        parts.append(svg.text(0, y + 4, name, class_="label"))
    else:
        parts.append(svg.text(0, y - 12, svg.shortened(model.name, 13, 250), class_="label"))
    if _has(model, by_value):
        before = _point(model.before, by_value)
        parts.append(svg.line(scale(before.low), y, scale(before.high), y, class_="earlier"))
    parts.append(svg.line(scale(after.low), y, scale(after.high), y, class_="whisker"))
    parts.append(svg.marker("circle", scale(after.mean), y, 4.4))
    value = model.measured
    if value is not None and by_value:
        x = scale(value)
        parts.append(svg.marker("diamond", x, y, 4.2, class_="measured"))
    words = f"{model.name}: {_words(after, by_value, metric)}, P(best) {chance(model.p_best)}"
    if value is not None:
        words += f"; fine-tuned: {numbers.score(value, metric)}"
    tone = "g-average" if value is not None else "g-single"
    return svg.group(svg.tooltip(words), *parts, class_=tone)


def _words(point: Interval, by_value: bool, metric: str) -> str:
    if by_value:
        return (
            f"{numbers.score(point.mean, metric)} expected "
            f"({numbers.spread(point.low, point.high, metric)})"
        )
    return f"place {point.mean:.1f} expected ({point.low:.0f} to {point.high:.0f})"


def _axis_title(metric: str, by_value: bool) -> str:
    if not by_value:
        return "Expected place (first to the right)"
    return "Expected R2" if metric == "r2" else "Expected accuracy, in percent"


def orders(results: RankResults, width: float = 560, height: float = 380) -> str:
    """Place that was predicted before any fine-tuning against what fine-tuning gave."""
    found, metric = results.verified, results.task.metric
    assert found is not None
    real, guess, names = found.real, found.predicted, found.models
    left, top, bottom = 52.0, 16.0, height - 40
    across = svg.Scale(max(guess) + 0.5, min(guess) - 0.5, left, width - 90)
    low, high = svg.padded(min(real), max(real), 0.02)
    up = svg.Scale(low, high, bottom, top)
    parts = []
    for tick in up.ticks(5):
        times = 100 if metric == "accuracy" else 1
        parts.append(svg.line(left, up(tick), width - 90, up(tick), class_="grid"))
        parts.append(
            svg.text(left - 8, up(tick) + 4, f"{tick * times:g}", class_="tick", text_anchor="end")
        )
    for name, x, y in zip(names, guess, real, strict=True):
        words = svg.tooltip(f"{name}: place {x:.1f} predicted, {numbers.score(y, metric)} real")
        parts.append(
            svg.group(
                words,
                svg.marker("circle", across(x), up(y), 4.2),
                svg.text(across(x) + 8, up(y) + 4, svg.shortened(name, 11, 110), class_="note"),
                class_="g-single",
            )
        )
    parts.append(
        svg.text(
            (left + width - 90) / 2,
            height - 8,
            "predicted place, first to the right",
            class_="axis",
            text_anchor="middle",
        )
    )
    title = "Predicted place against the real result"
    return svg.figure("orders", width, height, title, "The numbers are in the table.", *parts)


def terminal_ranking(results: RankResults | Mapping[str, Any], top: int = 10) -> str:
    """Headline, one row a model, what failed, what to try next: plain text, 80 columns."""
    results = RankResults.read(results)
    metric, by_value = results.task.metric, results.by_value
    said = headline(results)
    lines = textwrap.wrap(f"{said['answer']}. {said['sure']}", _WIDTH)
    lines.append("")
    heading = "expected" if by_value else "place"
    tuned_any = any(model.measured is not None for model in results.models)
    last = "tuned" if tuned_any else "head"
    if results.models:
        lines.append(f"   {'':27}{heading:>9}  {'90 %':^13}{'P(best)':>8}{last:>8}{'cost':>9}")
    for index, model in enumerate(results.models[:top], 1):
        point = _point(model, by_value)
        value = model.measured if tuned_any else model.head
        name = model.name if len(model.name) <= 26 else model.name[:25] + "…"
        if by_value:
            mean = numbers.score(point.mean, metric)
            interval = numbers.spread(point.low, point.high, metric)
        else:
            mean, interval = f"{point.mean:.1f}", f"{point.low:.0f}-{point.high:.0f}"
        tuned = "" if value is None else numbers.score(value, metric)
        cost = numbers.duration(model.cost.tuning_seconds).replace(numbers.NO_BREAK, " ")
        best = chance(model.p_best).replace(numbers.NO_BREAK, " ")
        lines.append(f"{index:>2} {name:<27}{mean:>9}  {interval:^13}{best:>8}{tuned:>8}{cost:>9}")
    if len(results.models) > top:
        lines.append(f"   and {len(results.models) - top} more: see the report, or --top")
    if not tuned_any and any(model.head is not None for model in results.models):
        measure = "R2" if metric == "r2" else metric
        lines += [
            f"   (head: {measure} of a head on {results.sample.rows:,} examples, each predicted",
            "   from the others; a fine-tuning mostly reaches more)",
        ]
    lines.append("")
    for reason in results.models[0].reasons if results.models else ():
        lines += textwrap.wrap(f"- {reason}", _WIDTH, subsequent_indent="  ")
    for each in results.failed:
        lines += textwrap.wrap(
            f"not ranked: {each.model}: {each.reason}", _WIDTH, subsequent_indent="  "
        )
    for note in results.notes:
        lines += textwrap.wrap(f"note: {note}", _WIDTH, subsequent_indent="  ")
    lines += _proposed(results.proposals)
    if said["next"]:
        lines.append(said["next"].replace(numbers.NO_BREAK, " "))
    if results.verified:
        lines += ["", *_verified(results.verified, metric)]
    return "\n".join(lines)


def millions(facts: Mapping[str, float | str]) -> str:
    """A number of parameters, as far as it is known."""
    value = facts.get("parameters")
    return f"{value / 1e6:,.0f} M" if isinstance(value, float) else ""


def _proposed(proposals: Sequence[ProposedModel]) -> list[str]:
    """Models of the starter kit, one line each."""
    if not proposals:
        return []
    most = max(each.tasks for each in proposals)
    lines = [
        "",
        *textwrap.wrap(
            f"Not on this machine, proposed by results on up to {most} public tasks and by facts; "
            "none of them has seen your data:",
            _WIDTH,
        ),
        f"   {'':38}{'place':>6}{'tasks':>6}{'size':>8}{'ms':>7}  licence",
    ]
    for each in proposals:
        name = each.name if len(each.name) <= 37 else each.name[:36] + "…"
        ms = "" if each.milliseconds is None else f"{each.milliseconds:.1f}"
        licence = str(each.facts.get("licence", "unknown"))
        licence = "its own" if "://" in licence else licence[:12]
        lines.append(
            f"   {name:<38}{each.rank:>6.0f}{each.tasks:>6}{millions(each.facts):>8}{ms:>7}"
            f"  {licence}"
        )
    lines.append(f"   (place: expected among {proposals[0].of:,}; ms an example: estimated)")
    return lines


def _verified(found: OrdersResult, metric: str) -> list[str]:
    times, unit = (100, "points") if metric == "accuracy" else (1, "R2")
    lines = [f"{len(found.models)} models really fine-tuned; predicted against real order:"]
    lines.append(f"   {'':24}{'weighted tau':>13}{f'regret, {unit}':>17}")
    for row in found.predictors:
        tau = "" if row.tau is None else f"{row.tau:.3f}"
        lines.append(f"   {row.predictor:<24}{tau:>13}{row.regret * times:>17.3g}")
    if found.noise is not None:
        lines.append(f"   {'(a perfect predictor)':<24}{found.noise:>13.3f}{'':>17}")
    return lines
