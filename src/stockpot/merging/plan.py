"""From sources and settings to a list of work: one entry a tensor of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stockpot.checkpoints import Checkpoint, TensorInfo
from stockpot.errors import MethodError
from stockpot.merging.alignment import Aligned, Heads, align
from stockpot.merging.engine import Copy, Options, Work
from stockpot.merging.method import get_method
from stockpot.merging.report import TensorReport
from stockpot.merging.settings import Settings
from stockpot.merging.whole import combine_whole


@dataclass
class MergePlan:
    """All tensors of a result, in stored order, and what is known to be lost on the way."""

    works: list[Work | Copy]
    aligned: list[Aligned]
    dropped: list[str]
    warnings: list[str]

    def prepare(self, options: Options) -> list[Work | Copy]:
        """What is left for the engine, once methods that need the whole model at once have run."""
        whole = [
            work
            for work in self.works
            if isinstance(work, Work) and work.method.granularity_for(work.parameters) == "model"
        ]
        if not whole:
            return self.works
        sink = combine_whole(whole, options)
        made = sink.checkpoint("result")
        known = {work.info.name for work in whole}
        tasks = [Copy(work.info, made) if work.info.name in known else work for work in self.works]
        for name, info in sink.tensors.items():
            if name not in known:
                self.aligned.append(Aligned(info, "copy", (), "made by the method"))
                self.works.append(Copy(info, made))
                tasks.append(self.works[-1])
        return tasks

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return {work.info.name: work.info for work in self.works}

    def reports(self) -> list[TensorReport]:
        """What happened to each tensor; facts are there once the work is done."""
        return [
            TensorReport(
                name=item.info.name,
                action=item.action,
                method=work.method.name if isinstance(work, Work) else "",
                dtype=item.info.dtype,
                shape=item.info.shape,
                facts=work.facts() if isinstance(work, Work) else {},
                note=item.note,
            )
            for work, item in zip(self.works, self.aligned, strict=True)
        ]


def make_plan(
    models: Sequence[Checkpoint],
    base: Checkpoint | None,
    settings: Settings,
    *,
    heads: Heads = "auto",
    dtype: str | None = None,
    extras: Mapping[str, Sequence[Checkpoint]] | None = None,
) -> MergePlan:
    """Decide for every tensor what is done with it; reads integers, and no other data.

    Raises ``MethodError`` where a method needs a base and there is none, ``CheckpointError`` where
    tensors do not fit together.
    """
    for method in settings.methods():
        if method.base == "required" and base is None:
            raise MethodError(
                f"method '{method.name}' needs the base of the models", hint="give --base"
            )
    uses_base = {method.name for method in settings.methods() if method.base != "none"}

    def base_for(name: str) -> Checkpoint | None:
        return base if settings.of(name)[0].name in uses_base else None

    aligned, dropped = align(models, base_for, heads=heads, dtype=dtype)
    works: list[Work | Copy] = []
    for item in aligned:
        name = item.info.name
        sources = [models[i] for i in item.sources]
        if item.action == "copy":
            works.append(Copy(item.info, sources[0]))
        elif item.action == "mean":
            mean = get_method("linear")
            works.append(
                Work(item.info, sources, None, mean, mean.resolve({}, models=len(sources)))
            )
        else:
            method, parameters = settings.of(name)
            works.append(
                Work(item.info, sources, base_for(name), method, parameters, dict(extras or {}))
            )
    if base is not None and uses_base:
        present = {item.info.name for item in aligned}
        dropped += [name for name in base.names if name not in present and name not in dropped]
    return MergePlan(works, aligned, dropped, _warnings(aligned, dropped))


def _warnings(aligned: Sequence[Aligned], dropped: Sequence[str]) -> list[str]:
    found = []
    means = [item.info.name for item in aligned if item.action == "mean"]
    if means:
        found.append(f"{_some(means)}: did not fit the method and got a plain average")
    if dropped:
        found.append(f"{_some(dropped)}: left out of the result")
    statistics = [item.info.name for item in aligned if item.info.name.endswith("running_var")]
    if statistics:
        found.append(
            f"{len(statistics)} BatchNorm layers have merged statistics, which fit no data: "
            "re-estimate them on some batches (stockpot.merging.recalibrate)"
        )
    return found


def _some(names: Sequence[str]) -> str:
    listed = ", ".join(f"'{name}'" for name in names[:3])
    return listed if len(names) <= 3 else f"{listed} and {len(names) - 3} more tensors"
