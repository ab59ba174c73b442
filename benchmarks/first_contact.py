"""First contact: real models, real tasks, no history. Who picks the right model?

    python examples/rank/fetch.py
    python benchmarks/first_contact.py measure DATA --work runs/first_contact   # resumable
    python benchmarks/first_contact.py table --work runs/first_contact          # keep what it found
    python benchmarks/first_contact.py page                                     # from the table

``measure`` ranks each pool on each task without history and then really fine-tunes every model of
it (``rank --verify``): networks that come inside Python packages and untrained ones as controls.
DATA holds folders ``pacs``, ``emoji``, ``fashion``, ``glyphs`` as the examples make them; those
that are missing are left out. Texts and the digits come with stockpot's assets and scikit-learn.
``--scale`` multiplies examples and steps of every fine-tuning (1: about 15 CPU minutes in all).

``benchmarks/first_contact/table.json`` keeps what was measured. ``page`` answers from it alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import stockpot
from stockpot.files import write_json

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "rank"
TABLE = Path(__file__).with_suffix("") / "table.json"
UNTRAINED = {"lite0": "lite0", "mobilenetv2": "mobilenet_v2", "resnet18": "resnet18"}
STEPS = {"images": 40, "texts": 24}
HEAVY = ("resnet18-tiny",)  # keeps its maps large: sixteen times the work of a ResNet-18


def tasks(data: Path, assets: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, kind of pool and task of everything that is there."""
    for domain in ("photo", "art_painting", "cartoon", "sketch"):
        if (data / "pacs").exists():
            spec = {"kind": "images", "path": str(data / "pacs"), "domains": [domain], "size": 64}
            yield f"pacs-{domain}", "images", spec
    for style in ("noto", "openmoji"):
        if (data / "emoji").exists():
            spec = {"kind": "images", "path": str(data / "emoji"), "domains": [style], "size": 48}
            yield f"emoji-{style}", "images", spec
    for name in ("fashion", "glyphs"):
        if (data / name).exists():
            yield name, "images", {"kind": "images", "path": str(data / name), "size": 48}
    yield "digits", "images", {"kind": "function", "function": f"{EXAMPLE / 'tasks.py'}:digits"}
    sentiment = str(assets / "sentiment" / "sentiment.csv")
    for domain in ("tweets", "movies", "products", "editorials"):
        spec = {"kind": "text", "path": sentiment, "domains": [domain], "target": "sign"}
        yield f"sentiment-{domain}", "texts", {**spec, "margin": 0.5}
    yield "glosses", "texts", {"kind": "text", "path": str(assets / "glosses" / "glosses.csv")}


def image_zoo(weights: Path, scale: float) -> dict[str, Any]:
    """The example's zoo with its weights in ``weights``, and untrained controls."""
    import torch
    import yaml

    from stockpot.checkpoints import write_checkpoint

    entries = yaml.safe_load((EXAMPLE / "zoo.yaml").read_text(encoding="utf-8"))["models"]
    module = f"{EXAMPLE / 'networks.py'}"
    found = [
        {**entry, "name": f"{module}:{entry['name'].split(':')[1]}"}
        | {"weights": str(weights / Path(entry["weights"]).name)}
        for entry in entries
        if scale > 1 or entry["id"] not in HEAVY
    ]
    by_function = {entry["name"].split(":")[1]: entry for entry in found}
    spec = importlib.util.spec_from_file_location("zoo_networks", module)
    assert spec is not None
    assert spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    for name, function in UNTRAINED.items():
        file = weights / f"untrained-{name}.safetensors"
        if not file.exists():
            torch.manual_seed(0)
            state = getattr(networks, function)().state_dict()
            write_checkpoint(file, {key: value.numpy() for key, value in state.items()})
        facts = {**by_function[function]["metadata"], "pretraining": "none"}
        found.append(
            {
                "id": f"untrained-{name}",
                "kind": "function",
                "name": f"{module}:{function}",
                "weights": str(file),
                "metadata": facts,
            }
        )
    return {"models": found}


def text_zoo(weights: Path, assets: Path) -> dict[str, Any]:
    """MiniLM, somebody's fine-tuning of it, and the same network untrained."""
    import torch

    from stockpot.compat import ensure_torchvision, import_transformers

    ensure_torchvision(quiet=True)
    load = import_transformers()
    folder = weights / "untrained-minilm"
    if not folder.exists():
        torch.manual_seed(0)
        load.AutoModel.from_config(
            load.AutoConfig.from_pretrained(assets / "minilm")
        ).save_pretrained(folder)
        load.AutoTokenizer.from_pretrained(assets / "minilm").save_pretrained(folder)
    names = {"minilm": assets / "minilm", "sre": assets / "sre", "untrained-minilm": folder}
    pretraining = {"minilm": "sentence-pairs", "sre": "sentence-pairs-then-pages"}
    return {
        "models": [
            {
                "id": name,
                "kind": "transformers",
                "name": str(path),
                "max_length": 32,
                "metadata": {
                    "family": "minilm",
                    "parameters": 2.27e7,
                    "pretraining": pretraining.get(name, "none"),
                },
            }
            for name, path in names.items()
        ]
    }


def measure(arguments: argparse.Namespace) -> None:
    """Rank and fine-tune, one task after another; what an earlier call has done stays done."""
    from stockpot.demo.assets import fetch

    assets = fetch()["minilm"].parent
    weights = arguments.weights
    zoos = {
        "images": image_zoo(weights, arguments.scale),
        "texts": text_zoo(weights, assets),
    }
    examples = round(600 * arguments.scale)
    for name, pool, task in tasks(arguments.data.resolve(), assets):
        if arguments.only and name not in arguments.only:
            continue
        folder = arguments.work / name
        if (folder / "results.json").exists():
            continue
        started = time.process_time()
        request = {
            "title": name,
            "task": {**task, "name": name},
            "validation_fraction": 0.5,
            "limit_per_domain": examples,
            "sample": {"first": 256, "most": 2048},
            "training": {
                "steps": round(STEPS[pool] * arguments.scale),
                "batch_size": 16,
                "augmentation": False,
            },
        }
        stockpot.rank(
            request, zoos[pool], folder, verify=True, backend="serial", quiet=True, root=ROOT
        )
        print(f"{name}: {time.process_time() - started:.0f} CPU s", file=sys.stderr, flush=True)


def row(model: Mapping[str, Any]) -> dict[str, Any]:
    """What the table keeps of one model on one task."""
    return {
        "value": model["tuned"]["value"],
        "probe": model["tuned"]["probe"],
        "seconds": round(model["tuned"]["seconds"], 1),
        "facts": model["metadata"],
        "scores": model["scores"],
        "warnings": model["warnings"],
    }


def keep(arguments: argparse.Namespace) -> None:
    """Write the table from what was measured."""
    found = {}
    for file in sorted(arguments.work.glob("*/results.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        found[results["title"]] = {
            "judged_by": results["task"]["judged_by"],
            "classes": len(results["task"]["classes"]),
            "models": {m["name"]: row(m) for m in results["models"] if m["tuned"]},
        }
    TABLE.parent.mkdir(exist_ok=True)
    write_json(TABLE, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    made = verbs.add_parser("measure")
    made.add_argument("data", type=Path)
    made.add_argument("--weights", type=Path, default=EXAMPLE / "models")
    made.add_argument("--scale", type=float, default=1.0)
    made.add_argument("--only", nargs="*")
    made.set_defaults(run=measure)
    kept = verbs.add_parser("table")
    kept.set_defaults(run=keep)
    for each in (made, kept):
        each.add_argument("--work", type=Path, default=Path("runs/first_contact"))
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
