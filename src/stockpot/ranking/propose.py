"""A zoo for whoever names none: models at hand are run, those of the starter kit are proposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stockpot.errors import InputError
from stockpot.files import write_text
from stockpot.ranking.at_hand import AtHand, models_at_hand
from stockpot.ranking.beliefs import learn
from stockpot.ranking.features import Failed
from stockpot.ranking.history import Fact
from stockpot.ranking.request import Request
from stockpot.ranking.schema import ProposedModel
from stockpot.ranking.starter import Kit, Limits, names_for_loading, starter_kit
from stockpot.ranking.zoo import ModelEntry, Zoo, parse_zoo
from stockpot.tasks import Task, load_task

PROPOSED = 10
_FETCHED = 3
_MODALITY = {
    "images": "image",
    "rotated_mnist": "image",
    "colored_mnist": "image",
    "rotation": "image",
    "text": "text",
}
_SIDE, _ROUNDS = 512, 8


@dataclass(frozen=True)
class Proposed:
    """A zoo made from what is at hand, and the kit that the rest is proposed from.

    ``left_out``: models at hand that the limits do not allow.
    """

    zoo: Zoo
    kit: Kit
    limits: Limits
    left_out: tuple[Failed, ...] = field(default=())


def make_zoo(
    request: Request, root: Path, limits: Limits, *, download: bool, without: Sequence[str]
) -> Proposed:
    """The models at hand that take the task's inputs, within ``limits``.

    With ``download`` the first proposals of the kit are among them. Raises ``InputError`` for a
    licence that the kit does not know, a name in ``without`` that is not at hand, and inputs that
    no public model takes.
    """
    kit = starter_kit(_modality(request, root))
    limits.check(kit)
    entries, left_out = list[dict[str, object]](), list[Failed]()
    for model in models_at_hand(kit.modality, Path.cwd()):
        reason = _refusal(model, kit, limits)
        if model.name in without:
            continue
        if reason is not None:
            left_out.append(Failed(model.name, reason))
            continue
        entries.append({"id": model.name, "kind": model.kind, "name": str(model.folder.absolute())})
    if download:
        known = {entry["id"] for entry in entries}
        best = [name for name in _order(kit, limits) if name not in (*known, *without)]
        entries += names_for_loading(kit, best[:_FETCHED])
    for entry in entries:
        entry["metadata"] = dict(kit.facts.get(str(entry["id"]), {}))
    here = Path.cwd()
    zoo = parse_zoo({"models": entries}, root=here) if entries else Zoo({}, here)
    return Proposed(zoo, kit, limits, tuple(left_out))


def propose(found: Proposed, task: Task, names: Sequence[str]) -> tuple[ProposedModel, ...]:
    """The best models of the kit that are not among ``names``, by their results elsewhere."""
    speed = _operations_per_ms()
    tokens = _tokens(task)
    chosen = []
    ranks = _standings(found.kit, found.limits)
    for name, rank in ranks.items():
        facts = found.kit.facts[name]
        ms = _milliseconds(facts, tokens, speed)
        limit = found.limits.max_ms
        if name in names or (limit is not None and (ms is None or ms > limit)):
            continue
        chosen.append(
            ProposedModel(
                name=name,
                kind=found.kit.kinds[name],
                rank=rank,
                of=len(ranks),
                tasks=found.kit.results(name),
                milliseconds=None if ms is None else round(ms, 2),
                facts=facts,
            )
        )
        if len(chosen) == PROPOSED:
            break
    return tuple(chosen)


def write_zoo(path: Path, found: Proposed, proposals: Sequence[ProposedModel]) -> None:
    """A zoo of the models at hand and of those proposed, to go on with."""
    import yaml

    entries = [
        {"id": name, "kind": entry.kind, "name": entry.name}
        for name, entry in found.zoo.entries.items()
        if isinstance(entry, ModelEntry) and Path(entry.name).is_absolute()
    ]
    proposed = names_for_loading(found.kit, [each.name for each in proposals])
    text = yaml.safe_dump({"models": [*entries, *proposed]}, sort_keys=False, allow_unicode=True)
    write_text(
        path, "# Written by `stockpot rank`: models at hand, then those it proposes.\n" + text
    )


def _modality(request: Request, root: Path) -> str:
    known = _MODALITY.get(request.task.kind)
    return known or load_task(request.task, root=root, seed=request.seed).modality


def _refusal(model: AtHand, kit: Kit, limits: Limits) -> str | None:
    facts: dict[str, Fact] = dict(kit.facts.get(model.name, {}))
    if model.is_too_large and model.name not in kit.facts:
        return f"{model.size / 1e9:.1f} GB of weights: name it in a zoo to have it run"
    facts.setdefault("parameters", model.size / 4)
    return limits.refusal(facts)


def _standings(kit: Kit, limits: Limits) -> dict[str, float]:
    """Expected rank among all models of the kit that the limits allow, the best first; those of
    which facts alone are known come after all that have results.
    """
    names = [name for name, facts in kit.facts.items() if limits.refusal(facts) is None]
    if not names:
        raise InputError("no model of the starter kit is within these limits")
    facts = {name: _plain(kit.facts[name]) for name in names}
    ranking = learn(names, kit.table, facts).for_task({}, {}, names, metadata=facts)
    ordered = sorted(
        ranking.standings, key=lambda each: (kit.results(each.model) == 0, each.rank.mean)
    )
    return {each.model: round(each.rank.mean, 1) for each in ordered}


def _order(kit: Kit, limits: Limits) -> list[str]:
    return list(_standings(kit, limits))


def _plain(facts: Mapping[str, Fact]) -> dict[str, Fact]:
    """What may say how good a model is."""
    return {name: value for name, value in facts.items() if name not in ("source", "published")}


def _tokens(task: Task) -> float:
    """Tokens of a typical text, about four for three words; 1 for images."""
    if not isinstance(task.inputs, list):
        return 1.0
    some = task.inputs[:500]
    return min(64.0, 4 / 3 * float(np.median([len(text.split()) for text in some])) + 2)


def _milliseconds(facts: Mapping[str, Fact], tokens: float, speed: float) -> float | None:
    """How long an example takes, by multiplications alone; None where those are not known."""
    gmacs = facts.get("gmacs")
    return 2e9 * gmacs * tokens / speed if isinstance(gmacs, float) else None


def _operations_per_ms() -> float:
    """Operations that this machine does in a millisecond, in the product of two matrices."""
    import time

    matrix = np.ones((_SIDE, _SIDE), dtype=np.float32)
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return 2 * _SIDE**3 / (1000 * min(times))
