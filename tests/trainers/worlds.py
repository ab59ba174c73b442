"""A tiny world: points of two classes, a network of two layers, and a training script."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SFT = """
import argparse, json, os, sys, time
import torch
from safetensors.torch import load_file, save_file
parser = argparse.ArgumentParser()
parser.add_argument("--init"); parser.add_argument("--data"); parser.add_argument("--out")
parser.add_argument("--lr", type=float); parser.add_argument("--seed", type=int)
parser.add_argument("--freeze", default="false")
args = parser.parse_args()
here = os.path.dirname(os.path.abspath(__file__))
with open(here + "/calls", "a") as calls:
    calls.write(args.out + "\\n")
torch.manual_seed(args.seed)
state = load_file(args.init + "/model.safetensors")
rows = [json.loads(line) for line in open(args.data)]
classes = max(row["y"] for row in rows) + 1
if len(state.get("head.weight", "")) != classes:
    state["head.weight"] = torch.randn(classes, 8) * 0.1
state = {name: value.clone().requires_grad_() for name, value in state.items()}
x = torch.tensor([row["x"] for row in rows]); y = torch.tensor([row["y"] for row in rows])
trained = [v for n, v in state.items() if args.freeze == "false" or n.startswith("head")]
optimizer = torch.optim.SGD(trained, lr=args.lr)
for step in range(30):
    batch = torch.randint(len(x), (16,))
    hidden = torch.tanh(x[batch] @ state["body.weight"].T)
    loss = torch.nn.functional.cross_entropy(hidden @ state["head.weight"].T, y[batch])
    optimizer.zero_grad(); loss.backward(); optimizer.step()
time.sleep(float(os.environ.get("PAUSE", "0")))
os.makedirs(args.out)
save_file({n: v.detach() for n, v in state.items()}, args.out + "/model.safetensors")
print("done")
"""

NUMPY = """
import json
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file, save_file


def train(init, output, data, *, seed, learning_rate, steps=30, freeze=False, blow_up=False):
    \"\"\"Gradient descent on random batches; a head of its own where the init has none.\"\"\"
    rng = np.random.default_rng(seed)
    state = load_file(init / "model.safetensors")
    rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
    x = np.array([row["x"] for row in rows], np.float32)
    y = np.eye(max(row["y"] for row in rows) + 1, dtype=np.float32)[[row["y"] for row in rows]]
    if state.get("head.weight", np.empty(0)).shape != (y.shape[1], 8):
        state["head.weight"] = 0.1 * rng.standard_normal((y.shape[1], 8)).astype(np.float32)
    for _ in range(steps):
        chosen = rng.integers(len(x), size=16)
        hidden = np.tanh(x[chosen] @ state["body.weight"].T)
        outputs = np.exp(hidden @ state["head.weight"].T)
        errors = (outputs / outputs.sum(1, keepdims=True) - y[chosen]) / 16
        back = (errors @ state["head.weight"]) * (1 - hidden**2)
        state["head.weight"] -= learning_rate * errors.T @ hidden
        if not freeze:
            state["body.weight"] -= learning_rate * back.T @ x[chosen]
    if blow_up and seed % 3 == 0:
        state["body.weight"][0, 0] = np.nan
    output.mkdir()
    save_file(state, output / "model.safetensors")
    (output / "config.json").write_text("{}")


def right(state):
    lines = Path(__file__).with_name("test.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    x = np.array([row["x"] for row in rows])
    outputs = np.tanh(x @ state["body.weight"].T) @ state["head.weight"].T
    return (outputs.argmax(1) == np.array([row["y"] for row in rows])).astype(float)
"""

EVAL = """
import json, sys
import numpy as np
from safetensors.numpy import load_file
state = load_file(sys.argv[1] + "/model.safetensors")
rows = [json.loads(line) for line in open(__file__.rpartition("/")[0] + "/test.jsonl")]
x = np.array([row["x"] for row in rows]); y = np.array([row["y"] for row in rows])
outputs = np.tanh(x @ state["body.weight"].T) @ state["head.weight"].T
print(json.dumps({"scores": (outputs.argmax(1) == y).astype(int).tolist()}))
"""

COMMAND = (
    "python sft.py --init {init} --data {data} --out {output} --lr {learning_rate} --seed {seed}"
)

RECIPE = {
    "base": "base",
    "trainer": {"command": COMMAND},
    "data": "train.jsonl",
    "hyperparameters": {"learning_rate": [0.3, 0.1]},
    "evaluate": {"command": "python eval.py {model}", "metric": "accuracy"},
    "auxiliaries": [{"name": "other", "data": "other.jsonl"}],
}

BY_FUNCTION = {
    **RECIPE,
    "trainer": {"function": "own.py:train"},
    "evaluate": {"function": "own.py:right", "metric": "accuracy", "files": ["test.jsonl"]},
}


def make_world(folder: Path, *, head: bool = True) -> Path:
    """Base, data, the script and the evaluator. ``head``: whether the base has one."""
    rng = np.random.default_rng(0)
    base = {"body.weight": rng.standard_normal((8, 4)).astype(np.float32)}
    if head:
        base["head.weight"] = (0.1 * rng.standard_normal((2, 8))).astype(np.float32)
    (folder / "base").mkdir()
    save_file(base, folder / "base/model.safetensors")
    (folder / "base/config.json").write_text("{}")
    for name, count, classes in (("train", 60, 2), ("other", 60, 3), ("test", 200, 2)):
        x = rng.standard_normal((count, 4))
        values = x[:, 0] + 0.3 * rng.standard_normal(count)
        y = np.digitize(values, [0.0, 1.0][: classes - 1])
        lines = [json.dumps({"x": a.tolist(), "y": int(b)}) for a, b in zip(x, y, strict=True)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "sft.py").write_text(SFT)
    (folder / "eval.py").write_text(EVAL)
    (folder / "own.py").write_text(NUMPY)
    return folder


def calls(folder: Path) -> list[str]:
    """The outputs that the script was asked for."""
    file = folder / "calls"
    return file.read_text().splitlines() if file.exists() else []
