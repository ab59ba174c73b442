"""Signatures of models and contributions: made, shown, and no way to borrow them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.community import contribute, contributions, review
from stockpot.registry import Registry, add, init_registry
from stockpot.registry.checking import verify
from stockpot.registry.documents import sealed
from stockpot.registry.signing import sign_entry, signers
from tests.registry.models import BASE, moved, write_model
from tests.test_signatures import key

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs OpenSSH")


def run(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STOCKPOT_SIGNERS", str(tmp_path / "signers"))
    with init_registry(tmp_path / "r") as registry:
        add(registry, write_model(tmp_path / "base", BASE))
        registry.advance("main", "base", {"what": "add"})
    write_model(tmp_path / "ada", moved(BASE, 1))
    key(tmp_path, "key")
    return tmp_path


def test_a_signed_contribution_from_its_author_to_its_review(place: Path) -> None:
    run("contribute", place / "ada", "-r", place / "r", "--sign", place / "key")
    run("registry", "sign", "base", "--key", place / "key", "-r", place / "r")
    log = run("registry", "log", "-r", place / "r").stdout
    assert "unknown key SHA256:" in log
    run("review", "ada", "-r", place / "r", "--signed", code=1)
    run("registry", "trust", "ada@example.org", place / "key.pub")
    run("registry", "trust", "ada@example.org", place / "key.pub")
    assert run("registry", "trust").stdout == "ada@example.org\n"
    assert "ada@example.org" in run("registry", "log", "-r", place / "r").stdout
    shown = run("registry", "show", "base", "-r", place / "r").stdout
    assert "signed   by ada@example.org" in shown
    value = json.loads(run("registry", "log", "-r", place / "r", "--json").stdout)
    assert {each["name"]: each["signed"] for each in value["models"]} == {
        "base": "ada@example.org",
        "ada": None,
    }
    done = run("review", "ada", "-r", place / "r", "--signed").stdout
    assert "ok  signature: signed by ada@example.org" in done
    with Registry(place / "r") as registry:
        assert not verify(registry).problems
        registry.remove("ada")
        assert not verify(registry).problems
        keys = registry.store.keys("signatures")
        assert len(keys) == 1  # that of the base


def test_what_nobody_signed_passes_unless_it_must_be_signed(place: Path) -> None:
    with Registry(place / "r") as registry:
        contribute(registry, place / "ada")
        assert "signature" not in [check.name for check in review(registry, "ada").checks]
        (failed,) = review(registry, "ada", signed=True).checks
        assert (failed.name, failed.passed) == ("signature", False)


def test_a_signature_is_of_one_entry_only(place: Path) -> None:
    """What ada signed cannot be put beside another entry; that it was tried stops nobody."""
    run("registry", "trust", "ada", place / "key.pub")
    with Registry(place / "r") as registry:
        proposal = contribute(registry, place / "ada")
        base = registry.find("base")
        sign_entry(registry, "manifest", base, base, place / "key")
        ((_, theirs),) = registry.documents("signatures")
        for kind, ident in (("manifest", proposal.model), ("contribution", proposal.digest)):
            borrowed = f"signatures/{ident}/{'0' * 16}.json"
            value = {**theirs, "of": kind, "id": ident, "model": proposal.model}
            registry.store.write(borrowed, [sealed(borrowed, value)])
            (found,) = signers(registry, kind, ident)  # type: ignore[arg-type]
            assert found.state == "wrong"
        assert review(registry, "ada").accepted
        assert not review(registry, "ada", signed=True).accepted
        assert [each.name for each in signers(registry, "manifest", base)] == ["ada"]


def test_every_field_of_a_contribution_is_signed(place: Path) -> None:
    from dataclasses import replace

    with Registry(place / "r") as registry:
        proposal = contribute(registry, place / "ada", author="ada", note="good")
        known = {proposal.digest}
        for change in ("line", "model", "base", "name", "author", "note", "kind"):
            known.add(replace(proposal, **{change: "0" * 64}).digest)
        assert len(known) == 8
        assert contributions(registry)[0].digest == proposal.digest


@pytest.mark.parametrize("command", ["add", "contribute"])
def test_a_key_that_is_not_there_is_refused_before_the_work(place: Path, command: str) -> None:
    words = ["registry", "add"] if command == "add" else ["contribute"]
    done = run(*words, place / "ada", "-r", place / "r", "--sign", place / "none", code=2)
    assert "no key" in done.stderr
    with Registry(place / "r") as registry:
        assert registry.index.count() == 1


@pytest.mark.parametrize("who", ["", "*", "two words", "a,b", "-x", "a\nb", "x" * 500])
def test_a_name_that_is_none_is_not_trusted(place: Path, who: str) -> None:
    run("registry", "trust", "--", who, place / "key.pub", code=2)
    assert not (place / "signers").exists()


def test_a_private_key_is_not_trusted(place: Path) -> None:
    done = run("registry", "trust", "ada", place / "key", code=2)
    assert "no public SSH key" in done.stderr
