"""Write docs/methods.md from the declarations of the methods: ``python docs/make_methods.py``.

A test compares the file with what this writes, so the page cannot go stale.
"""

from __future__ import annotations

from pathlib import Path

from stockpot.merging.method import Method, Parameter, get_method
from stockpot.merging.methods import BUILTIN

PAGE = Path(__file__).parent / "methods.md"

OPENING = """\
# Merge methods

<!-- Written by docs/make_methods.py; change the declarations, not this page. -->

`stockpot merge --method NAME`, `method: NAME` in a recipe, or `stockpot.merge(..., method="NAME")`.
theta_0 is the base, theta_i model i, tau_i = theta_i - theta_0 its task vector, k their number.

What holds for all of them, and is tested for each: sums in float64, arithmetic in float32 (float64
for 32-bit weights), one rounding at the end. Block size and threads change no bit. Equal models
and base give the same bytes back. NaN and infinity are refused, with tensor and position. Fewer
than 1 in 10,000 bfloat16 results differ from the correctly rounded float64 formula. Entries equal
to a threshold are all kept, so the order of entries and of models decides nothing.

`ties`, `sce`, `breadcrumbs`, `stock`, `karcher` and `nuslerp` give mergekit 0.1.5's numbers,
`iso_c`, `iso_cts`, `tsv`, `wudi` and `emr` those of fusion_bench 0.2.33, to float64 accuracy, where
these round nothing: `python benchmarks/merge_oracles.py PYTHON_THAT_HAS_BOTH`.

## Which one

| you have | start with |
|---|---|
| several fine-tunings of one base on one task | `linear`; with two of them `stock` |
| fine-tunings of one base, different tasks, no data | `ties`, `tsv`, `iso_c`, `ace`; slow: `wudi` |
| ... and validation data to tune on | `task_arithmetic`, `consensus`, `breadcrumbs`, `lines` |
| ... and unlabelled examples of each task | `regmean`, `fisher`, `adamerging` |
| ... and a few labelled examples of one new task | `cocktail`, `self_position` |
| ... and the task of each input is known | `emr`, `tall` |
| one fine-tuning, no data, and the wish to lose less elsewhere | `monosoup` |
| two models, and the wish to go from one to the other | `slerp`, `nuslerp` |
| models trained one after another | `magmax` |

"""

WHEN = {
    "ace": "No data, where RegMean would need inputs of each task. Solves one linear system a "
    "matrix, as large as its columns.",
    "adamerging": "Unlabelled inputs of every task. Coefficients are learnt first "
    "(`stockpot.merging.methods.adamerging.learn_coefficients`), merging itself needs no torch. "
    "Transductive where these are the test inputs.",
    "breadcrumbs": "Many task vectors: outliers and noise go, fewer hyper-parameters to tune per "
    "task. Tune `scale`.",
    "cocktail": "A new task with a handful of labelled examples, and several models to mix for it.",
    "consensus": "Many tasks: drops entries that serve one task only, or none. Tune `cut`.",
    "dare": "Task vectors of large language models, which bear losing most entries. Seeded by "
    "tensor name, so it is reproducible.",
    "della": "As DARE, with large entries safer than small ones.",
    "doge": "No data, some minutes of computing: task vectors with less conflict.",
    "emr": "The task is known when the model is used: nearly the accuracy of each own model, for "
    "one model and one bit an entry and task.",
    "fisher": "One `fisher` file a model (`stockpot.merging.statistics.fisher_information`).",
    "iso_c": "No data, similar tasks. Tune `scale`.",
    "iso_cts": "No data, many or dissimilar tasks. Tune `scale`.",
    "karcher": "Models of different norm or far apart, where a straight average shrinks weights.",
    "keep_zeros": "Pruned models: the result has their zeros. On top of any other method that "
    "gives one model: `keep_zeros+NAME`, for instance `keep_zeros+ties`.",
    "linear": "The default: fine-tunings of one base on one task (model soup).",
    "lines": "Multi-task merging that must not spoil early layers. On top of any other method "
    "that gives one model: `lines+NAME`, for instance `lines+ties`.",
    "magmax": "Models trained one after another, each from the last.",
    "monosoup": "A single fine-tuned checkpoint that lost robustness: nothing to tune, no second "
    "run. On top of any other method that gives one model: `monosoup+NAME`, for instance "
    "`monosoup+linear`, the MonoSoup of an average.",
    "nuslerp": "As SLERP, on task vectors where a base is given, and by rows if wished.",
    "pcb": "No data, tasks that compete for the same entries.",
    "ram": "Models trained by reinforcement learning: sparse changes that hardly overlap.",
    "ram_plus": "As RAM, with unique changes strengthened where models overlap.",
    "regmean": "One `gram` file a model (`stockpot.merging.statistics.input_grams`): linear layers "
    "whose outputs stay near those of the models.",
    "sce": "Models of different sources with one base: where they differ most, weighted by how "
    "much each moved.",
    "slerp": "Two models; a path between them that keeps norms.",
    "stock": "Two or more fine-tunings of one base on one task: as good as averaging many.",
    "tall": "As EMR, with masks that say where a task's information lies.",
    "task_arithmetic": "Several tasks and a validation set for `scale`; negative weights forget.",
    "ties": "Several tasks, no data: the usual baseline. Vision models: "
    "`consensus: agreeing_sum`, `scale: 0.3`.",
    "tsv": "No data, several tasks: among the best without any. Two matrix decompositions more "
    "than there are tasks.",
    "wudi": "No data, an optimisation for each matrix (`solver: exact` finds its end at once).",
}

LEARNT = """\
## Coefficients learnt from data

`learn_coefficients` (AdaMerging: entropy on unlabelled batches) and
`stockpot.merging.methods.self_positioning.self_position` (Self Positioning, arXiv 2410.15035: loss
on a small probe set, SGD over the interpolation space) and
`stockpot.merging.methods.frank_wolfe.frank_wolfe` (FW-Merging, arXiv 2503.12649: steps towards the
model that lowers the loss of labelled batches most; many models, most of which do not help) take a
module and states, need torch, and give `LearnedCoefficients`. Its `save` writes one small file a
model, which the method `adamerging` reads:

```python
learnt = learn_coefficients(module, base, models, batches_of_each_task)
files = learnt.save(folder)
merged = stockpot.merge(models, method="adamerging", base=base, coefficients=files)
```

## Task models from a packed one

```python
packed = stockpot.merge(models, method="emr", base=base).state
state = stockpot.merging.methods.packed.unpack(packed, base, task=0)
```

## A method of your own

One decorated function; see `stockpot.merging.method` for what a block is. It gets validation,
recipes and the command line from its declaration, and the contract above as tests from
`stockpot.merging.testing`.
"""


def parameter_line(parameter: Parameter) -> str:
    default = "required" if parameter.default is None else f"default {parameter.default}"
    return f"- `{parameter.name}` ({parameter.range}; {default}): {parameter.help}."


def section(method: Method) -> str:
    models = method.models
    lines = [
        f"### `{method.name}`: {method.title}",
        "",
        f"    {method.formula}",
        "",
        f"{WHEN[method.name]}",
        "",
        f"Source: {method.source}.",
    ]
    needs = {"required": "Needs the base.", "optional": "A base is optional.", "none": "No base."}
    counts = f" Takes {models[0]} models." if models[0] == models[1] else ""
    files = "".join(f" Reads one `{kind}` file a model." for kind in method.extras)
    lines += [needs[method.base] + counts + files, ""]
    lines += [parameter_line(parameter) for parameter in method.parameters]
    return "\n".join(lines).rstrip() + "\n"


def page() -> str:
    methods = [get_method(name) for name in sorted(BUILTIN)]
    table = ["## All methods", "", "| method | formula | source |", "|---|---|---|"]
    for method in methods:
        anchor = f"[`{method.name}`](#{method.name})"
        formula = method.formula.replace("|", "\\|")
        table.append(f"| {anchor} | `{formula}` | {method.source.replace('|', chr(92) + '|')} |")
    sections = "\n".join(f'<a id="{method.name}"></a>\n\n{section(method)}' for method in methods)
    return OPENING + "\n".join(table) + "\n\n## Each of them\n\n" + sections + "\n" + LEARNT


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
