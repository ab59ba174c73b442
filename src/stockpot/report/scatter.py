"""Two scatter plots: diversity against gain, and validation against held-out accuracy of runs."""

from __future__ import annotations

from dataclasses import dataclass

from stockpot.evaluation.evidence import DEFAULTS
from stockpot.evaluation.wording import label, points, unit
from stockpot.recycling.schema import DiversityResult, RecycleResults, RunResult
from stockpot.report import svg
from stockpot.report.judged import judged
from stockpot.report.numbers import percent, score, signed, tick

SHAPES = ("circle", "diamond", "square", "triangle", "ring")
_MOST_HINTS = 60
Box = tuple[float, float, float, float]


def shape(index: int) -> str:
    return SHAPES[index % len(SHAPES)]


def solid(index: int) -> str:
    """As :func:`shape`, without the ring, which stands for averaged weights."""
    return SHAPES[index % 4]


def pools(results: RecycleResults) -> list[str]:
    found = (row.pool for cell in results.cells for row in cell.diversity)
    return list(dict.fromkeys(found))


def inits(results: RecycleResults) -> list[str]:
    found = (run.init for cell in results.cells for run in cell.runs)
    return sorted(dict.fromkeys(found), key=lambda name: name != "base")


@dataclass(frozen=True)
class _Pool:
    """Members of a pool in one cell; ``where`` and ``cell`` are its names, short and whole."""

    result: DiversityResult
    where: str
    cell: str
    ratio_error: float

    @property
    def pool(self) -> str:
        return self.result.pool

    @property
    def ensemble_gain(self) -> float:
        return self.result.ensemble_gain

    @property
    def gained(self) -> float:
        """Of the average over the mean member."""
        return self.result.average - self.result.mean_member

    def numbers(self, metric: str) -> str:
        return (
            f"{self.ratio_error:.2f}, ensemble {signed(self.ensemble_gain, metric)}, "
            f"average {signed(self.gained, metric)}"
        )


def diversity(results: RecycleResults, ident: str, width: float, height: float) -> str:
    """Ratio-error across; gain over the mean member up: ensemble filled, average hollow.

    Empty where no ratio-error was measured, as for regression.
    """
    metric, names = results.task.metric, pools(results)
    rows = [
        _Pool(row, str(cell.held_out), f"{cell.held_out}, trial {cell.trial}", row.ratio_error)
        for cell in results.cells
        for row in cell.diversity
        if row.ratio_error is not None
    ]
    if not rows:
        return ""
    low_x, high_x = svg.padded(
        min(row.ratio_error for row in rows), max(row.ratio_error for row in rows), 0.1, 0.1
    )
    gains = [value for row in rows for value in (row.ensemble_gain, row.gained)]
    low_y, high_y = svg.padded(min(0.0, *gains), max(DEFAULTS.ensemble_gain, *gains), 0.02)
    left, top, bottom = 46.0, 26.0, height - 40.0
    across = svg.Scale(max(0.0, low_x), high_x, left, width - 10)
    up = svg.Scale(low_y, high_y, bottom, top)
    rule = up(DEFAULTS.ensemble_gain)
    parts = [
        *_axes(across, up, metric, gain=True),
        _below("ratio-error: how differently members err", left, width, height),
        svg.text(0, 12, f"gain over the mean member, in {unit(metric)}", class_="axis"),
        svg.line(left, up(0), width - 10, up(0), class_="zero"),
        svg.line(left, rule, width - 10, rule, class_="rule"),
    ]
    taken: list[Box] = []
    dots, labels = [], []
    for row in rows:
        index = names.index(row.pool)
        x, y, y2 = across(row.ratio_error), up(row.ensemble_gain), up(row.gained)
        dots.append(
            svg.group(
                svg.tooltip(f"{row.pool} runs, {row.cell}: ratio-error {row.numbers(metric)}"),
                svg.line(x, y, x, y2, class_="stem"),
                svg.marker("ring", x, y2, 3.6),
                svg.marker(solid(index), x, y, 4.6),
                class_=f"c{index}",
            )
        )
        taken += [(x - 6, y - 6, x + 6, y + 6), (x - 6, y2 - 6, x + 6, y2 + 6)]
    needed = f"{points(DEFAULTS.ensemble_gain, metric=metric).removesuffix('.0')} {unit(metric)}"
    parts.append(_rule_label(needed, left, width - 10, rule, taken))
    for row in rows if len(rows) <= 12 else _extremes(rows):
        x, y = across(row.ratio_error), up(row.gained)
        labels.append(_free_label(row.where, x, y, width, taken))
    return svg.figure(
        ident,
        width,
        height,
        "Diversity against gain",
        "Each pool of runs: ratio-error against the gain over its mean member. "
        + "; ".join(f"{row.pool} {row.cell}: {row.numbers(metric)}" for row in rows[:16])
        + ".",
        *parts,
        *dots,
        *labels,
    )


def runs(results: RecycleResults) -> list[str]:
    """One small figure per held-out domain: validation across, held-out accuracy up."""
    metric, names = results.task.metric, inits(results)
    domains: dict[str, list[RunResult]] = {}
    for cell in results.cells:
        domains.setdefault(str(cell.held_out), []).extend(cell.runs)
    return [
        _runs(f"runs-{index}", domain, found, names, metric, judged(results).axis)
        for index, (domain, found) in enumerate(domains.items())
        if found
    ]


def _runs(
    ident: str, domain: str, found: list[RunResult], names: list[str], metric: str, axis: str
) -> str:
    width, height, left = 262.0, 206.0, 34.0
    x_values = [run.id_accuracy for run in found]
    y_values = [run.accuracy for run in found]
    across = svg.Scale(*svg.padded(min(x_values), max(x_values), 0.02), left, width - 8)
    up = svg.Scale(*svg.padded(min(y_values), max(y_values), 0.02), height - 38, 28)
    parts = [svg.text(0, 14, svg.shortened(domain, 13.5, width), class_="panel-title")]
    parts += [*_axes(across, up, metric), _below("validation", left, width, height)]
    for run in found:
        index = names.index(run.init)
        words = (
            ""
            if len(found) > _MOST_HINTS
            else svg.tooltip(
                f"{run.label}: validation {score(run.id_accuracy, metric)}, "
                f"{axis} {score(run.accuracy, metric)}"
            )
        )
        x, y = across(run.id_accuracy), up(run.accuracy)
        parts.append(svg.marker(shape(index), x, y, 3.4, words, class_=f"dot c{index}"))
    return svg.figure(
        ident,
        width,
        height,
        f"Runs, {domain}, {axis}",
        f"{len(found)} runs: validation {label(metric)} {score(min(x_values), metric)} to "
        f"{score(max(x_values), metric)}{percent(metric)}, {axis} {label(metric)} "
        f"{score(min(y_values), metric)} to {score(max(y_values), metric)}{percent(metric)}.",
        *parts,
    )


def _below(words: str, left: float, width: float, height: float) -> str:
    """The name of the axis that runs across."""
    return svg.text((left + width) / 2, height - 6, words, class_="axis", text_anchor="middle")


def _axes(across: svg.Scale, up: svg.Scale, metric: str, *, gain: bool = False) -> list[str]:
    parts = []
    for at in up.ticks(5):
        words = signed(at, metric).removesuffix(".0") if gain else tick(at, metric)
        parts.append(svg.line(across.start, up(at), across.end, up(at), class_="grid"))
        parts.append(
            svg.text(across.start - 6, up(at) + 4, words, class_="tick", text_anchor="end")
        )
    for at in across.ticks(5):
        words = f"{at:g}" if gain else tick(at, metric)
        parts.append(
            svg.text(across(at), up.start + 16, words, class_="tick", text_anchor="middle")
        )
    return parts


def _extremes(rows: list[_Pool]) -> list[_Pool]:
    """The few points a reader will ask about: the lowest and highest gains."""
    ordered = sorted(rows, key=lambda row: row.gained)
    lost = [row for row in ordered[:3] if row.gained < 0]
    return [*lost, ordered[-1]]


def _rule_label(needed: str, left: float, right: float, y: float, taken: list[Box]) -> str:
    """Names the go / no-go line at the first place along it where no point is in the way."""
    boxes = []
    for words in (f"worth averaging: {needed} or more", "worth averaging", needed):
        wide = svg.text_width(words, 11.5)
        starts = [right - wide, left + 6, *range(int(left) + 20, int(right - wide), 10)]
        boxes += [(words, (x, y - 15, x + wide, y - 2)) for x in starts]
    free = (each for each in boxes if not any(_overlap(each[1], other) for other in taken))
    words, box = next(free, boxes[-1])
    taken.append(box)
    return svg.text(box[0], box[3] - 3, words, class_="note")


def _free_label(words: str, x: float, y: float, width: float, taken: list[Box]) -> str:
    """A label beside its point where nothing else is; left out when there is no room."""
    wide = svg.text_width(words, 11.5)
    for anchor, dx, dy in (("start", 9, 4), ("end", -9, 4), ("start", 9, 16), ("end", -9, -9)):
        start = x + dx if anchor == "start" else x + dx - wide
        box = (start, y + dy - 10, start + wide, y + dy + 3)
        if start > 0 and box[2] < width and not any(_overlap(box, other) for other in taken):
            taken.append(box)
            return svg.text(x + dx, y + dy, words, class_="note", text_anchor=anchor)
    return ""


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
