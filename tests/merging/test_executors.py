"""Whatever runs a merge, the bytes are the same: cases follow from what the methods declare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stockpot.checkpoints import write_checkpoint
from stockpot.execution import Local, Serial
from stockpot.merging import processes
from stockpot.merging.block import BlockSums, Count, Joined, Largest, Statistic, Total
from stockpot.merging.distributed import merge_with
from stockpot.merging.engine import Options
from stockpot.merging.job import Spec
from stockpot.merging.merge import run_merge
from stockpot.merging.method import available_methods, get_method
from stockpot.merging.parameters import Choice, Flag
from stockpot.merging.report import MergeReport
from stockpot.merging.selection import Insides, Samples, inside
from stockpot.merging.testing import MethodCase, example

from .methods.test_contract import subject_of

PART = 60_000
"""Bytes of a part: the examples make five of them, one of which is larger than a sample."""


def cases() -> Iterator[MethodCase]:
    """Every method, each value of each of its choices, and each method that goes on top of it."""
    names = available_methods()
    tops = [name for name in names if get_method(name).on_top is not None]
    for name in names:
        subject = subject_of(name)
        if subject.method.granularity == "model":
            continue
        yield subject
        for parameter in subject.method.parameters:
            if isinstance(parameter, Choice | Flag):
                for value in parameter.valid():
                    if value != parameter.default:
                        more = {**subject.parameters, parameter.name: value}
                        yield replace(subject, parameters=more)
        yield from (replace(subject, name=f"{top}+{name}") for top in tops if top != name)


def label(subject: MethodCase) -> str:
    return " ".join([subject.name, *(f"{k}={v}" for k, v in subject.parameters.items())])


def sums_over_the_model(subject: MethodCase) -> bool:
    return any(step.scope == "model" for step in subject.method.passes_for(subject.resolved))


def parameters(subjects: Iterable[MethodCase]) -> list[Any]:
    return [pytest.param(subject, id=label(subject)) for subject in subjects]


CASES = list(cases())
# What travels between executors: each such method alone, and one with another on top of it.
QUICK = [
    s for s in CASES if (sums_over_the_model(s) and "+" not in s.name) or s.name == "lines+ties"
]


def spec_of(subject: MethodCase, folder: Path) -> Spec:
    """The subject's example, as files in ``folder``."""
    case = example(subject, "BF16", large=True)

    def write(name: str, state: dict[str, np.ndarray], code: str) -> Path:
        path = folder / f"{name}.safetensors"
        write_checkpoint(path, state, dtypes=dict.fromkeys(state, code))
        return path

    models = [write(f"model{i}", model.bits, "BF16") for i, model in enumerate(case.models)]
    base = None if subject.method.base == "none" else write("base", case.base.bits, "BF16")
    extras = {
        kind: [write(f"{kind}{i}", state, "F32") for i, state in enumerate(states)]
        for kind, states in case.extras.items()
    }
    return Spec(models, subject.name, base, {**subject.parameters, **extras})


class Kept(Local):
    """Worker processes that outlive a merge, so that each case does not start its own."""

    def close(self) -> None:
        """Nothing: the fixture ends them."""


@pytest.fixture(scope="module")
def workers() -> Iterator[Kept]:
    backend = Kept(2)
    yield backend
    Local.close(backend)


@pytest.fixture(autouse=True)
def fork_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WORTH_IT", 0)


def bytes_and_facts(report: MergeReport, output: Path) -> tuple[bytes, list[Any]]:
    return output.read_bytes(), [tensor.to_json() for tensor in report.tensors]


def check_all(subject: MethodCase, folder: Path, workers: Kept) -> None:
    """Threads, forked processes, jobs here and jobs of local workers against one thread."""
    spec = spec_of(subject, folder)
    one, other = folder / "one.safetensors", folder / "other.safetensors"
    expected = bytes_and_facts(run_merge(spec, one, options=Options(threads=1)), one)
    for options in (Options(threads=3, block_elements=1 << 16), Options(threads=1, processes=2)):
        report = run_merge(spec, other, options=options, overwrite=True)
        assert bytes_and_facts(report, other) == expected, options
    for backend in (Serial(), workers):
        report = merge_with(backend, spec, other, part=PART, overwrite=True)
        assert bytes_and_facts(report, other) == expected, type(backend).__name__


@pytest.mark.parametrize("subject", parameters(QUICK))
def test_sums_over_the_model_are_the_same_everywhere(subject, tmp_path, workers) -> None:
    check_all(subject, tmp_path, workers)


@pytest.mark.slow
@pytest.mark.parametrize("subject", parameters(s for s in CASES if s not in QUICK))
def test_every_method_gives_the_same_bytes_everywhere(subject, tmp_path, workers) -> None:
    check_all(subject, tmp_path, workers)


def kinds(cls: type[Statistic] = Statistic) -> Iterator[type[Statistic]]:
    for kind in cls.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_every_kind_of_statistic_survives_the_way_to_another_machine() -> None:
    rng = np.random.default_rng(0)
    blocks = [rng.random((2, 60)) for _ in range(3)]
    limits = ((0.2, 0.7), (0.5, 0.5))
    cells = [[inside(np, x, within) for x in block for within in limits] for block in blocks]
    statistics = [
        [Total(rng.random((n, 2, 2))) for n in (1, 4, 2)],
        [Count(rng.integers(0, 9, (2, 3))) for _ in range(3)],
        [Largest(rng.random(5)) for _ in range(3)],
        [Samples.of(100, list(block)) for block in blocks],
        [Insides.of(own) for own in cells],
    ]
    assert {type(same[0]) for same in statistics} == {
        kind for kind in kinds() if kind is not Joined and kind.__module__.startswith("stockpot")
    }
    for same in statistics:
        sent = [BlockSums() for _ in same]
        for sums, statistic in zip(sent, same, strict=True):
            sums.add({"a name": statistic})
        received = BlockSums()
        for arrays in [sums.arrays() for sums in sent]:
            received.add_arrays(arrays)
        here = BlockSums()
        for statistic in same:
            here.add({"a name": statistic})
        assert repr(received.values()) == repr(here.values())
