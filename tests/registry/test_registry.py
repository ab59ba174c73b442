"""Add, look up, check out, compare, remove: what goes in comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint, write_checkpoint
from stockpot.errors import CheckpointError, InputError, NonFiniteError, OutputError
from stockpot.merging import merge
from stockpot.provenance import Parent, Record, write_record
from stockpot.registry import Registry, add, checkout, init_registry
from stockpot.registry.difference import diff
from tests.registry.models import BASE, files, moved, write_model


@pytest.fixture
def registry(tmp_path: Path):
    with init_registry(tmp_path / "registry") as found:
        yield found


def test_a_folder_comes_out_byte_for_byte(registry: Registry, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", BASE, README__md="# base")
    tuned = write_model(tmp_path / "tuned", moved(BASE, 1))
    (tuned / "1_Pooling").mkdir()
    (tuned / "1_Pooling" / "config.json").write_text("{}")
    add(registry, base)
    done = add(registry, tuned, parents=["base"])
    assert done.codecs.get("delta", 0) > 5
    checkout(registry, "base", tmp_path / "a")
    checkout(registry, "tuned", tmp_path / "b", threads=1)
    assert files(tmp_path / "a") == files(base)
    assert files(tmp_path / "b") == files(tuned)
    checkout(registry, "tuned", tmp_path / "lone.safetensors")
    assert (tmp_path / "lone.safetensors").read_bytes() == (
        tuned / "model.safetensors"
    ).read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        checkout(registry, "tuned", tmp_path / "b")


def test_shards_pickles_and_every_type_come_out(registry: Registry, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(0)
    state = {
        "f16": draw.normal(size=(40, 30)).astype("f2"),
        "f64": draw.normal(size=(9, 9)),
        "bf16": draw.integers(0, 1 << 16, (33, 17)).astype("u2"),
        "int": draw.integers(-5, 5, 1000),
        "flag": draw.integers(0, 2, 300).astype(bool),
        "scalar": np.array(3.0, "f4"),
        "none": np.zeros((0, 4), "f4"),
    }
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    parts = {"a.safetensors": list(state)[:3], "b.safetensors": list(state)[3:]}
    for file, names in parts.items():
        write_checkpoint(sharded / file, {n: state[n] for n in names}, dtypes={"bf16": "BF16"})
    index = {"metadata": {}, "weight_map": {n: file for file, ns in parts.items() for n in ns}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    done = add(registry, sharded, allow_nonfinite=True)
    checkout(registry, "sharded", tmp_path / "out")
    assert files(tmp_path / "out") == files(sharded)
    with open_checkpoint(sharded) as opened:
        assert done.manifest.digest == opened.digest()
        kept = registry.checkpoint("sharded")
        assert kept.digest() == opened.digest()
        assert all(np.array_equal(kept.raw(n), opened.raw(n)) for n in opened.names)

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    tensors = {"w": torch.arange(200.0).reshape(20, 10), "b": torch.ones(3, dtype=torch.bfloat16)}
    torch.save(tensors, pickled / "pytorch_model.bin")
    add(registry, pickled)
    checkout(registry, "pickled", tmp_path / "safe")
    assert [path.name for path in (tmp_path / "safe").iterdir()] == ["model.safetensors"]
    with open_checkpoint(pickled) as before, open_checkpoint(tmp_path / "safe") as after:
        assert before.digest() == after.digest()


def test_adding_twice_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", BASE)
    first = add(registry, model)
    before = files(registry.store.root)  # type: ignore[attr-defined]
    again = add(registry, model)
    assert (first.new, again.new, again.stored) == (True, False, 0)
    assert first.id == again.id
    after = files(registry.store.root)  # type: ignore[attr-defined]
    assert {k: v for k, v in before.items() if "registry.db" not in k} == {
        k: v for k, v in after.items() if "registry.db" not in k
    }


def test_frozen_tensors_are_kept_once(registry: Registry, tmp_path: Path) -> None:
    add(registry, write_model(tmp_path / "base", BASE))
    head = {**BASE, "head.weight": BASE["head.weight"] + 1}
    done = add(registry, write_model(tmp_path / "head", head), parents=["base"])
    assert done.reused >= len(BASE) - 1
    assert done.stored < 8000


def test_chains_of_differences_stay_short(registry: Registry, tmp_path: Path) -> None:
    state, parent = BASE, None
    for step in range(6):
        model = write_model(tmp_path / f"step{step}", state)
        add(registry, model, parents=None if parent is None else [parent])
        parent, state = f"step{step}", moved(state, step)
    for row in registry.index.rows():
        for stored in registry.manifest(row.id).tensors().values():
            depth, name = 0, stored.blob
            while (base := registry.blob_header(name).base) is not None:
                depth, name = depth + 1, base
            assert depth <= 2
    checkout(registry, "step5", tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "step5")


def test_records_of_merges_become_edges(registry: Registry, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", BASE)
    ones = [write_model(tmp_path / f"m{i}", moved(BASE, i)) for i in range(2)]
    merge(
        [str(one) for one in ones],
        method="task_arithmetic",
        base=str(base),
        output=tmp_path / "merged",
    )
    # The child first: it finds its parents when they come.
    done = add(registry, tmp_path / "merged")
    assert done.manifest.kind == "merge"
    assert registry.ancestors("merged") == []
    for model in (base, *ones):
        add(registry, model, infer=False)
    assert {row.name for row in registry.ancestors("merged")} == {"base", "m0", "m1"}
    assert {row.name for row in registry.descendants("base")} == {"merged"}
    recipe = registry.manifest("merged").recipe
    assert recipe["method"] == "task_arithmetic"


def test_a_record_of_other_weights_is_refused(registry: Registry, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", BASE)
    write_record(model, Record("finetune", "m", digest="0" * 64))
    with pytest.raises(InputError, match="other weights"):
        add(registry, model)


def test_records_carry_recipe_data_and_metrics(registry: Registry, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", BASE)
    parent = Parent("unknown", "f" * 64, "base")
    record = Record("finetune", "mine", (parent,), {"lr": 0.1}, "data", {"accuracy": 0.5})
    write_record(model, record)
    manifest = add(registry, model).manifest
    assert (manifest.name, manifest.kind, manifest.data) == ("mine", "finetune", "data")
    assert manifest.metrics == {"accuracy": 0.5}
    assert manifest.parents[0].model is None
    assert registry.index.metrics(registry.row("mine").num) == {"accuracy": 0.5}


def test_models_are_found_by_name_id_digest_and_line(registry: Registry, tmp_path: Path) -> None:
    first = add(registry, write_model(tmp_path / "one", BASE))
    second = add(registry, write_model(tmp_path / "two", moved(BASE, 1)), parents=["one"])
    registry.advance("main", "one", {"what": "start"})
    registry.advance("main", "two", {"what": "next"})
    assert registry.find(first.id[:8]) == registry.find("one") == first.id
    assert registry.find(second.manifest.digest[:9]) == registry.find("main") == second.id
    assert registry.find("main~1") == first.id
    with pytest.raises(InputError, match="has 2 versions"):
        registry.find("main~2")
    with pytest.raises(InputError, match="no model 'three'"):
        registry.find("three")
    with pytest.raises(InputError, match="no name of a line"):
        registry.advance("../x", "one", {})
    with pytest.raises(OutputError, match="somebody else"):
        registry.advance("main", "one", {}, after=1)
    with pytest.raises(InputError, match="is a version of the line"):
        registry.remove("one")


def test_nonfinite_and_foreign_things_are_refused(registry: Registry, tmp_path: Path) -> None:
    bad = {**BASE, "head.bias": np.full(10, np.nan, "f4")}
    with pytest.raises(NonFiniteError, match=r"'head.bias' holds NaN or infinity at \[0\]"):
        add(registry, write_model(tmp_path / "bad", bad))
    assert registry.index.count() == 0
    add(registry, tmp_path / "bad", allow_nonfinite=True)
    checkout(registry, "bad", tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "bad")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no weights"):
        add(registry, tmp_path / "empty")
    with pytest.raises(InputError, match="no model 'nobody'"):
        add(registry, tmp_path / "bad", parents=["nobody"], allow_nonfinite=True)
    with pytest.raises(InputError, match="holds no registry"):
        Registry(tmp_path / "bad")
    with pytest.raises(OutputError, match="not empty"):
        init_registry(tmp_path / "bad")


def test_links_out_of_a_folder_are_not_followed(registry: Registry, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", BASE)
    (tmp_path / "secret.json").write_text("{}")
    (model / "extra.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(CheckpointError, match="link out of its folder"):
        add(registry, model)


def test_the_index_is_made_again_from_the_manifests(registry: Registry, tmp_path: Path) -> None:
    add(registry, write_model(tmp_path / "base", BASE))
    add(registry, write_model(tmp_path / "child", moved(BASE, 1)), parents=["base"])
    content = registry.index.content()
    place = registry.store.root  # type: ignore[attr-defined]
    registry.close()
    for damage in (b"", b"not a database" * 400):
        for path in place.glob("registry.db*"):
            path.unlink()
        if damage:
            (place / "registry.db").write_bytes(damage)
        with Registry(place) as again:
            assert again.index.content() == content
            assert again.reindex() == 2
            assert again.index.content() == content


def test_diff_tells_what_moved_and_how_far(registry: Registry, tmp_path: Path) -> None:
    changed = {**BASE, "blocks.0.fc.weight": BASE["blocks.0.fc.weight"] * np.float32(1.5)}
    del changed["head.bias"]
    add(registry, write_model(tmp_path / "a", BASE))
    add(registry, write_model(tmp_path / "b", changed, config__json="{}"), parents=["a"])
    found = diff(registry, "a", "b")
    assert [each.name for each in found.changed] == ["blocks.0.fc.weight"]
    assert found.changed[0].change == pytest.approx(0.5, rel=1e-5)
    assert (found.removed, found.added, found.files) == (("head.bias",), (), ("config.json",))
    assert found.equal == len(BASE) - 2
    assert diff(registry, "a", "a").verdict is None


def test_removed_models_are_gone_and_their_children_stay(
    registry: Registry, tmp_path: Path
) -> None:
    add(registry, write_model(tmp_path / "base", BASE))
    add(registry, write_model(tmp_path / "child", moved(BASE, 1)), parents=["base"])
    registry.remove("base")
    assert [row.name for row in registry.index.rows()] == ["child"]
    assert registry.ancestors("child") == []
    checkout(registry, "child", tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "child")


def test_the_registry_needs_no_torch(tmp_path: Path) -> None:
    """Add, look for parents, check out, compare, verify and collect, with torch out of reach."""
    import subprocess
    import sys

    base, tuned = write_model(tmp_path / "b", BASE), write_model(tmp_path / "t", moved(BASE, 1))
    program = f"""
import sys
sys.modules["torch"] = None
from stockpot.registry import Registry, add, checkout, init_registry
from stockpot.registry.checking import verify
from stockpot.registry.collecting import gc
from stockpot.registry.difference import diff
from stockpot.registry.tree import family, text
with init_registry({str(tmp_path / "r")!r}) as registry:
    add(registry, {str(base)!r})
    assert add(registry, {str(tuned)!r}).guess.links[0].name == "b"
    checkout(registry, "t", {str(tmp_path / "out")!r})
    assert diff(registry, "b", "t").verdict == "same ancestor"
    assert not verify(registry).problems
    gc(registry, grace=0)
    assert "t  " in text(*family(registry))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert files(tmp_path / "out") == files(tuned)
