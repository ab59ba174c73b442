"""A small registry with a story: three fine-tunings are in, one waits, one is new, one refused."""

from __future__ import annotations

from pathlib import Path

from stockpot.community import accept, contribute, review
from stockpot.provenance import Record, versions, write_card, write_record
from stockpot.registry import Registry, add, init_registry
from tests.registry.models import BASE, State, moved, write_model

CARD = "<script>alert(1)</script> ![a chart](http://example.org/x.png) [site](http://example.org)"


def community(place: Path, scratch: Path) -> dict[str, str]:
    """Make the registry at ``place``; ids of its models by name."""
    with init_registry(place) as registry:
        done = add(registry, folder(scratch, "base", BASE, "base", 0.712), quiet=True)
        registry.advance("main", done.id, {"what": "add"})
        ids = {"base": done.id}
        for seed, name in enumerate(("reviews", "headlines", "questions"), 1):
            ids[name] = propose(registry, scratch, name, moved(BASE, seed), 0.74 + seed / 200)
            review(registry, name)
        ids["round 1"] = accept(registry, ["reviews", "headlines", "questions"]).model
        newest = registry.checkpoint("main")
        state = {name: newest.read(name) for name in newest.names}
        ids["tweets"] = propose(registry, scratch, "tweets", moved(state, 4), 0.771)
        review(registry, "tweets")
        ids["captions"] = propose(registry, scratch, "captions", moved(state, 5), 0.775)
        broken = {**moved(state, 6), "head.weight": state["head.weight"] * -9}
        ids["broken"] = propose(registry, scratch, "broken", broken, 0.3)
        review(registry, "broken")
    return ids


def propose(registry: Registry, scratch: Path, name: str, state: State, accuracy: float) -> str:
    """Contribute a fine-tuning; the id of its model."""
    source = folder(scratch, name, state, "finetune", accuracy)
    found = contribute(registry, source, name=name, author=f"{name}@example.org", note="A note.")
    return found.model


def folder(scratch: Path, name: str, state: State, kind: str, accuracy: float) -> Path:
    """A model folder with a record and a card."""
    place = write_model(scratch / name, state)
    record = Record(
        kind,
        name,
        recipe={"steps": 100, "from": "base"},
        data="sha256:0123",
        metrics={"accuracy": accuracy, "loss": 1 - accuracy},
        versions=versions(),
    )
    write_record(place, record)
    write_card(place, record, text=CARD)
    return place
