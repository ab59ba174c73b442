"""A split depends on its seed and on each domain, and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.errors import TaskError
from stockpot.tasks import Task, build_task, select_domains, split_task


def task(sizes: dict[str, int]) -> Task:
    """Texts named after domain and position, two classes in turn."""
    texts = [f"{domain} {i}" for domain, size in sizes.items() for i in range(size)]
    return build_task(
        name="numbers",
        kind="classification",
        modality="text",
        domains=list(sizes),
        classes=["even", "odd"],
        inputs=texts,
        labels=np.array([i % 2 for size in sizes.values() for i in range(size)]),
        domain_ids=np.array([d for d, size in enumerate(sizes.values()) for _ in range(size)]),
        fingerprint="0",
        where="test",
    )


def texts(task: Task, parts: dict[str, np.ndarray]) -> dict[str, list[str]]:
    return {domain: [task.inputs[i] for i in rows] for domain, rows in parts.items()}


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 60), min_size=2, max_size=4),
    seed=st.integers(0, 2**32),
    fraction=st.floats(0.05, 0.9),
)
def test_split_is_a_partition(sizes: list[int], seed: int, fraction: float) -> None:
    data = task({f"d{i}": size for i, size in enumerate(sizes)})
    split = split_task(data, held_out=["d0"], seed=seed, validation_fraction=fraction)
    assert list(split.test) == ["d0"]
    assert list(split.train) == list(split.validation) == [f"d{i}" for i in range(1, len(sizes))]
    everything = np.concatenate(
        [rows for part in (split.train, split.validation, split.test) for rows in part.values()]
    )
    assert sorted(everything) == list(range(len(data)))
    for i, size in enumerate(sizes[1:], start=1):
        assert len(split.validation[f"d{i}"]) == max(1, int(size * fraction))
        assert len(split.train[f"d{i}"]) >= 1


def test_other_domains_and_their_order_change_nothing() -> None:
    few = task({"a": 30, "b": 40})
    more = task({"z": 25, "b": 40, "new": 11, "a": 30})
    first, second = split_task(few, seed=3), split_task(more, seed=3, held_out=["z"])
    for domain in ("a", "b"):
        assert (
            texts(few, first.train)[domain]
            == texts(more, second.train)[domain]
            == texts(more, split_task(more, seed=3).train)[domain]
        )


def test_seed_changes_the_split() -> None:
    data = task({"a": 30, "b": 40})
    assert not np.array_equal(
        split_task(data, seed=0).validation["a"], split_task(data, seed=1).validation["a"]
    )


def test_the_order_is_the_same_on_every_machine() -> None:
    """Written down once: a change here silently changes every published number."""
    split = split_task(task({"a": 10, "b": 10}), seed=0, validation_fraction=0.3)
    assert split.validation["a"].tolist() == [0, 3, 7]
    assert split.validation["b"].tolist() == [13, 15, 17]


def test_limit_keeps_the_head_of_the_order_everywhere() -> None:
    data = task({"a": 50, "b": 60, "c": 5})
    split = split_task(data, held_out=["b"], seed=1, limit_per_domain=10)
    assert len(split.train["a"]) == 8
    assert len(split.validation["a"]) == 2
    assert len(split.test["b"]) == 10
    assert len(split.train["c"]) + len(split.validation["c"]) == 5
    larger = split_task(data, held_out=["b"], seed=1, limit_per_domain=20)
    assert set(split.test["b"]) < set(larger.test["b"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"held_out": ["photo"]}, "no domain 'photo'; its domains are 'a', 'b'"),
        ({"held_out": ["a", "b"]}, "no domain is left to train on"),
        ({"validation_fraction": 0.0}, "between 0 and 1"),
        ({"validation_fraction": 1.0}, "between 0 and 1"),
        ({"limit_per_domain": 1}, "2 or more"),
    ],
)
def test_bad_requests(options: dict, words: str) -> None:
    with pytest.raises(TaskError, match=words) as caught:
        split_task(task({"a": 4, "b": 4}), **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_domain_of_one_example() -> None:
    data = replace(task({"a": 4, "b": 4}), domain_ids=np.array([0] * 7 + [1]))
    with pytest.raises(TaskError, match="domain 'b' has 1 example"):
        split_task(data)


def test_one_domain_is_enough() -> None:
    assert list(split_task(task({"only": 6})).train) == ["only"]


def test_select_domains() -> None:
    data = task({"a": 2, "b": 3, "c": 4})
    chosen = select_domains(data, ["c", "a"])
    assert chosen.inputs == ["c 0", "c 1", "c 2", "c 3", "a 0", "a 1"]
    assert chosen.counts() == {"c": 4, "a": 2}
    assert chosen.rows("a").tolist() == [4, 5]
    assert chosen.fingerprint != data.fingerprint
    assert select_domains(data, None) is data
    with pytest.raises(TaskError, match="listed twice"):
        select_domains(data, ["a", "a"])
    with pytest.raises(TaskError, match="no domain 'x'"):
        select_domains(data, ["x"])
