"""Fixed splits and groups: kept exactly, never divided, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stockpot.errors import TaskError
from stockpot.tasks import Task, build_task, load_task, select_domains, split_task
from stockpot.tasks.parts import TEST, TRAIN, VALIDATION, part_of
from tests.tasks.test_text import load, table


def task(
    domains: list[int],
    *,
    splits: list[int] | None = None,
    groups: list[str] | None = None,
    **options: Any,
) -> Task:
    """Rows in the given domains (numbers), two classes in turn."""
    names = [f"d{number}" for number in range(max(domains) + 1)]
    return build_task(
        name="numbers",
        kind="classification",
        modality="text",
        domains=names,
        classes=["even", "odd"],
        inputs=[str(row) for row in range(len(domains))],
        labels=np.arange(len(domains)) % 2,
        domain_ids=np.array(domains),
        fingerprint="0",
        where="here",
        splits=None if splits is None else np.array(splits, dtype=np.int8),
        groups=None if groups is None else np.array(groups),
        **{"allow_missing_classes": True, **options},
    )


def rows(parts: dict[str, np.ndarray]) -> set[int]:
    return {int(row) for own in parts.values() for row in own}


def test_spellings_of_splits() -> None:
    spelt = ["train", "Valid", "validation", "VAL", "dev", " test "]
    assert [part_of(name, "here") for name in spelt] == [0, 1, 1, 1, 1, 2]
    with pytest.raises(TaskError, match=r"^t.csv, line 3: 'eval' is not a split; use train, "):
        part_of("eval", "t.csv, line 3")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    data=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([TRAIN, TRAIN, VALIDATION, TEST])),
        min_size=12,
        max_size=40,
    ),
)
def test_fixed_splits_are_kept_exactly(seed: int, data: list[tuple[int, int]]) -> None:
    data = [*data, *((domain, part) for domain in range(3) for part in (0, 1, 2))]
    domains, splits = np.array(data).T
    split = split_task(task(domains.tolist(), splits=splits.tolist()), seed=seed)
    assert rows(split.train) == set(np.flatnonzero(splits == TRAIN))
    assert rows(split.validation) == set(np.flatnonzero(splits == VALIDATION))
    assert rows(split.test) == set(np.flatnonzero(splits == TEST))
    out = split_task(task(domains.tolist(), splits=splits.tolist()), held_out=["d1"], seed=seed)
    assert rows(out.train) == set(np.flatnonzero((splits == TRAIN) & (domains != 1)))
    assert rows(out.validation) == set(np.flatnonzero((splits == VALIDATION) & (domains != 1)))
    assert rows(out.test) == set(np.flatnonzero((splits == TEST) & (domains == 1)))


def test_what_fixed_splits_leave_open_is_drawn() -> None:
    """Validation rows out of the training rows; a held-out domain without test rows is all test."""
    data = task([0] * 20 + [1] * 10, splits=[TRAIN] * 15 + [TEST] * 5 + [TRAIN] * 10)
    split = split_task(data, held_out=["d1"], seed=1)
    assert rows(split.train) | rows(split.validation) == set(range(15))
    assert len(split.validation["d0"]) == 3
    assert rows(split.test) == set(range(20, 30))
    alone = split_task(task([0] * 10, splits=[TRAIN] * 8 + [VALIDATION] * 2), test_fraction=0.25)
    assert len(rows(alone.test)) == 2
    assert rows(alone.train) | rows(alone.test) == set(range(8))
    assert rows(alone.validation) == {8, 9}


def test_a_domain_may_have_nothing_but_test_rows_but_not_nothing_but_validation_rows() -> None:
    data = task([0] * 4 + [1] * 2 + [2] * 2, splits=[0] * 4 + [1] * 2 + [2] * 2)
    with pytest.raises(TaskError, match="validation rows of 'd1', and no rows to train on but"):
        split_task(data)
    split = split_task(task([0] * 6 + [1] * 2, splits=[0] * 4 + [1] * 2 + [2] * 2))
    assert list(split.train) == ["d0"]
    assert list(split.validation) == ["d0"]
    assert list(split.test) == ["d1"]
    with pytest.raises(TaskError, match="leave no rows to train on in 'd1', 'd2'"):
        split_task(data, held_out=["d0"])
    with pytest.raises(TaskError, match="leave no rows to train on in 'd1'"):
        split_task(data, held_out=["d0", "d2"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"splits": [1, 1, 2, 2]}, "here: the fixed splits have no rows to train on"),
        ({"splits": [0, 0, 3, 2]}, "fixed splits are 0"),
        ({"splits": [0, 0]}, r"'splits' has shape \(2,\), not \(4,\)"),
        ({"groups": ["a"]}, r"'groups' has shape \(1,\)"),
        (
            {"splits": [0, 0, 0, 2], "allow_missing_classes": False},
            "the test rows have no example of class 'even'",
        ),
        (
            {"splits": [0, 0, 1, 2], "groups": ["a", "b", "b", "c"]},
            "group 'b' has rows in train and in validation",
        ),
    ],
)
def test_bad_parts(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        task([0, 0, 0, 0], **options)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    sizes=st.lists(st.lists(st.integers(1, 6), min_size=3, max_size=12), min_size=2, max_size=3),
    fraction=st.floats(0.1, 0.6),
    held=st.booleans(),
    shared=st.booleans(),
)
def test_no_group_is_divided(
    seed: int, sizes: list[list[int]], fraction: float, held: bool, shared: bool
) -> None:
    """Train, validation and test have no group in common; with unseen_groups across domains too."""
    domains, groups = [], []
    for domain, own in enumerate(sizes):
        for number, size in enumerate(own):
            domains += [domain] * size
            groups += [f"g{number}" if shared else f"{domain}-{number}"] * size
    data = task(domains, groups=groups)
    try:
        split = split_task(
            data,
            held_out=["d0"] if held else [],
            seed=seed,
            validation_fraction=fraction,
            test_fraction=0.3,
            test_seed=7,
            unseen_groups=held,
        )
    except TaskError:
        assert shared  # one side may then be left without any group: said, never hidden
        return
    assert data.groups is not None
    parts = [
        {str(data.groups[row]) for row in rows(part)}
        for part in (split.train, split.validation, split.test)
    ]
    assert all(parts)
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert list(split.train) == list(split.validation)
    if not held and not shared:
        assert rows(split.train) | rows(split.validation) | rows(split.test) == set(
            range(len(data))
        )


def test_the_side_of_a_group_depends_on_the_seed_and_its_name_alone() -> None:
    names = [f"p{number}" for number in range(60)]
    few = task([0] * 60, groups=names)
    others = [f"q{number}" for number in range(30)]
    more = task([1] * 30 + [0] * 120, groups=[*others, *names[::-1], *names])

    def validating(data: Task, seed: int) -> set[str]:
        split = split_task(data, seed=seed)
        assert data.groups is not None
        return {str(data.groups[row]) for row in split.validation["d0"]}

    assert validating(few, 3) == validating(more, 3)
    assert validating(few, 3) != validating(few, 4)


def test_test_rows_do_not_follow_the_seed_of_the_validation_rows() -> None:
    for groups in (None, [f"g{row // 2}" for row in range(60)]):
        data = task([0] * 30 + [1] * 30, groups=groups)
        one, other = (split_task(data, seed=s, test_fraction=0.2, test_seed=5) for s in (0, 1))
        assert rows(one.test) == rows(other.test)
        assert rows(one.validation) != rows(other.validation)
        third = split_task(data, seed=0, test_fraction=0.2, test_seed=6)
        assert rows(third.test) != rows(one.test)


def test_unseen_groups_split_by_identity_as_well_as_by_style() -> None:
    """Every identity in every style: identities of the test are trained on in none."""
    identities = [f"face {number}" for number in range(40)]
    data = task([0] * 40 + [1] * 40 + [2] * 40, groups=identities * 3)
    split = split_task(data, held_out=["d2"], test_fraction=0.25, test_seed=1, unseen_groups=True)
    assert data.groups is not None
    tested = set(data.groups[split.test["d2"]])
    assert 4 <= len(tested) <= 18
    seen = rows(split.train) | rows(split.validation)
    assert not tested & {str(data.groups[row]) for row in seen}
    assert len(seen) == 2 * (40 - len(tested))
    plain = split_task(data, held_out=["d2"])
    assert rows(plain.test) == set(range(80, 120))


def test_groups_that_cannot_be_divided_are_named() -> None:
    with pytest.raises(TaskError, match=r"the groups of 'd0' \('p1'\) cannot be divided"):
        split_task(task([0] * 6, groups=["p1"] * 6))
    with pytest.raises(TaskError, match=r"unseen_groups needs the groups.*group: COLUMN"):
        split_task(task([0, 0, 1, 1]), held_out=["d0"], unseen_groups=True)
    with pytest.raises(TaskError, match="domain 'd0' has 1 example to train on; two are needed"):
        split_task(task([0] * 2), test_fraction=0.5)


def test_choosing_domains_takes_parts_and_groups_along() -> None:
    data = task([0, 0, 1, 1], splits=[0, 2, 0, 1], groups=list("abcd"))
    chosen = select_domains(data, ["d1", "d0"])
    assert chosen.splits is not None
    assert chosen.groups is not None
    assert chosen.splits.tolist() == [0, 1, 0, 2]
    assert chosen.groups.tolist() == list("cdab")
    assert data.fingerprint != task([0, 0, 1, 1], splits=[0, 2, 0, 1]).fingerprint
    assert task([0, 0, 1, 1]).fingerprint == "0"


COLUMNS = ("text", "label", "domain", "split", "who")
ROWS = [
    ("a", "x", "m", "train", 1),
    ("b", "y", "m", "train", 2),
    ("c", "x", "p", "dev", 3),
    ("d", "y", "p", "valid", 3),
    ("e", "x", "p", "test", 4),
    ("f", "y", "p", "TEST", 5),
]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_columns_of_a_table(tmp_path: Path, ending: str) -> None:
    path = table(tmp_path / f"t.{ending}", ROWS, COLUMNS)
    found = load(path, group="who")
    assert found.splits is not None
    assert found.groups is not None
    assert found.splits.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.groups.tolist() == ["1", "2", "3", "3", "4", "5"]
    assert load(path, split=None).splits is None
    assert load(path, split="split").fingerprint == load(path).fingerprint
    assert load(path, domains=["p", "m"]).counts() == {"p": 4, "m": 2}


def test_files_of_their_own(tmp_path: Path) -> None:
    """path, validation and test give what one file with a column gives."""
    whole = load(table(tmp_path / "whole.csv", ROWS, COLUMNS), name="t")
    plain = [row[:3] for row in ROWS]
    for name, own in (("t", plain[:2]), ("valid", plain[2:4]), ("test", plain[4:])):
        table(tmp_path / f"{name}.csv", own)
    apart = load(tmp_path / "t.csv", validation="valid.csv", test="test.csv")
    assert apart.fingerprint == whole.fingerprint
    assert apart.inputs == whole.inputs
    only = load(tmp_path / "t.csv", test="test.csv")
    assert only.splits is not None
    assert only.splits.tolist() == [0, 0, 2, 2]
    table(tmp_path / "none.csv", [])
    with pytest.raises(TaskError, match=r"none\.csv: no examples"):
        load(tmp_path / "t.csv", validation="none.csv")
    with pytest.raises(TaskError, match=r"gone\.csv: no such file"):
        load(tmp_path / "t.csv", validation="gone.csv")
    with pytest.raises(TaskError, match="fixed twice, by the column 'split' and by files"):
        load(tmp_path / "whole.csv", test="test.csv")


def test_a_table_without_a_column_of_domains_is_one_domain(tmp_path: Path) -> None:
    path = table(tmp_path / "shop.csv", [row[:2] for row in ROWS], COLUMNS[:2])
    assert load(path).domains == ("shop",)
    with pytest.raises(TaskError, match=r"line 2: no column 'domain'; the columns are"):
        load(path, domain="domain")
    with pytest.raises(TaskError, match=r"no column 'lable'.*; did you mean 'label'\?"):
        load(path, domain="lable")


@pytest.mark.parametrize(
    ("line", "options", "words"),
    [
        ("b,y,m,eval,2", {}, "t.csv, line 3: column 'split': 'eval' is not a split.*null"),
        ("b,y,m,,2", {}, "line 3: column 'split' is empty"),
        ("b,y,m,train,", {"group": "who"}, "line 3: column 'who' is empty"),
        ("b,y,m,train,2", {"group": "whom"}, r"no column 'whom'.*did you mean 'who'"),
        ("b,y,m,train,2", {"split": "part"}, "no column 'part'"),
        ("b,y,m,test,1", {"group": "who", "allow_missing_classes": True}, "group '1' has rows in"),
        ("b,y,m,test,2", {}, "t.csv: the train rows have no example of class 'y'"),
    ],
)
def test_bad_columns(tmp_path: Path, line: str, options: dict[str, Any], words: str) -> None:
    (tmp_path / "t.csv").write_text(f"text,label,domain,split,who\na,x,m,train,1\n{line}\n")
    with pytest.raises(TaskError, match=words) as caught:
        load(tmp_path / "t.csv", **options)
    assert "\n" not in str(caught.value)


def arrays(path: Path, **changes: Any) -> None:
    stored = {
        "inputs": np.arange(12.0).reshape(6, 2),
        "labels": np.arange(6) % 2,
        "splits": np.array(["train", "train", "dev", "dev", "test", "test"]),
        "groups": np.array([1, 2, 3, 3, 4, 5]),
        **changes,
    }
    np.savez(path, **{name: value for name, value in stored.items() if value is not None})


def test_arrays_with_splits_and_groups(tmp_path: Path) -> None:
    arrays(tmp_path / "t.npz")
    spec = {"kind": "arrays", "path": "t.npz"}
    whole = load_task(spec, root=tmp_path)
    assert whole.splits is not None
    assert whole.groups is not None
    assert whole.domains == ("t",)
    assert whole.splits.tolist() == [0, 0, 1, 1, 2, 2]
    assert whole.groups.tolist() == ["1", "2", "3", "3", "4", "5"]
    for name, part in (("train", slice(2)), ("valid", slice(2, 4)), ("test", slice(4, 6))):
        own = {
            "inputs": np.arange(12.0).reshape(6, 2)[part],
            "labels": (np.arange(6) % 2)[part],
            "groups": np.array([1, 2, 3, 3, 4, 5])[part],
        }
        np.savez(tmp_path / f"{name}.npz", **own)
    files = {"path": "train.npz", "validation": "valid.npz", "test": "test.npz"}
    apart = load_task({"kind": "arrays", **files}, root=tmp_path)
    np.testing.assert_array_equal(apart.inputs, whole.inputs)
    assert apart.splits is not None
    assert apart.splits.tolist() == whole.splits.tolist()
    with pytest.raises(TaskError, match=r"t\.npz: splits are fixed twice"):
        load_task({**spec, "test": "test.npz"}, root=tmp_path)
    arrays(tmp_path / "t.npz", splits=np.array(["train"] * 5 + ["eval"]))
    with pytest.raises(TaskError, match=r"'splits' row 5: 'eval' is not a split"):
        load_task(spec, root=tmp_path)
    arrays(tmp_path / "t.npz", groups=np.array(["a"]))
    with pytest.raises(TaskError, match=r"'groups' has shape \(1,\), expected \(6,\)"):
        load_task(spec, root=tmp_path)
    np.savez(
        tmp_path / "odd.npz",
        inputs=np.zeros((2, 3)),
        labels=np.array([0, 1]),
        groups=np.array([8, 9]),
    )
    with pytest.raises(TaskError, match="cannot be joined"):
        load_task({**files, "kind": "arrays", "test": "odd.npz", "validation": None}, root=tmp_path)


def test_hugging_face_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {"train": ROWS[:2], "validation": ROWS[2:4], "test": ROWS[4:]}
    names = ("text", "label", "domain")
    columns = {
        part: datasets.Dataset.from_dict({n: [row[i] for row in own] for i, n in enumerate(names)})
        for part, own in parts.items()
    }
    datasets.DatasetDict(columns).save_to_disk(str(tmp_path / "set"))
    spec = {"kind": "datasets", "path": "set", "validation": "validation", "test": "test"}
    found = load_task(spec, root=tmp_path)
    assert found.inputs == [row[0] for row in ROWS]
    assert found.splits is not None
    assert found.splits.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(TaskError, match="split 'dev': no such split"):
        load_task({**spec, "validation": "dev"}, root=tmp_path)
    flat = {n: [row[i] for row in ROWS] for i, n in enumerate(COLUMNS)}
    datasets.Dataset.from_dict(flat).save_to_disk(str(tmp_path / "flat"))
    one_set = {"kind": "datasets", "path": "flat"}
    one = load_task({**one_set, "group": "who"}, root=tmp_path)
    assert one.splits is not None
    assert one.groups is not None
    assert one.splits.tolist() == [0, 0, 1, 1, 2, 2]
    assert one.groups.tolist() == ["1", "2", "3", "3", "4", "5"]
    with pytest.raises(TaskError, match="fixed twice"):
        load_task({**one_set, "test": "train"}, root=tmp_path)
    with pytest.raises(TaskError, match="split 'test': the folder holds one data set without"):
        load_task({**one_set, "test": "test"}, root=tmp_path)
