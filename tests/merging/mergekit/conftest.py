"""Small models, and a way to read a mergekit file that merges them."""

from __future__ import annotations

import textwrap

import pytest

from stockpot.compat import import_transformers
from stockpot.errors import RecipeError
from stockpot.merging.merge import run_merge
from stockpot.merging.recipe import load_recipe

from ..models import numpy_states, write_states

SHAPES = {
    "embed.weight": (7, 6),
    **{
        f"layers.{layer}.{name}": shape
        for layer in range(4)
        for name, shape in (("attn.weight", (6, 6)), ("mlp.weight", (9, 6)), ("norm.bias", (6,)))
    },
    "norm.weight": (6,),
    "head.weight": (7, 6),
}


@pytest.fixture(scope="session")
def transformers():
    """The package; skips where it is missing."""
    pytest.importorskip("transformers")
    return import_transformers()


@pytest.fixture
def states():
    """A base and three models of four layers, as states."""
    base, models = numpy_states(3, std=0.5, shapes=SHAPES)
    return {"base": base, "a": models[0], "b": models[1], "c": models[2]}


@pytest.fixture
def recipe(tmp_path, states):
    """Write a recipe beside the models ``base``, ``a``, ``b`` and ``c``; gives its path."""
    base, paths = write_states(tmp_path, states["base"], [states[name] for name in "abc"])
    base.rename(tmp_path / "base.safetensors")
    for name, path in zip("abc", paths, strict=True):
        path.rename(tmp_path / f"{name}.safetensors")

    def write(text):
        path = tmp_path / "recipe.yaml"
        names = {f"<{name}>": str(tmp_path / f"{name}.safetensors") for name in states}
        text = textwrap.dedent(text)
        for name, full in names.items():
            text = text.replace(name, full)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def merged(recipe):
    """The state that a recipe makes."""
    return lambda text: run_merge(load_recipe(recipe(text))).state


@pytest.fixture
def problems(recipe):
    """What is wrong with a recipe."""

    def found(text):
        with pytest.raises(RecipeError) as caught:
            load_recipe(recipe(text))
        return caught.value.problems

    return found
