"""A community improves one model: two rounds, a poisoned contribution refused, one taken back.

    python examples/community.py OUT

takes about a minute and writes ``OUT/report.html``. A base learns handwritten digits
(scikit-learn's, 8 x 8 pixels). Five contributors each have digits in a hand of their own (turned
left or right, shifted, noisy, pale), fine-tune the newest version on them and contribute. One of
them sends a model with a blown-up layer first. The maintainer reviews, accepts in rounds
(ColD Fusion), and takes one contribution back: the version after that has the bytes of one that
never saw it, which a second registry shows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stockpot.checkpoints import load_state, save_state
from stockpot.community import (
    MaintainerTask,
    Meter,
    accept,
    contribute,
    contributions,
    measured,
    replay,
    revert,
    review,
)
from stockpot.registry import Registry, add, checkout, init_registry
from stockpot.report import write_community_page

CONTRIBUTORS = {"ada": "left", "ben": "right", "cleo": "shifted", "dora": "noisy", "eve": "pale"}


def network() -> nn.Module:
    """Pixels (64) to features (48): a small perceptron with fixed first weights."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU()
    )
    layers.feature_dim = 48  # type: ignore[assignment]
    layers.input_shape = (64,)  # type: ignore[assignment]
    return layers


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 real digits as (N, 8, 8) in [0, 1], in an order that mixes writers."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    return (found.images[order] / 16.0).astype(np.float32), found.target[order].astype(np.int64)


def hand(images: np.ndarray, how: str) -> np.ndarray:
    """The same digits in another hand."""
    from scipy.ndimage import rotate

    draw = np.random.default_rng(1)
    if how in ("left", "right"):
        angle = 40 if how == "left" else -40
        images = rotate(images, angle, axes=(2, 1), reshape=False, order=1)
    elif how == "shifted":
        images = np.roll(images, 2, axis=2)
    elif how == "noisy":
        images = images + 0.45 * draw.normal(size=images.shape)
    elif how == "pale":
        images = 1.0 - 0.45 * images
    return np.asarray(images.reshape(len(images), 64), np.float32)


def train(
    start: dict[str, Any] | None,
    inputs: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int,
    seed: int,
    rate: float = 1e-3,
) -> dict[str, Any]:
    """Fine-tune the network under a fresh head, which stays with whoever trained it."""
    body = network()
    if start is not None:
        body.load_state_dict(start)
    torch.manual_seed(seed)
    head = nn.Linear(48, 10)
    everything = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(everything, lr=rate, weight_decay=1e-2)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=draw)
        loss = nn.functional.cross_entropy(head(body(x[rows])), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return body.state_dict()


def save(folder: Path, state: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_state(folder / "model.safetensors", state)
    return folder


def prepare(out: Path) -> list[MaintainerTask]:
    """The maintainer's tasks: digits in every hand that no contributor has trained on."""
    images, labels = digits()
    tasks = []
    for how in ("plain", *CONTRIBUTORS.values()):
        rows = slice(1000, None)
        domains = np.where(np.arange(len(labels[rows])) < 300, "fit", "test")
        path = out / f"{how}.npz"
        np.savez(path, inputs=hand(images[rows], how), labels=labels[rows], domains=domains)
        tasks.append(
            MaintainerTask(
                name=how,
                task={"kind": "arrays", "path": str(path.resolve())},
                backbone={"kind": "function", "name": f"{Path(__file__).resolve()}:network"},
                held_out=("test",),
                tolerance=0.04,
            )
        )
    return tasks


def fine_tune(registry: Registry, who: str, turn: int, out: Path, steps: int) -> Path:
    """What a contributor does: check the newest version out, train on data of one's own."""
    images, labels = digits()
    version = out / "work" / f"{who}-{turn}"
    checkout(registry, "main", version, overwrite=True)
    rows = slice(0, 1000)
    state = train(
        load_state(version),
        hand(images[rows], CONTRIBUTORS[who]),
        labels[rows],
        steps=steps,
        seed=10 * turn + list(CONTRIBUTORS).index(who),
    )
    return save(out / "models" / f"{who}-{turn}", state)


def community(out: Path, *, steps: int = 150) -> dict[str, Any]:
    """The whole story; returns what happened."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    tasks = prepare(out)
    meter = Meter(tasks)
    story: dict[str, Any] = {}

    # A base that knows plain digits, as the first version of the line "main".
    images, labels = digits()
    base = save(
        out / "models" / "base",
        train(None, hand(images[:1000], "plain"), labels[:1000], steps=2 * steps, seed=99),
    )
    registry = init_registry(out / "registry")
    add(registry, base)
    start = {"what": "start", "words": "the base", **measured(registry, "base", meter)}
    registry.advance("main", "base", start)

    # Round 1: five contributions; eve's has one layer blown up to overrule the average.
    for who in CONTRIBUTORS:
        model = fine_tune(registry, who, 1, out, steps)
        if who == "eve":
            state = load_state(model)
            state["2.weight"] = state["2.weight"] * 25
            save(model, state)
        contribute(registry, model, author=who)
    for each in contributions(registry):
        done = review(registry, each, meter=meter)
        story[each.name] = done.reason
    good = [each for each in contributions(registry) if each.author != "eve"]
    story["round 1"] = accept(registry, good, method="linear", meter=meter)

    # Round 2: all start again from the new version; eve is honest now.
    for who in CONTRIBUTORS:
        contribute(registry, fine_tune(registry, who, 2, out, steps), author=who)
    second = [each for each in contributions(registry) if each.name.endswith("-2")]
    for each in second:
        story[each.name] = review(registry, each, meter=meter).reason
    story["round 2"] = accept(registry, second, method="linear", meter=meter)

    # Ben asks for his second contribution to be taken out.
    story["revert"] = revert(registry, "ben-2", meter=meter, why="the author asked for it")
    replay(registry, "main")
    checkout(registry, "main", out / "after-revert", overwrite=True)

    # A world in which it never came: the same models, another registry.
    with init_registry(out / "never") as never:
        add(never, base)
        never.advance("main", "base", {"what": "start"})
        first = [contribute(never, out / "models" / each.name, author=each.author) for each in good]
        accept(never, first, method="linear", force=True)
        rest = [
            contribute(never, out / "models" / each.name, author=each.author)
            for each in second
            if each.name != "ben-2"
        ]
        accept(never, rest, method="linear", force=True)
        checkout(never, "main", out / "never-saw", overwrite=True)
        story["same id"] = never.find("main") == registry.find("main")

    write_community_page(registry, "main", out / "report.html")
    registry.close()
    return story


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files, byte for byte."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
        }

    return read(one) == read(other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=Path("community-output"))
    out = parser.parse_args().out
    if out.exists() and any(out.iterdir()):
        sys.exit(f"{out} is not empty")
    story = community(out)
    for name in sorted(name for name in story if name.endswith(("-1", "-2"))):
        print(f"{name:8} {story[name]}")
    for turn in ("round 1", "round 2"):
        scores = story[turn].scores
        print(turn, " ".join(f"{name} {each['mean']:.1%}" for name, each in scores.items()))
    same = same_files(out / "after-revert", out / "never-saw")
    print("after the revert: every byte as if it had never been seen:", same and story["same id"])
    print(f"report: {out / 'report.html'}")


if __name__ == "__main__":
    main()
