"""``rank --method fennec``: the paper's method as it stands, from tasks that are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stockpot.errors import InputError
from stockpot.files import write_json
from stockpot.ranking.fennec.method import FennecRanking
from stockpot.ranking.fennec.offline import learn, rank_by
from stockpot.ranking.handover import write_recipe
from stockpot.ranking.prepare import Prepared, prepare_task
from stockpot.ranking.request import load_request
from stockpot.ranking.results import unranked
from stockpot.ranking.schema import UnrankedModel
from stockpot.ranking.zoo import ModelEntry, Zoo, load_zoo
from stockpot.results import ResultPart
from stockpot.yaml_lines import suggestion


class FennecModel(ResultPart):
    """``score``: half ``latent`` (from the proxy), half ``meta`` (from facts); more is better."""

    name: str
    score: float
    latent: float
    meta: float


class FennecResults(ResultPart):
    """The content of ``fennec.json``; ``models``: best first. ``milliseconds``: of the ranking,
    once the proxy had looked at the task.
    """

    task: str
    known: tuple[str, ...]
    proxy: str
    models: tuple[FennecModel, ...]
    failed: tuple[UnrankedModel, ...]
    milliseconds: float


def rank_fennec(
    task: str | Path,
    zoo: str | Path,
    known: Sequence[str | Path],
    *,
    proxy: str,
    output: str | Path = "ranked",
    changes: Sequence[str] = (),
    download: bool = False,
    skip_corrupt: bool = False,
) -> FennecResults:
    """Rank the models of a zoo by Fennec (arXiv 2403.06382).

    ``known``: tasks on which all models are run; ``proxy``: the model of the zoo that looks at
    tasks. Features are kept in ``output``, which gets ``fennec.json`` and ``recipe.yaml``. Raises
    ``InputError`` for no known task, a proxy that the zoo does not have, or a task that is no
    classification.
    """
    if not known:
        raise InputError(
            "Fennec learns from known tasks", hint="name some: --known a.yaml --known b.yaml"
        )
    models, output = load_zoo(Path(zoo)), Path(output)
    entry = _proxy(models, proxy)
    work = output / "work"

    def prepared(path: str | Path, changes: Sequence[str] = ()) -> Prepared:
        request, root = load_request(Path(path), changes)
        return prepare_task(
            request, root, models, cache=(work / "cache").resolve(), skip_corrupt=skip_corrupt,
            download=download,
        )  # fmt: skip

    new, old = prepared(task, changes), [prepared(each) for each in known]
    entries = {n: e for n, e in new.entries.items() if isinstance(e, ModelEntry)}
    cache, folder = work / "features", models.root
    learnt = learn(
        [(each.task, each.order) for each in old],
        entries,
        entry,
        cache=cache,
        root=folder,
        download=download,
    )
    ranking = rank_by(
        learnt,
        learnt.fit(),
        new.task,
        new.order,
        entry,
        cache=cache,
        root=folder,
        download=download,
    )
    results = FennecResults(
        task=new.title,
        known=tuple(each.task.name for each in old),
        proxy=proxy,
        models=_models(ranking),
        failed=unranked([*new.failed, *learnt.failed]),
        milliseconds=ranking.milliseconds,
    )
    write_json(output / "fennec.json", results.to_json())
    winner = results.models[0].name
    write_recipe(output / "recipe.yaml", new, winner, entries[winner])
    return results


def _proxy(zoo: Zoo, name: str) -> ModelEntry:
    entry = zoo.entries.get(name)
    if not isinstance(entry, ModelEntry):
        near = suggestion(name, list(zoo.entries))
        raise InputError(f"the zoo has no model '{name}' to be Fennec's proxy{near}")
    return entry


def _models(ranking: FennecRanking) -> tuple[FennecModel, ...]:
    scores, latent, meta = ranking.scores, ranking.latent, ranking.meta
    return tuple(
        FennecModel(name=name, score=scores[name], latent=latent[name], meta=meta[name])
        for name in ranking.order
    )
