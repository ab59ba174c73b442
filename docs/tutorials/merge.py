# %% [markdown]
# # Merge, and look at what you merge
#
# Three fine-tunings of one base, made here from numbers, so that the tutorial runs anywhere and the
# right answer is known. Replace the dictionaries by folders, files or names on the hub: the calls
# stay the same.

# %%
import numpy as np

import stockpot

LAYERS = [f"layers.{index}.weight" for index in range(4)]


def draw(seed: int, size: float) -> dict[str, np.ndarray]:
    """Random weights of four layers."""
    rng = np.random.default_rng(seed)
    return {name: size * rng.normal(size=(96, 96)) for name in LAYERS}


def add(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Their sum, layer by layer."""
    return {name: first[name] + second[name] for name in LAYERS}


base = draw(0, 1.0)
skill = draw(1, 0.01)  # what every fine-tuning learns
right = add(base, skill)
models = [add(right, draw(seed, 0.01)) for seed in (2, 3, 4)]  # and what is noise of each

# %% [markdown]
# ## Do they belong together?
#
# Averaging models of different ancestors gives noise, even if every shape fits. `inspect` compares
# weights layer by layer. The second call has a stranger: the same shapes, other numbers.

# %%
print(stockpot.inspect(models, base=base).verdict)
print(stockpot.inspect([models[0], draw(5, 1.0)], base=base).verdict)

# %% [markdown]
# ## Merge
#
# A mean of three keeps what they share and a third of the variance of the rest. Adding up task
# vectors triples what they share, unless it is scaled by a third; Model Stock goes from the mean a
# part of the way back to the base, as far as the angle between the models says.

# %%


def distance(state: dict[str, np.ndarray]) -> float:
    """Root mean square difference to the weights that all models are scattered around."""
    return float(np.sqrt(np.mean([(state[name] - right[name]) ** 2 for name in LAYERS])))


print(f"one model              {distance(models[0]):.4f}")
print(f"linear                 {distance(stockpot.merge(models, method='linear').state):.4f}")
for scale in (1.0, 1 / 3):
    merged = stockpot.merge(models, method="task_arithmetic", base=base, scale=scale)
    print(f"task arithmetic, {scale:.2f}  {distance(merged.state):.4f}")
merged = stockpot.merge(models, method="stock", base=base)
print(f"stock                  {distance(merged.state):.4f}")

# %% [markdown]
# ## What was decided
#
# The report of a merge says what the method computed on the way: here Model Stock's `ratio`, the
# share of the mean in every layer. Half of every model's step is noise, so with three models the
# best share of the mean is 3/4.

# %%
print({name: round(ratio, 2) for name, ratio in merged.report.fact("ratio").items()})
