# %% [markdown]
# # Recycle: one model out of several fine-tunings
#
# Data from four sources, a pretrained network, and somebody else's fine-tuning of it. Everything is
# made here and small, so that the whole path runs in a minute on one core: what matters is what you
# write and what you get. With your own data only the recipe changes.

# %%
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import stockpot

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
directions = rng.normal(size=(3, 12))  # what makes a class, in every source


def draw(rows: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (rows, 16) and classes. Columns 12 to 15 depend on the source, and mislead."""
    labels = rng.integers(0, 3, rows)
    inputs = rng.normal(size=(rows, 16))
    inputs[:, :12] += 0.6 * directions[labels]
    inputs[:, 12:] += shift * (labels[:, None] - 1)
    return inputs.astype(np.float32), labels


# %% [markdown]
# ## What exists already
#
# A network as a Python function, weights that were pretrained on something else, and the weights of
# a fine-tuning of them for a related task. stockpot calls these *base* and *auxiliary*.

# %%
(folder / "net.py").write_text(
    """
from torch import manual_seed, nn

def net():
    manual_seed(0)
    layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU())
    layers.feature_dim, layers.input_shape = 24, (16,)
    return layers
"""
)
namespace: dict = {}
exec((folder / "net.py").read_text(), namespace)


def train(network: torch.nn.Module, inputs: np.ndarray, labels: np.ndarray, steps: int) -> None:
    """A plain loop, as somebody elsewhere may have had it."""
    head = torch.nn.Linear(24, int(labels.max()) + 1)
    both = torch.nn.Sequential(network, head)
    adam = torch.optim.Adam(both.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = torch.from_numpy(rng.integers(0, len(labels), 64))
        loss = torch.nn.functional.cross_entropy(
            both(torch.from_numpy(inputs)[rows]), torch.from_numpy(labels)[rows]
        )
        adam.zero_grad()
        loss.backward()
        adam.step()


torch.manual_seed(0)
base = namespace["net"]()
inputs, _ = draw(4000, 0.0)
train(base, inputs, (inputs[:, :12] @ rng.normal(size=(12, 6))).argmax(1), steps=300)
save_file(base.state_dict(), folder / "base.safetensors")
wild = namespace["net"]()
wild.load_state_dict(base.state_dict())
inputs, labels = draw(2000, 0.2)
train(wild, inputs, (labels > 0).astype(np.int64), steps=200)
save_file(wild.state_dict(), folder / "wild.safetensors")
print(stockpot.inspect([folder / "wild.safetensors"], base=folder / "base.safetensors").verdict)

# %% [markdown]
# ## Your data
#
# Three sources to train on, in which columns 12 to 15 help a little, and one in which they mislead.
# It is held out: no run sees it, and it chooses nothing.

# %%
sources = {"north": 0.3, "east": 0.2, "south": 0.1, "west": -0.3}
parts = {name: draw(300, shift) for name, shift in sources.items()}
np.savez(
    folder / "data.npz",
    inputs=np.concatenate([inputs for inputs, _ in parts.values()]),
    labels=np.concatenate([labels for _, labels in parts.values()]),
    domains=np.repeat(list(parts), 300),
)
recipe = {
    "title": "Tutorial",
    "task": {"kind": "arrays", "path": "data.npz"},
    "held_out": ["west"],
    "backbone": {"kind": "function", "name": "net.py:net", "weights": "base.safetensors"},
    "auxiliaries": [{"name": "wild", "weights": "wild.safetensors"}],
    "runs": 4,
    "trials": 3,
    "training": {
        "steps": 150,
        "batch_size": 16,
        "evaluate_every": 25,
        "learning_rate": [1e-3, 5e-4, 2e-3],
    },
}

# %% [markdown]
# ## Recycle
#
# It trains a linear probe, four ordinary fine-tunings and four that start from base and auxiliary
# in turn, averages them in the ways that papers propose, and keeps what validation rows choose.

# %%
done = stockpot.recycle(recipe, output=folder / "recycled", root=folder, quiet=True)
print(textwrap.fill(done.summary(), 100))

# %% [markdown]
# `summary` is the last line of the command: what was kept, why, and how it compares with the
# simplest things one could have done, on the source that chose nothing. Three trials, each with
# other splits and seeds, let it speak of other trainings, too.
#
# The table has every method. Read it as a laboratory: a method that wins here need not win on your
# data, which is why the choice is made on yours.

# %%
for row in sorted(done.results.table, key=lambda row: -row.mean)[:6]:
    print(f"{row.label:36} {row.mean:.1%}")

# %% [markdown]
# ## Use it
#
# The model is a folder. `stockpot predict FOLDER FILE` reads tables, texts and pictures; from
# Python it takes arrays as well.

# %%
answers = stockpot.predict(done.model, draw(5, -0.3)[0], root=folder)
print(answers.probabilities.shape)
