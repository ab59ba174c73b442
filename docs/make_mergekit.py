"""Write docs/mergekit.md from the declaration: ``python docs/make_mergekit.py``.

A test compares the file with what this writes, so the page cannot go stale.
"""

from __future__ import annotations

from pathlib import Path

from stockpot.merging.mergekit.declaration import (
    KEYS,
    METHOD_NOTES,
    PARAMETER_NOTES,
    UNROUNDED,
    VERSION,
    foreign_method,
    foreign_parameters,
    scalar_kind,
)
from stockpot.merging.method import Method, PerModel
from stockpot.merging.methods import BUILTIN, MERGEKIT
from stockpot.merging.parameters import Parameter

PAGE = Path(__file__).parent / "mergekit.md"

OPENING = f"""\
# mergekit's recipes

<!-- Written by docs/make_mergekit.py; change the declaration, not this page. -->

`stockpot merge recipe.yml -o merged` reads a file of mergekit {VERSION} as mergekit does: its
methods, parameters, defaults, conditions, gradients, slices and modules. Every key is taken by its
name; one that mergekit does not have is refused with its line before a byte is written. What is
read and has no effect is said as a note. `python benchmarks/mergekit_parity.py` merges hundreds of
recipes with both tools: [results](results/mergekit_parity.md).

mergekit's method names work everywhere: `--method dare_ties` is mergekit's method with mergekit's
parameters and defaults. Where stockpot has a method of that name, `--method ties` is stockpot's
(see [methods.md](methods.md)), and `--method mergekit:ties` mergekit's.

How a value is found, for a parameter of a tensor:

1. The table of the model, of the slice, of the module and of the file are asked in this order.
   A parameter that not every model has of its own is not looked for in a model's table.
2. A list of conditions gives the value of the first whose `filter` is a part of the tensor's name
   (`*` and no filter: any). Where none holds, the next table is asked.
3. A list of numbers is a gradient over the layers of the slice, first to last. Embeddings, norm and
   head take its first number; a slice of one layer its last.

Embeddings are made as the first slice says, norm and head as the last one says. Of architectures
that mergekit has no list for, everything outside the layers is made as the first slice says.

What differs, and is said with the result:

- In 16 bits, {UNROUNDED}. Inputs are rounded to `dtype` before they are merged, as is what
  is ranked or voted on.
- Of entries of equal size at a limit the first are taken.
- Random masks are drawn from stockpot's own numbers.

A file of `mergekit-moe` is read the same way (tables *mixture* and *expert* below): attention,
embeddings, norms and head of the base, feed-forward blocks of the models as experts. Llama and
Mistral become Mixtral, Qwen 2 (with one shared expert) Qwen2-MoE, Qwen 3 Qwen3-MoE. Routers of
`cheap_embed` are mergekit's to 1e-7; `hidden` ones are computed in the type of the base's file
(mergekit: bfloat16); random ones are drawn from stockpot's own numbers. Experts are named as files
name them, so that other tools find them. Experts that are equal compute what the dense model does.

```yaml
base_model: mistralai/Mistral-7B-v0.1
gate_mode: cheap_embed                # hidden, hidden_avg, hidden_last, random, uniform_random
experts:
  - source_model: path/to/mathematics
    positive_prompts: ["prove that", "the integral of"]
  - source_model: path/to/poems
    positive_prompts: ["a sonnet on"]
```

`mergekit-extract-lora` is `--rank`; options of mergekit's command line are no part of this
language.
"""


def keys() -> str:
    rows = ["## Keys", "", "| table | key | here | |", "|---|---|---|---|"]
    for key in KEYS:
        fate = {"same": "same", "noted": "same, with a note", "refused": "refused"}[key.fate]
        rows.append(f"| {key.table} | `{key.name}` | {fate} | {key.note} |")
    return "\n".join(rows) + "\n"


def methods() -> str:
    parts = ["## Methods and parameters", ""]
    for name in MERGEKIT:
        method = foreign_method(name)
        parts += [f"### `{name}`: {method.title}", "", f"    {method.formula}", ""]
        parts.append(f"{inputs(method)} {ours(name)}".strip())
        if name in METHOD_NOTES:
            parts += ["", f"Note: {METHOD_NOTES[name]}."]
        parts += ["", "| parameter | default | here | |", "|---|---|---|---|"]
        parts += [line(parameter) for parameter in foreign_parameters(method).values()]
        parts.append("")
    return "\n".join(part for part in parts)


def inputs(method: Method) -> str:
    low, high = method.models
    count = f"{low}" if low == high else f"{low} or more"
    words = {
        "required": f"The base, and {count} other{'' if count == '1' else 's'}.",
        "optional": f"{count} models besides a base, which is optional.",
        "none": f"{count} model{'' if count == '1' else 's'}; a base is merged like any other.",
    }
    return words[method.base]


def ours(name: str) -> str:
    """How to ask for the method by name."""
    return f"By name: `mergekit:{name}`." if name in BUILTIN else f"By name: `{name}`."


def line(parameter: Parameter) -> str:
    kind = scalar_kind(parameter)
    default = "required" if kind.default is None else f"`{kind.default}`"
    whose = " (of each model)" if isinstance(parameter, PerModel) else ""
    note = PARAMETER_NOTES.get(parameter.name)
    fate = "same" if note is None else "same, with a note"
    words = note or parameter.help or kind.help
    return f"| `{parameter.name}`{whose} | {default} | {fate} | {words} |"


def page() -> str:
    return "\n".join([OPENING, keys(), methods()]).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
