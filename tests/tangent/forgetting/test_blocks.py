"""Without an example, statistics have the bytes of never having had it: any order, any blocks."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.tangent import Component
from stockpot.tangent.feeds import TensorFeed
from stockpot.tangent.rows import make_portion, row_hashes
from stockpot.tangent.shards import Division, Shard, portions
from stockpot.tangent.summing import aggregate, total
from stockpot.tasks import Task
from tests.tangent.statistics.tiny import CLASSES, composer, data

NONE = np.empty(0, dtype=np.int64)
Blocks = dict[str, Component]


def components(rows: np.ndarray, shards: int, blocks: int, known: Blocks) -> list[Component]:
    """Statistics of these rows of the tiny data in that order, each shard by its blocks.

    ``known``: blocks by content, which are not summed again.
    """
    inputs, labels = data().inputs[rows], data().labels[rows]
    domain = np.zeros(len(rows), dtype=np.int64)
    task = Task("tiny", "classification", "array", ("d",), CLASSES, inputs, labels, domain, "f")
    hashes = row_hashes(task)
    owner = np.array([int(content[-2:], 16) * shards // 256 for content in hashes])
    parts = [Shard(f"s{n}", np.flatnonzero(owner == n), NONE) for n in range(shards)]
    division, made = Division(tuple(parts), {}, hashes), []
    for shard in (part for part in parts if len(part.train)):
        own = portions(task, division, shard, blocks)
        for portion in own:
            if portion.content not in known:
                known[portion.content] = composer("plain").component(
                    TensorFeed(torch.from_numpy(inputs[portion.rows])),
                    labels[portion.rows],
                    np.arange(len(portion.rows)),
                    task=shard.name,
                    fingerprint=portion.content,
                )
        whole = make_portion(task, hashes, shard.train).content
        made.append(total([known[portion.content] for portion in own], fingerprint=whole))
    return made


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(range(40)),
    twice=st.lists(st.integers(0, 39), max_size=5),
    gone=st.sets(st.integers(0, 39), min_size=1, max_size=6),
    shards=st.integers(1, 3),
    blocks=st.integers(1, 8),
)
def test_any_examples_of_any_shards_go_as_if_they_had_never_been(
    order: list[int], twice: list[int], gone: set[int], shards: int, blocks: int
) -> None:
    everything = np.array([*range(40), *twice])
    known: Blocks = {}
    components(everything, shards, blocks, known)
    before = set(known)
    left = [row for row in everything.tolist() if row not in gone]
    after = components(np.array(left), shards, blocks, known)
    # Of the blocks only those that held an example were summed again.
    assert len(set(known) - before) <= len(gone)
    # Another site that never had them, whose rows lie in another order.
    never = [row for row in [*order, *twice[::-1]] if row not in gone]
    other = components(np.array(never), shards, blocks, {})
    assert [one.digest for one in after] == [one.digest for one in other]
    assert aggregate(after, "sum").digest == aggregate(other, "sum").digest
