"""More of the hostile maintainer: encoded otherwise, between the lines, and certificates of others.

A folder that was signed for shows each of these. So does one whose certificate is unsigned and was
made to fit, by the form of its files, or where only free text was changed, by training anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stockpot.checkpoints import MemoryCheckpoint, open_checkpoint, save_state
from stockpot.checkpoints.torch_io import load_state
from stockpot.errors import InputError, StockpotError
from stockpot.files import write_json
from stockpot.provenance import HEADER_KEY
from stockpot.report.certificate import render_certificate
from stockpot.tangent import Certificate, Component, aggregate, forget, train, verify
from stockpot.tangent.forgetting.certificate import describe
from stockpot.tangent.forgetting.contents import manifest, own_files
from tests.tangent.forgetting.audited import World, rewrite, save_as, south_again

Attack = Callable[[World], None]


def encoded(world: World) -> str:
    """The removed component as text."""
    return world.removed.tensors["head.bias"].numpy().tobytes().hex()


def disguised(change: Callable[[Tensor], Tensor]) -> Attack:
    """The removed component with changed tensors, under another name and of other data."""
    return save_as(
        "components/west.safetensors",
        lambda world: replace(
            world.removed,
            task="west",
            data_fingerprint="0" * 64,
            tensors={name: change(tensor) for name, tensor in world.removed.tensors.items()},
        ),
    )


def renamed(world: World, name: str, change: Callable[[Tensor], Tensor]) -> Component:
    tensors = {n: change(tensor) for n, tensor in world.removed.tensors.items()}
    return replace(world.removed, task=name, data_fingerprint=name * 10, tensors=tensors)


def noisy(tensor: Tensor) -> Tensor:
    return tensor + 1e-3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))


def permuted(tensor: Tensor) -> Tensor:
    return tensor.flip(0).contiguous()


def split_in_two(world: World) -> None:
    renamed(world, "one", lambda t: 3 * t + 1).save(world.run / "components/one.safetensors")
    renamed(world, "two", lambda t: -2 * t - 1).save(world.run / "components/two.safetensors")


def negated_twice(world: World) -> None:
    minus = renamed(world, "minus", torch.neg)
    aggregate([minus], [-1.0], name="plus").save(world.run / "plus.safetensors")


def summed_with_noise(world: World) -> None:
    other = renamed(world, "noise", noisy)
    both = aggregate([Component.load(world.east), other], "uniform", name="both")
    east = [term for term in both.settings["composed"] if term["task"] == "east"]
    replace(both, settings={**both.settings, "composed": east}).save(world.run / "both.safetensors")


def in_a_bias(world: World) -> Component:
    east = Component.load(world.east)
    name = "head.bias"
    return replace(east, tensors={**east.tensors, name: world.removed.tensors[name]})


def in_the_low_bits(world: World) -> Component:
    """In the last bits of each number of a kept component, where no accuracy shows it."""
    east, bits = Component.load(world.east), {}
    for name, tensor in east.tensors.items():
        own, other = (t.numpy().view(np.uint32) for t in (tensor, world.removed.tensors[name]))
        bits[name] = torch.from_numpy(((own & ~np.uint32(255)) | (other >> 24)).view(np.float32))
    return replace(east, tensors=bits)


def in_the_settings(world: World) -> Component:
    east = Component.load(world.east)
    return replace(east, settings={**east.settings, "note": encoded(world)})


def write(path: str, content: Callable[[World], str] = encoded) -> Attack:
    def attack(world: World) -> None:
        target = world.run / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content(world))

    return attack


def predictions(world: World) -> None:
    np.savez(world.run / "predictions.npz", outputs=world.removed.tensors["head.weight"].numpy())


def hard_link(world: World) -> None:
    os.link(
        world.stolen / "components" / "south.safetensors",
        world.run / "components" / "west.safetensors",
    )


def tail(world: World) -> None:
    with world.east.open("ab") as file:
        file.write(world.removed.tensors["head.bias"].numpy().tobytes())


def padded_header(world: World) -> None:
    """Bits as spaces and tabs behind the header's JSON."""
    raw = world.east.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    bits = encoded(world).encode()
    spaces = b"".join(b" " if byte & 1 else b"\t" for byte in bits) + b" " * (-len(bits) % 8)
    size = (length + len(spaces)).to_bytes(8, "little")
    world.east.write_bytes(size + raw[8 : 8 + length] + spaces + raw[8 + length :])


def reordered(world: World) -> None:
    """Bits as the order of the tensors."""
    with open_checkpoint(world.east) as checkpoint:
        about = dict(checkpoint.metadata)
    state = load_state(world.east)
    save_state(world.east, dict(reversed(state.items())), about)


def base_header(world: World) -> None:
    (base,) = (world.run / "work").glob("base-*.safetensors")
    save_state(base, load_state(base), {"note": encoded(world)})


def head_classes(world: World) -> None:
    head = world.run / "head.safetensors"
    save_state(head, load_state(head), {"classes": json.dumps(["0", "1", "2", encoded(world)])})


def other_page(world: World) -> None:
    (world.run / "forgotten-spring.html").write_text(f"<!-- {encoded(world)} -->")


def other_certificate(world: World) -> None:
    write_json(world.run / "forgotten-spring.json", {"kind": "note", "text": encoded(world)})


def certificate_and_more(world: World) -> None:
    value = json.loads(world.certificate.read_text())
    write_json(world.run / "forgotten-spring.json", {**value, "note": encoded(world)})


def other_signature(world: World) -> None:
    own = world.certificate.with_name("forgotten-south.json.sig").read_text()
    shutil.copy(world.certificate, world.run / "forgotten-spring.json")
    end = "-----END SSH SIGNATURE-----\n"
    (world.run / "forgotten-spring.json.sig").write_text(own + encoded(world) + "\n" + end)


def empty_folders(world: World) -> None:
    text = encoded(world)
    for start in range(0, len(text), 100):
        (world.run / "work" / text[start : start + 100]).mkdir()


def attribute(world: World) -> None:
    try:
        os.setxattr(world.east, "user.note", encoded(world).encode())
    except (OSError, AttributeError):
        pytest.skip("no extended attributes here")


def pipe(world: World) -> None:
    os.mkfifo(world.run / "work" / encoded(world)[:100])


def spaces(world: World) -> None:
    path = world.run / "components.json"
    bits = "".join(" " if ord(sign) & 1 else "\t" for sign in encoded(world))
    path.write_text(path.read_text() + bits)


def edit_json(path: str, change: Callable[[World, dict[str, Any]], None]) -> Attack:
    def attack(world: World) -> None:
        (file, *_) = sorted(world.run.glob(path))
        value = json.loads(file.read_text())
        change(world, value)
        write_json(file, value)

    return attack


def name_of_a_sum(world: World) -> None:
    kept = [Component.load(file) for file in sorted((world.run / "components").iterdir())]
    aggregate(kept, "uniform", name=encoded(world)).save(world.run / "sum.safetensors")


def record_of_a_kept_one(world: World) -> None:
    with open_checkpoint(world.east) as checkpoint:
        about = dict(checkpoint.metadata)
    record = json.loads(about[HEADER_KEY])
    record["recipe"]["note"] = encoded(world)
    save_state(
        world.east, load_state(world.east), about | {HEADER_KEY: json.dumps(record, sort_keys=True)}
    )


def recipe_of_the_models(world: World, value: dict[str, Any]) -> None:
    record = value["models"][-1]["record"]
    record["recipe"] = dict(sorted({**record["recipe"], "note": encoded(world)}.items()))


def another_model(world: World, value: dict[str, Any]) -> None:
    value["models"].insert(0, {**value["models"][0], "name": encoded(world)})


def no_inventory(world: World) -> None:
    (world.run / "inventory.json").unlink()


def linked_components(world: World) -> None:
    (world.run / "components").rename(world.folder / "elsewhere")
    (world.run / "components").symlink_to(world.folder / "elsewhere", target_is_directory=True)


def cancelling_blocks(world: World) -> None:
    """Statistics: one block plus what was removed, another one minus it."""
    shift = world.removed.tensors
    changed = 0
    for file in sorted((world.run / "work" / "jobs").glob("*/component.safetensors")):
        block = Component.load(file)
        if "sums east" in (file.parent / "done.json").read_text() and changed < 2:
            sign = (1, -1)[changed]
            moved = {name: tensor + sign * shift[name] for name, tensor in block.tensors.items()}
            replace(block, tensors=moved).save(file)
            changed += 1
    assert changed == 2


FOLDER: dict[str, Attack] = {
    "in half precision": disguised(Tensor.half),
    "in bfloat16": disguised(Tensor.bfloat16),
    "with noise": disguised(noisy),
    "with its rows permuted": disguised(permuted),
    "split over two": split_in_two,
    "negated twice": negated_twice,
    "summed with noise": summed_with_noise,
    "in a bias": save_as("components/east.safetensors", in_a_bias),
    "in the low bits": save_as("components/east.safetensors", in_the_low_bits),
    "in the settings": save_as("components/east.safetensors", in_the_settings),
    "in a tokenizer's file": write("tokenizer.json"),
    "as a job's features": write("work/jobs/0123456789abcdef0123/features.json"),
    "as predictions": predictions,
    "in a dot file": write("components/.DS_Store"),
    "by a hard link": hard_link,
    "behind the tensors": tail,
    "in the padding of a header": padded_header,
    "in the order of tensors": reordered,
    "in the header of the base": base_header,
    "in the head's classes": head_classes,
    "as a page": other_page,
    "as a certificate": other_certificate,
    "in a copy of the certificate": certificate_and_more,
    "behind a signature": other_signature,
    "in names of empty folders": empty_folders,
    "in an extended attribute": attribute,
    "in the name of a pipe": pipe,
    "in spaces": spaces,
    "as a key that nobody reads": edit_json(
        "inventory.json", lambda world, value: value.update(note=encoded(world))
    ),
    "as a key of a tombstone": edit_json(
        "tombstones.json", lambda world, value: value["tombstones"][0].update(note=encoded(world))
    ),
    "as a key of the models": edit_json(
        "models.json", lambda world, value: value.update(note=encoded(world))
    ),
    "in the inventory": edit_json(
        "inventory.json",
        lambda world, value: value["derived"].append(
            {"path": encoded(world), "kind": "features", "shards": ["east"]}
        ),
    ),
    "without lines of the inventory": edit_json(
        "inventory.json", lambda world, value: value["derived"].clear()
    ),
    "without an inventory": no_inventory,
    "as a tombstone's rows": edit_json(
        "tombstones.json",
        lambda world, value: value["tombstones"][0]["rows"].append(encoded(world)),
    ),
    "in the label of a job": edit_json(
        "work/jobs/*/done.json", lambda world, value: value.update(label=encoded(world))
    ),
    "in the seconds of a job": edit_json(
        "work/jobs/*/done.json", lambda world, value: value.update(seconds=int("9" * 200))
    ),
    "in the name of a sum": name_of_a_sum,
    "behind a link to the components": linked_components,
    "in the notes of a job": edit_json(
        "work/jobs/*/notes.json", lambda world, value: value["notes"].append(encoded(world))
    ),
    "in a record": record_of_a_kept_one,
    "in the recipe of a model": edit_json("models.json", recipe_of_the_models),
    "as a model more": edit_json("models.json", another_model),
    "in the notes of the run": edit_json(
        "components.json", lambda world, value: value.update(notes=[encoded(world)])
    ),
    "in the record of the run": edit_json(
        "stockpot.json", lambda world, value: value["recipe"].update(title=encoded(world))
    ),
}
FREE_TEXT = {
    "in the notes of a job",
    "in a record",
    "in the recipe of a model",
    "as a model more",
    "in the notes of the run",
    "in the record of the run",
}
"""What only a signature, or training anew, tells from what honest folders hold."""


def check(world: World, **options: Any) -> bool:
    """Whether the certificate holds; a refusal (one line, exit code 2) is a no."""
    try:
        return verify(world.certificate, run=world.run, quiet=True, **options).holds
    except StockpotError:
        return False


def refit(world: World) -> None:
    """List the folder's files in the certificate, unsigned, and hash it again."""
    value = json.loads(world.certificate.read_text())
    world.certificate.with_name("forgotten-south.json.sig").unlink()
    value["files"] = manifest(world.run, own_files(world.run, world.certificate))
    rewrite(world.certificate, value)


@pytest.mark.filterwarnings("ignore:.*hold what is passed over")
@pytest.mark.parametrize("name", FOLDER)
def test_nothing_hides_in_a_folder(name: str, world) -> None:
    FOLDER[name](world)
    assert not check(world, signers=world.folder / "signers")
    refit(world)
    assert check(world) == (name in FREE_TEXT)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FREE_TEXT))
def test_free_text_is_told_by_training_anew(name: str, world) -> None:
    FOLDER[name](world)
    refit(world)
    assert not check(world, recipe=world.recipe, retrain=True)


@pytest.mark.slow
@pytest.mark.parametrize("change", [in_a_bias, in_the_low_bits, in_the_settings])
def test_a_kept_one_that_the_whole_certificate_was_made_to_fit(change, world) -> None:
    """Another kept component, its digest, their sum, the files: all of it written anew."""
    hidden, old = change(world), Component.load(world.east)
    for file in [world.east, *world.run.glob("work/jobs/*/component.safetensors")]:
        if Component.load(file).digest == old.digest:
            hidden.save(file)
    kept = [Component.load(file) for file in sorted((world.run / "components").iterdir())]
    edit_json(
        "components.json", lambda _, value: value["components"][0].update(digest=hidden.digest)
    )(world)
    value = json.loads(world.certificate.read_text())
    ordered = sorted(kept, key=lambda one: one.digest)
    value["kept"] = [describe(one).to_json() for one in ordered]
    value["after"] = MemoryCheckpoint(aggregate(kept, value["weights"]).tensors).digest()
    value["against_retrained"]["digests"] = sorted(one.digest for one in kept)
    rewrite(world.certificate, value)
    refit(world)
    done = verify(world.certificate, run=world.run, quiet=True)
    assert "unsigned" in done.notes[-1]  # who asks no more is told whose word it is
    assert not check(world, recipe=world.recipe, retrain=True)


@pytest.mark.slow
def test_blocks_that_cancel_are_told_by_training_anew(sums, tmp_path) -> None:
    shutil.copytree(sums.folder, tmp_path / "there")
    there = World(tmp_path / "there")
    cancelling_blocks(there)
    assert not check(there, signers=there.folder / "signers")
    refit(there)
    assert not check(there, recipe=there.recipe, retrain=True)


def sign(world: World, namespace: str = "forgetting@stockpot", key: str = "key") -> None:
    path = world.folder / key
    if not path.exists():
        new = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
        subprocess.run(new, check=True)
    signature = world.certificate.with_name("forgotten-south.json.sig")
    signature.unlink(missing_ok=True)
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(path), "-n", namespace]
    subprocess.run([*command, str(world.certificate)], check=True, capture_output=True)


DROP = "drop"


def edit(signed: bool = True, **changes: Any) -> Attack:
    """Other fields in the certificate, its hash made to fit; ``signed``: by the officer's key."""

    def attack(world: World) -> None:
        value = {**json.loads(world.certificate.read_text()), **changes}
        rewrite(world.certificate, {key: part for key, part in value.items() if part != DROP})
        if signed:
            sign(world)

    return attack


def edit_text(change: Callable[[str], str]) -> Attack:
    """Another text of the certificate with the same content, signed."""

    def attack(world: World) -> None:
        world.certificate.write_text(change(world.certificate.read_text()))
        sign(world)

    return attack


def signers(line: str) -> Attack:
    """The officer's key with options in the file of signers."""

    def attack(world: World) -> None:
        name, *key = (world.folder / "signers").read_text().split()
        (world.folder / "signers").write_text(" ".join([name, line, *key]) + "\n")

    return attack


def of_another_site(world: World) -> None:
    """A genuine, signed certificate of east, where south has to be gone."""
    genuine = world.certificate.read_bytes()
    south_again(world)
    key = world.folder / "key"
    done = forget(world.recipe, world.run, ["east"], sign=key, quiet=True)
    shutil.move(done.path, world.certificate)
    shutil.move(f"{done.path}.sig", f"{world.certificate}.sig")
    assert world.certificate.read_bytes() != genuine


def of_nothing_deleted(world: World) -> None:
    """A genuine, signed certificate that was written with ``keep``."""
    south_again(world)
    key = world.folder / "key"
    forget(world.recipe, world.run, ["south"], keep=True, sign=key, quiet=True)


def of_an_earlier_removal(world: World) -> None:
    """The certificate of a removal that was taken back since."""
    own = [world.certificate.read_bytes(), (world.run / "forgotten-south.json.sig").read_bytes()]
    south_again(world)
    world.certificate.write_bytes(own[0])
    (world.run / "forgotten-south.json.sig").write_bytes(own[1])


def tail_of_a_signature(world: World) -> None:
    with world.certificate.with_name("forgotten-south.json.sig").open("a") as file:
        file.write(f"{encoded(world)}\n-----END SSH SIGNATURE-----\n")


def signature_of_another(world: World) -> None:
    own = world.certificate.read_bytes()
    edit(title="another")(world)
    world.certificate.write_bytes(own)


def page(world: World) -> None:
    """The page for people says more than the certificate."""
    made = json.loads(world.certificate.read_text())["title"]
    text = render_certificate(Certificate.load(world.certificate)[0], world.certificate.name)
    world.certificate.with_suffix(".html").write_text(text.replace(made, f"{made}, all of it"))


CERTIFICATES: dict[str, Attack] = {
    "of another site": of_another_site,
    "of nothing deleted": of_nothing_deleted,
    "of an earlier removal": of_an_earlier_removal,
    "from the future": edit(issued="2126-01-01T00:00:00+00:00"),
    "in no time zone": edit(issued="2026-01-01T00:00:00"),
    "of another day": edit(issued="2026-01-01T00:00:00+00:00"),
    "of an older version": edit(schema=1, issued=DROP),
    "without files": edit(files=None),
    "with a key that nobody reads": edit(note="x" * 100),
    "with a key twice": edit_text(lambda text: text.replace("{", '{"title": "hidden",', 1)),
    "with more spaces": edit_text(lambda text: text + " \t \t"),
    "signed by nobody trusted": lambda world: sign(world, key="other"),
    "signed for another purpose": lambda world: sign(world, namespace="git"),
    "signed with a key for another purpose": signers('namespaces="git"'),
    "signed with a key that is too old": signers('valid-before="20200101"'),
    "with the signature of another": signature_of_another,
    "with a tail behind its signature": tail_of_a_signature,
    "with another page": page,
}


@pytest.mark.filterwarnings("ignore:.*hold what is passed over")
@pytest.mark.parametrize("name", CERTIFICATES)
def test_no_other_certificate_serves(name: str, world) -> None:
    CERTIFICATES[name](world)
    assert not check(world, signers=world.folder / "signers", render=render_certificate)


def test_an_honest_page_and_a_copy_elsewhere_hold(world, tmp_path) -> None:
    page = world.certificate.with_suffix(".html")
    page.write_text(
        render_certificate(Certificate.load(world.certificate)[0], world.certificate.name)
    )
    assert check(world, signers=world.folder / "signers", render=render_certificate)
    done = verify(world.certificate, run=world.run)
    assert "was not compared" in done.notes[0]
    for name in ("officers.json", "officers.json.sig"):
        own = world.certificate.name + name.removeprefix("officers.json")
        shutil.copy(world.run / own, tmp_path / name)
    assert verify(tmp_path / "officers.json", run=world.run, signers=world.folder / "signers").holds


ROWS: dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]] = {
    "in another type": lambda data: data | {"inputs": data["inputs"].astype(np.float64)},
    "in another order": lambda data: {name: array[::-1] for name, array in data.items()},
    "with other labels": lambda data: data | {"labels": (data["labels"] + 1) % 4},
    "twice": lambda data: {name: np.concatenate([array] * 2) for name, array in data.items()},
    "under other names": lambda data: data | {"domains": np.char.add("new-", data["domains"])},
    "as one of them": lambda data: {
        name: np.concatenate(
            [array[data["domains"] != "south"], array[data["domains"] == "south"][:9]]
        )
        for name, array in data.items()
    },
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_do_not_come_back_in_another_form(name: str, world) -> None:
    with np.load(world.folder / "all.npz") as stored:
        data = {key: stored[key] for key in stored.files}
    np.savez(world.folder / "data.npz", **ROWS[name](data))
    with pytest.raises(InputError, match="were forgotten on"):
        train(world.recipe, world.run, backend="serial", quiet=True)


def test_hard_links_to_what_was_deleted_are_for_people_to_find(world) -> None:
    south_again(world)
    os.link(world.run / "components" / "south.safetensors", world.folder / "kept.safetensors")
    done = forget(world.recipe, world.run, ["south"], quiet=True)
    (said,) = [words for words in done.certificate.outside if "hard links" in words]
    assert "delete the other names of components/south.safetensors: 1 hard links" in said
