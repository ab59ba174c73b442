"""Every command of stockpot on small files, run in one process: ``python -m ... FOLDER``.

Prints one JSON line for each: its words, exit code, what it said, and whether an exception came out
of it. No package that stockpot does not always bring is imported here.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

COMMANDS = """
    recycle recipe.yaml -o out --backend serial -q
    recycle recipe.yaml -o out-local -j 1 -q
    recycle text.yaml -o text
    recycle images.yaml -o images
    recycle digits.yaml -o digits
    recycle table.yaml -o table
    merge -m linear a b -o merged
    merge a b -o parts --backend local -j 1
    merge a b -o clustered --backend ray
    merge a b -o on-device --device cpu:0
    merge old.pt old.pt -o pickled
    soup a b -e scores.yaml --search none -o souped -q
    soup a b -e scores.yaml -o searched -q
    average a b -o averaged
    rank task.yaml --zoo zoo.yaml -o ranked --backend serial -q
    rank task.yaml --zoo pictures.yaml -o pictures -q
    rank table.csv --zoo texts.yaml -o texts -q
    inspect a b --base base
    history add store.db one t 0.5
    history import store.db results.csv
    history import store.db table.csv
    history show store.db
    history evaluate store.db
    tangent train tangent.yaml -o tangent --backend serial -q
    tangent train text.yaml -o texts-tangent
    tangent compose tangent -o composed.safetensors
    tangent eval tangent.yaml tangent
    tangent show tangent
    tangent check tangent.yaml
    tangent forget tangent.yaml tangent north -o forgotten.json
    tangent verify forgotten.json
    tangent continual continual.yaml -o continual -q
    submit --address 127.0.0.1:1 doctor
    push a owner/name
    pull owner/name -o pulled
    demo -o demonstrated
    registry init
    registry add base --line main
    registry add a --parent base
    registry log
    registry tree
    registry show a
    registry checkout a -o again
    registry diff base a
    registry verify
    registry gc
    registry reindex
    registry land out
    contribute b --line main
    review
    accept b
    revert b
    registry remove a
    serve --token-file short
    predict out/model table.csv
    evaluate out/model task.yaml
    export out/model -o program.pt2
    doctor
"""


NO_NETWORK = {"PIP_INDEX_URL": "http://127.0.0.1:1", "PIP_EXTRA_INDEX_URL": "", "PIP_RETRIES": "0"}
"""Nothing is downloaded: the demo, where it could start, ends at once."""


def write_world(folder: Path) -> None:
    """The files that the commands name."""
    from stockpot.checkpoints import write_checkpoint
    from tests.tangent.core.world import write_world as write_tangent

    rng = np.random.default_rng(0)
    base = {"layer.weight": rng.normal(size=(32, 16)).astype(np.float32)}
    for name, scale in (("base", 0.0), ("a", 1e-3), ("b", 1e-3)):
        moved = {k: v + np.float32(scale) * rng.normal(size=v.shape) for k, v in base.items()}
        tensors = {k: v.astype(np.float32) for k, v in moved.items()}
        write_checkpoint(folder / name / "model.safetensors", tensors)
    (folder / "old.pt").write_bytes(b"PK\x03\x04")
    (folder / "table.csv").write_text("text,label,domain\n" + "good,1,x\nbad,0,x\n" * 40)
    (folder / "results.csv").write_text("model,t,u\na,1,2\nb,2,3\nc,3,4\nd,4,5\ne,5,7\n")
    (folder / "scores.py").write_text("print('{\"scores\": [' + '1, ' * 29 + '1]}')\n")
    (folder / "scores.yaml").write_text("command: python scores.py {model}\n")
    (folder / "short").write_text("short\n")
    (folder / "short").chmod(0o600)
    os.chdir(folder)
    write_tangent(folder, rows=120).rename("tangent.yaml")
    small = yaml.safe_load(Path("tangent.yaml").read_text(encoding="utf-8"))
    network, arrays = small["backbone"], {"kind": "arrays", "path": "data.npz"}
    timm = {"kind": "timm", "name": "resnet18"}
    bert = {"kind": "transformers", "name": "./nowhere"}
    table = {"kind": "text", "path": "table.csv"}
    quick = {"steps": 2, "batch_size": 4, "evaluate_every": 1, "learning_rate": 0.01}
    files: dict[str, Any] = {
        "recipe": {"task": arrays, "backbone": network, "training": quick, "runs": 2}
        | {"held_out": ["north"], "protocols": ["erm", "soup_uniform"]},
        "text": {"task": table, "backbone": bert},
        "images": {"task": {"kind": "images", "path": "nowhere"}, "backbone": timm},
        "digits": {"task": {"kind": "rotated_mnist", "path": "nowhere"}, "backbone": network},
        "table": {"task": {"kind": "text", "path": "nowhere.parquet"}, "backbone": bert},
        "task": {"task": arrays, "sample": {"first": 40, "most": 40}},
        "zoo": {"models": [{**network, "id": "one"}, {**network, "id": "two"}]},
        "pictures": {"models": [timm]},
        "texts": {"models": [bert]},
        "continual": {
            "trials": 1,
            "features": {"dimension": 32, "directions": 1, "random_dimension": 32},
            "tangent": {"epochs": 1},
            "nonlinear": {"epochs": 1},
            "task": arrays,
            "backbone": network,
            "settings": [{"mode": "class", "classes": 2}],
        },
    }
    for name, value in files.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(value))


def main(folder: str) -> None:
    from typer.testing import CliRunner

    from stockpot.cli.main import app

    os.environ |= {**NO_NETWORK, "XDG_CACHE_HOME": str(Path(folder).absolute() / "cache")}
    write_world(Path(folder))
    for line in COMMANDS.strip().splitlines():
        words = line.split()
        done = CliRunner().invoke(app, words)
        broken = done.exception is not None and not isinstance(done.exception, SystemExit)
        told = {"words": words, "code": done.exit_code, "said": done.stderr}
        print(json.dumps({**told, "broken": repr(done.exception) if broken else ""}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
