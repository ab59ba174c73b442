"""The hostile maintainer: every way to keep, bring back or disguise what was removed is noticed.

A site withdraws, its data is deleted, and the folder goes to another machine. There an honest
certificate holds, without the withdrawn data, and each of these does not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stockpot.checkpoints import save_state
from stockpot.checkpoints.torch_io import load_state
from stockpot.errors import InputError, StockpotError
from stockpot.registry.registry import init_registry
from stockpot.tangent import Component, aggregate, compose, train, verify
from stockpot.tangent.forgetting.tombstones import TOMBSTONES
from tests.tangent.forgetting.audited import World, copy_to, restore, rewrite, save_as


@pytest.mark.parametrize("name", ["deltas", "sums"])
def test_an_honest_certificate_holds_elsewhere_and_without_the_data(
    name: str, request, tmp_path
) -> None:
    shutil.copytree(request.getfixturevalue(name).folder, tmp_path / "there")
    there = World(tmp_path / "there")
    done = verify(
        there.certificate,
        recipe=there.recipe,
        run=there.run,
        retrain=True,
        signers=there.folder / "signers",
        quiet=True,
    )
    assert done.holds, [one for one in done.checks if not one.holds]
    assert len(done.checks) == 8
    assert "officer@example.org" in done.notes[0]
    assert {"accuracy.before", "membership", "seconds"} <= set(done.words)
    # Looking changed nothing: it holds again.
    assert verify(there.certificate, recipe=there.recipe, run=there.run).holds


def add_file(path: str) -> Callable[[World], None]:
    def attack(world: World) -> None:
        target = world.run / path
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(world.removed.tensors), target)

    return attack


def mixed(world: World) -> Component:
    east = Component.load(world.east)
    parts = {n: (t + world.removed.tensors[n]) / 2 for n, t in east.tensors.items()}
    return replace(east, tensors=parts)


def nested(world: World) -> Component:
    inner = aggregate([Component.load(world.east), world.removed], "uniform", name="inner")
    return aggregate([inner, Component.load(world.east)], "uniform", name="outer")


def disguised_terms(world: World) -> Component:
    """The old sum, with the removed component's part called another's."""
    whole = Component.load(world.folder / "before-sum.safetensors")
    own = [t for t in whole.settings["composed"] if t["task"] != "south"]
    return replace(whole, settings={**whole.settings, "composed": own})


def hide_in_header(world: World) -> None:
    component = Component.load(world.east)
    hidden = world.removed.tensors["head.bias"].numpy().tobytes().hex()
    about = {"component": component.description, "digest": component.digest, "note": hidden}
    save_state(world.east, dict(component.tensors), about)


def hide_in_base(world: World) -> None:
    (base,) = (world.run / "work").glob("base-*.safetensors")
    save_state(base, {**load_state(base), "more": world.removed.tensors["head.bias"]})


def hide_in_head(world: World) -> None:
    head = world.run / "head.safetensors"
    state = load_state(head)
    save_state(head, {**state, "bias": world.removed.tensors["head.bias"]}, {"classes": '["0"]'})


def hide_in_job(world: World) -> None:
    (folder, *_) = sorted((world.run / "work" / "jobs").glob("*/component.safetensors"))
    shutil.copy(world.stolen / "components" / "south.safetensors", folder)


def hide_in_notes(world: World) -> None:
    (file, *_) = sorted((world.run / "work" / "jobs").glob("*/notes.json"))
    value = json.loads(file.read_text())
    file.write_text(json.dumps({**value, "more": world.removed.tensors["head.bias"].tolist()}))


def link_out(world: World) -> None:
    (world.run / "archive").symlink_to(world.stolen, target_is_directory=True)


def link_file(world: World) -> None:
    kept = world.east.read_bytes()
    (world.folder / "elsewhere.safetensors").write_bytes(kept)
    world.east.unlink()
    world.east.symlink_to(world.folder / "elsewhere.safetensors")


def drop_tombstones(world: World) -> None:
    (world.run / TOMBSTONES).unlink()


def empty_tombstones(world: World) -> None:
    (world.run / TOMBSTONES).write_text(json.dumps({"schema": 1, "tombstones": []}))


def swap_kept(world: World) -> None:
    shutil.copy(world.run / "components" / "north.safetensors", world.east)


def keep_rows(world: World) -> None:
    shutil.copy(world.folder / "all.npz", world.run / "all.npz")


def keep_images(world: World) -> None:
    folder = world.run / "work" / "cache" / "images-0"
    folder.mkdir(parents=True)
    with np.load(world.folder / "all.npz") as stored:
        np.save(folder / "images.npy", stored["inputs"])


def restore_sum(world: World) -> None:
    shutil.copy(world.folder / "before-sum.safetensors", world.folder / "sum.safetensors")
    inventory = world.run / "inventory.json"
    text = inventory.read_text()
    here = str(world.folder / "sum.safetensors")
    value = json.loads(text)
    for one in value["derived"]:
        if one["kind"] == "composition":
            one["path"] = here
    inventory.write_text(json.dumps(value))


FOLDER_ATTACKS: dict[str, Callable[[World], None]] = {
    "the component in its place": copy_to("components/south.safetensors"),
    "under another name": copy_to("components/west.safetensors"),
    "under a kept one's name": copy_to("components/east.safetensors"),
    "in the root": copy_to("model.safetensors"),
    "in a hidden folder": copy_to(".cache/x.safetensors"),
    "in a folder of a job": copy_to("work/jobs/0123456789abcdef0123/component.safetensors"),
    "with another ending": copy_to("notes.txt"),
    "renamed inside": save_as(
        "components/west.safetensors", lambda world: replace(world.removed, task="west")
    ),
    "renamed, of other data": save_as(
        "components/west.safetensors",
        lambda world: replace(world.removed, task="west", data_fingerprint="0" * 64, seed=9),
    ),
    "scaled": save_as(
        "components/west.safetensors",
        lambda world: replace(
            world.removed,
            task="west",
            data_fingerprint="0" * 64,
            tensors={n: 2 * t for n, t in world.removed.tensors.items()},
        ),
    ),
    "in another type": save_as(
        "components/west.safetensors",
        lambda world: replace(
            world.removed,
            task="west",
            tensors={n: t.double() for n, t in world.removed.tensors.items()},
        ),
    ),
    "mixed into a kept one": save_as("components/east.safetensors", mixed),
    "in a sum": save_as(
        "sum.safetensors",
        lambda world: Component.load(world.folder / "before-sum.safetensors"),
    ),
    "in a sum of sums": save_as("sum.safetensors", nested),
    "in a sum that does not name it": save_as("sum.safetensors", disguised_terms),
    "in a sum outside": restore_sum,
    "as a PyTorch file": add_file("weights.pt"),
    "as activations": add_file("work/jobs/0123456789abcdef0123/activations.bin"),
    "in the header of a kept one": hide_in_header,
    "in the base": hide_in_base,
    "in the head": hide_in_head,
    "in a kept job": hide_in_job,
    "in the notes of a kept job": hide_in_notes,
    "behind a link to a folder": link_out,
    "behind a link to a file": link_file,
    "a kept one swapped": swap_kept,
    "its rows": keep_rows,
    "its images": keep_images,
    "the old list of components": restore("components.json"),
    "the old list of models": restore("models.json"),
    "the old inventory": restore("inventory.json"),
    "the old record": restore("stockpot.json"),
    "the old jobs": restore("work/jobs"),
    "the log that names it": restore("work/log.jsonl"),
    "no tombstones": drop_tombstones,
    "empty tombstones": empty_tombstones,
    "a kept one missing": lambda world: world.east.unlink(),
}


@pytest.mark.parametrize("name", FOLDER_ATTACKS)
def test_what_is_kept_in_the_folder_is_noticed(name: str, world) -> None:
    FOLDER_ATTACKS[name](world)
    try:
        done = verify(world.certificate, run=world.run)
    except StockpotError:
        return  # one line and exit code 2
    assert not done.holds
    assert any(one.why for one in done.checks)


@pytest.mark.parametrize("name", FOLDER_ATTACKS)
def test_also_when_the_unsigned_certificate_is_made_to_fit(name: str, world) -> None:
    """The maintainer lists the changed folder's files in the certificate and hashes it again."""
    from stockpot.tangent.forgetting.contents import manifest, own_files

    hidden = {"the old record"}
    FOLDER_ATTACKS[name](world)
    value = json.loads(world.certificate.read_text())
    world.certificate.with_name("forgotten-south.json.sig").unlink()
    value["files"] = manifest(world.run, own_files(world.run, world.certificate))
    rewrite(world.certificate, value)
    try:
        done = verify(world.certificate, run=world.run)
    except StockpotError:
        return
    assert not done.holds or name in hidden
    signed = verify(world.certificate, run=world.run, signers=world.folder / "signers")
    assert not signed.holds


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values; of a list's equal entries the first."""
    if isinstance(value, dict):
        for key, part in list(value.items())[: 3 if path == ("files",) else None]:
            yield from leaves(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value[:2]):
            yield from leaves(part, (*path, index))
    else:
        yield path


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str) and len(value) == 64:
        return value[:-1] + ("0" if value[-1] != "0" else "1")
    return "examples" if value == "uniform" else f"{value}x"


def test_every_field_of_a_certificate_fails_or_is_said_to_be_somebodys_word(world) -> None:
    original = world.certificate.read_bytes()
    value = json.loads(original)
    paths = [path for path in leaves(value) if path != ("digest",)]
    assert len(paths) > 60
    words: set[str] = set()
    for path in paths:
        forged = json.loads(original)
        part = forged
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = changed(part[path[-1]])
        rewrite(world.certificate, forged)
        dotted = ".".join(map(str, path))
        try:
            done = verify(world.certificate, run=world.run, recipe=None)
            signed = verify(world.certificate, signers=world.folder / "signers")
        except InputError:
            continue
        assert not signed.holds, f"{dotted} of a signed certificate was changed"
        # The signature beside it no longer fits: take it away, as a forger would.
        signature = world.certificate.with_name("forgotten-south.json.sig")
        kept = signature.read_bytes()
        signature.unlink()
        done = verify(world.certificate, run=world.run)
        signature.write_bytes(kept)
        said = [word for word in done.words if dotted == word or dotted.startswith(f"{word}.")]
        assert not done.holds or said, f"{dotted} was changed and nobody noticed"
        words |= set(said) if done.holds else set()
    # What nobody can measure again is said to be the issuer's word, and no more than that.
    assert words <= {
        "accuracy",
        "against_retrained",
        "before",
        "erased",
        "issued",
        "membership",
        "outside",
        "residue_of_subtracting",
        "seconds",
        "shared",
        "title",
        "versions",
    }


def test_the_accuracy_that_is_left_is_measured_again(world) -> None:
    value = json.loads(world.certificate.read_text())
    value["accuracy"]["after"]["test"] = 1.0
    world.certificate.with_name("forgotten-south.json.sig").unlink()
    rewrite(world.certificate, value)
    done = verify(world.certificate, recipe=world.recipe, run=world.run)
    assert not done.holds
    assert "accuracy" in str([one.why for one in done.checks])


def bring_back(world: World, rename: str = "south") -> None:
    """The rows of the removed site among the data again, under some name."""
    with np.load(world.folder / "all.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    names = arrays["domains"].astype("U16")
    names[names == "south"] = rename
    np.savez(world.folder / "data.npz", **{**arrays, "domains": names})


@pytest.mark.parametrize("rename", ["south", "west", "east"])
def test_forgotten_rows_are_not_trained_on_again(world, rename) -> None:
    bring_back(world, rename)
    with pytest.raises(InputError, match="were forgotten on"):
        train(world.recipe, world.run, backend="serial", quiet=True)
    # The others, and what was certified, stay as they are.
    others = [name for name in ("east", "north") if name != rename]
    train(world.recipe, world.run, only=others, backend="serial", quiet=True)
    again = train(world.recipe, world.run, readmit=True, backend="serial", quiet=True)
    assert rename in {one.name for one in again.results.components}
    assert not verify(world.certificate, run=world.run).holds


def test_a_forgotten_component_is_not_composed_or_contributed_again(world, tmp_path) -> None:
    from stockpot.community.contribution import contribute

    stolen = copy_to("components/west.safetensors")
    stolen(world)
    for parts in ([world.run], [world.run / "components"]):
        with pytest.raises(InputError, match="was forgotten on"):
            compose(parts, tmp_path / "all.safetensors")
    assert not (tmp_path / "all.safetensors").exists()
    with pytest.raises(InputError, match="was forgotten on"):
        compose([world.stolen / "components"], world.run / "all.safetensors")
    registry = init_registry(tmp_path / "registry")
    with pytest.raises(InputError, match="was forgotten on"):
        contribute(registry, world.run / "components" / "west.safetensors")
    assert compose([world.run], tmp_path / "all.safetensors", readmit=True).examples


def test_a_sum_outside_the_folder_was_summed_again_without_it(deltas) -> None:
    value = json.loads(deltas.certificate.read_text())
    rebuilt = [one for one in value["erased"] if one["action"] == "rebuilt"]
    assert [Path(one["path"]).name for one in rebuilt] == ["sum.safetensors"]
    terms = Component.load(deltas.folder / "sum.safetensors").settings["composed"]
    assert {term["task"] for term in terms} == {"east", "north"}


def test_blocks_of_statistics_have_to_add_up(sums, tmp_path) -> None:
    shutil.copytree(sums.folder, tmp_path / "there")
    there = World(tmp_path / "there")
    for file in sorted((there.run / "work" / "jobs").glob("*/component.safetensors")):
        component = Component.load(file)
        if component.task == "east" and component.digest != Component.load(there.east).digest:
            parts = {name: tensor + 1 for name, tensor in component.tensors.items()}
            replace(component, tensors=parts).save(file)
            break
    done = verify(there.certificate, run=there.run)
    assert "do not add up" in str([one.why for one in done.checks])
