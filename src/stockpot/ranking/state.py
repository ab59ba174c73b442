"""One ranking on its way: what was asked, what is known so far, what is believed of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from stockpot.errors import InputError
from stockpot.execution import Backend
from stockpot.ranking.beliefs import Beliefs, believe, trusted
from stockpot.ranking.features import Extractor, Failed
from stockpot.ranking.features.cache import LoadedFacts
from stockpot.ranking.halving import Rung
from stockpot.ranking.history import Table
from stockpot.ranking.posterior import Posterior, Ranking
from stockpot.ranking.prepare import Prepared
from stockpot.ranking.request import Sample
from stockpot.ranking.scoring import Scored, held_out_value
from stockpot.ranking.starter import Limits
from stockpot.ranking.tuning import Tuned, Tuner
from stockpot.ranking.zoo import FeatureEntry, ModelEntry
from stockpot.system import usable_cores

SHORTLIST = 30
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


@dataclass(frozen=True)
class RankOptions:
    """How far ``rank`` goes.

    Attributes:
        budget: seconds of fine-tuning in all, jobs of earlier runs included; None: none.
        select: ``"gain"`` fine-tunes whole models one after the other, each time the one worth most
            per second; ``"halving"`` trains many a little and the better half on.
        without: models of the zoo to leave out, by name.
        limits: which models are wanted, where none are named.
        shortlist: how many models are run at most; the rest is ranked by history and metadata.
        download: weights that are not here may be fetched.
        verify: fine-tune all that was run afterwards, and compare orders.
        append: append the real results to the history store, which is made if there is none.
        overwrite: replace the results of another task or zoo in the output folder.
        jobs: fine-tunings at a time (default: one per core and thread).
        quick: look at the first examples only.
    """

    budget: float | None = None
    select: str = "gain"
    shortlist: int = SHORTLIST
    without: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    download: bool = False
    skip_corrupt: bool = False
    verify: bool = False
    append: bool = False
    overwrite: bool = False
    jobs: int | None = None
    backend: str | Backend = "local"
    quick: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.select not in ("gain", "halving"):
            raise InputError(f"select: got '{self.select}', expected 'gain' or 'halving'")
        if self.select != "gain" and self.budget is None:
            raise InputError(
                f"select '{self.select}' has no effect here; it has one with a budget",
                hint="say how long fine-tunings may take, such as --budget 30m",
            )


def seconds(text: float | str | None) -> float | None:
    """``90``, ``90s``, ``30m``, ``1h30m`` as seconds; ``InputError`` for any other text."""
    if not isinstance(text, str):
        return text
    compact = text.strip().lower().replace(" ", "")
    if re.fullmatch(r"\d+(\.\d+)?", compact):
        return float(compact)
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise InputError(f"'{text}' is no duration", hint="write 90s, 30m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


@dataclass(frozen=True)
class RankingRun:
    """All that is known at one point of a ranking; what follows is another value.

    ``learnt``: the posterior over the history, learnt when it is first asked for.
    ``table``: the history without this task; ``known``: results on this very task from the history.
    ``tuned``: whole fine-tunings; ``rungs``: of successive halving.
    """

    prepared: Prepared
    options: RankOptions
    table: Table | None
    learnt: Callable[[], Posterior]
    known: Mapping[str, float]
    extractor: Extractor
    scored: Scored = field(default_factory=Scored)
    tuned: Mapping[str, Tuned] = field(default_factory=dict)
    rungs: tuple[Rung, ...] = ()
    failed: tuple[Failed, ...] = ()

    def after(self, done: Iterable[Tuned], failed: Iterable[Failed]) -> RankingRun:
        """With more fine-tunings, of which some came to their end, and more models that failed."""
        tuned = {one.model: one for one in done if one.whole}
        return replace(self, tuned={**self.tuned, **tuned}, failed=(*self.failed, *failed))

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be known of the question to read the answer, in a sentence each."""
        notes = list(self.prepared.request.notes)
        if self.table is not None and self.prepared.entries:
            names = list(self.prepared.entries)
            seen = [name for name in names if name in self.table.row]
            alone = "" if seen else ": places are expected, no results"
            notes.append(f"{len(seen)} of {len(names)} models occur in the history{alone}")
        heads = [held_out_value(self.scored.values[name]) for name in self.scored.values]
        floor = self.chance or 0.0  # of an R2: the mean
        best = max((head.low for head in heads if head is not None), default=None)
        if best is not None and best <= floor:
            known = "the most frequent class" if self.chance is not None else "the mean"
            notes.append(
                f"no model that was run tells more than {known} ({floor:.3f}) on examples that a "
                "head has not seen; nothing here says that one of them suits the task"
            )
        return tuple(notes)

    @property
    def chance(self) -> float | None:
        """What the most frequent class alone reaches on training rows; None without classes."""
        task = self.prepared.task
        if task.kind != "classification":
            return None
        labels = task.labels[self.prepared.order]
        return float(np.bincount(labels).max() / len(labels))

    @property
    def sample(self) -> Sample:
        """How many examples are looked at."""
        own = self.prepared.request.sample
        most = min(own.first, own.most) if self.options.quick else own.most
        return own.model_copy(update={"most": most})

    @property
    def alive(self) -> list[str]:
        """Models that have not failed, in the order of the zoo."""
        failed = {each.name for each in self.failed}
        return [name for name in self.prepared.entries if name not in failed]

    @property
    def tunable(self) -> dict[str, ModelEntry]:
        """Models that were run and can be trained."""
        found: dict[str, ModelEntry] = {}
        for name in self.alive:
            entry = self.prepared.entries[name]
            if name in self.scored.extracted and not isinstance(entry, FeatureEntry):
                found[name] = entry
        return found

    @property
    def metadata(self) -> dict[str, dict[str, float | str]]:
        """What the zoo says and what was measured, by model."""
        found: dict[str, dict[str, float | str]] = {}
        for name, entry in self.prepared.entries.items():
            found[name] = dict(entry.metadata)
            made = self.scored.extracted.get(name)
            if made is not None and "parameters" in made.facts:
                found[name]["parameters"] = float(made.facts["parameters"])
        return found

    @property
    def workers(self) -> int:
        """Fine-tunings at a time."""
        if self.options.backend == "serial":
            return 1
        cores = usable_cores()
        return self.options.jobs or max(1, cores // self.prepared.request.threads)

    def believe(self) -> Beliefs:
        """The posterior given all that is known so far."""
        anchors = dict(self.known)
        anchors |= {name: one.value for name, one in self.tuned.items()}
        alive = self.alive
        wanted = self.prepared.request.scores
        if not alive:
            nothing = np.empty(0)
            return Beliefs(Ranking((), (), nothing, nothing, float("nan")), None)
        posterior = self.learnt()
        scores, unused = trusted(posterior, self.scored.values, wanted)
        return believe(
            posterior,
            alive,
            metadata=self.metadata,
            scores=scores,
            anchors={name: value for name, value in anchors.items() if name in alive},
            metric=self.prepared.metric,
            untrained=[name for name in alive if self.facts(name).get("untrained", False)],
            unused=unused,
            judged=self.prepared.judged,
        )

    @cached_property
    def tuner(self) -> Tuner:
        """What fine-tunes this ranking's models."""
        work = self.extractor.cache.parent
        tunable = self.tunable
        return Tuner(
            self.prepared.request,
            self.prepared.task,
            self.prepared.split,
            tunable,
            {name: self.scored.extracted[name].facts["fingerprint"] for name in tunable},
            root=self.prepared.root,
            zoo=self.prepared.zoo.root,
            workplace=work,
            cache=(work / "cache").resolve(),
            skip_corrupt=self.options.skip_corrupt,
        )

    @cached_property
    def costs(self) -> dict[str, float]:
        """Seconds that fine-tuning each model will take, in the scale of those that were done."""
        found = {}
        for name in self.tuner.entries:
            estimate = self.tuner.estimate(self.scored.extracted[name].facts)
            if estimate is not None:
                found[name] = estimate
        pairs = [(one.seconds, found[name]) for name, one in self.tuned.items() if name in found]
        if pairs:
            scale = sum(real for real, _ in pairs) / max(sum(guess for _, guess in pairs), 1e-9)
            found = {name: value * scale for name, value in found.items()}
        return found

    def facts(self, name: str) -> LoadedFacts:
        """What was measured of a model when it was run; empty if it was not."""
        made = self.scored.extracted.get(name)
        return {} if made is None else made.facts
