"""Write docs/recipes.md from the recipe's own declaration: ``python docs/make_reference.py``.

A test compares the file with what this writes, so the page cannot go stale.
"""

from __future__ import annotations

import typing
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from stockpot.backbones.spec import BackboneSpec
from stockpot.evaluation.metrics import METRICS
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.recycling.recipe import (
    Auxiliary,
    AuxiliaryTraining,
    ConnectivitySettings,
    Draw,
    Final,
    Periodic,
    Recipe,
    Swad,
    Training,
)
from stockpot.tasks import specs
from stockpot.trainers.recipe import NamedTrainer, OtherStart, TrainerRecipe

PAGE = Path(__file__).parent / "recipes.md"
NOTES = PAGE.with_name("recipes.notes.md")
SURE = PAGE.with_name("recipes.sure.md")
TRAINERS = PAGE.with_name("trainers.md")

OPENING = """\
# Recipes for `stockpot recycle`

<!-- Written by docs/make_reference.py; change the declarations, not this page. -->

A recipe is one YAML file: a task with domains, a backbone, weights to start from, and how to train.
Relative paths start at the recipe's folder. The whole file is checked before anything runs, and all
problems are named with their lines. `--set training.steps=100` changes a value on the command
line, `--dry-run` lists the jobs.

```yaml
task: {kind: images, path: photos, size: 128}       # photos/<domain>/<class>/<file>
backbone: {kind: timm, name: resnet50.a1_in1k, weights: resnet50.safetensors}
auxiliaries:
  - {name: wild, weights: somebody-elses.safetensors}
held_out: [sketches]
```
"""

DATA = """\
## Data and splits

What a model is judged on is said by `held_out`, and what the data says of itself is kept. Every run
says in `results.json` what it judged on (`task.judged_on`, and of each cell `judged_on`,
`held_out_domains` and `examples`): `held-out domains`, which no run has seen, or `test rows` of the
same sources, which is an easier question.

**Domains in turn, or together.** A list holds out each domain in turn. A list in it holds out
several at once. `train_domains` names what is trained on; all other domains are held out together.
The table has a column for each domain that is judged on; the mean is over these columns.

```yaml
task: {kind: text, path: reviews.csv}               # text,label,domain
held_out: [tweets, [movies, products]]              # two comparisons
```

```yaml
task: {kind: text, path: reviews.csv}
train_domains: [movies]                             # judged on products and tweets
```

**One source.** Where there is one domain, or with `held_out: none`, models are judged on test rows
of the same source: `test_fraction` of every domain. They are the same in every trial, since an
average over trials would else have trained on them. A table needs no column of domains.

```yaml
task: {kind: text, path: shop.csv}                  # text,label
test_fraction: 0.25
```

**Fixed splits.** A column `split` (an array `splits` in an `.npz` file) with the values train,
validation (or valid, val, dev) and test is kept exactly. So are files of their own, and folders
with these names above the classes: they are never taken for domains. Validation rows are drawn from
the training rows only where there are none. Test rows of a training domain are in-distribution test
rows: they are never trained on, and judged on where no domain is held out. A held-out domain is
judged on its test rows, or on all its rows where it has none. `split: null` ignores the column or
the names of the folders.

```yaml
task: {kind: text, path: train.csv, validation: valid.csv, test: test.csv}
```

```yaml
task: {kind: images, path: photos}                  # photos/{train,valid,test}/<class>/<file>
```

**Groups.** Rows of one group (a patient, an author, an identity) stay on one side of training,
validation and test. Which side depends on the seed and the group's name alone; only a domain whose
groups would all fall on one side gives the one nearest to the limit to the other. Groups in two
fixed splits are refused. `unseen_groups: true` also keeps groups apart across domains: of those
that a held-out domain shares with the others, `test_fraction` are left out of training, and the
rest out of the test.

```yaml
task: {kind: text, path: notes.csv, group: patient}
held_out: [north]
unseen_groups: true
```

**Tables of images.** A CSV, TSV, JSON Lines or Parquet file lists images with the columns image and
label, and if wanted domain, split and more. Paths start at the table's folder. A missing or corrupt
image is named with its line.

```yaml
task: {kind: images, path: photos.csv, group: photographer}
held_out: none
```

Splits depend on `seed`, the trial and the names of domains and groups alone. An auxiliary that is
trained on the target's own images (`rotation: true`) never sees test rows. `final.train_on: all`
trains the model that is kept on all domains, but not on fixed test rows.
"""

METRICS_OPENING = """\
## Metrics

`metric` is what the best step of a run, the best run and the members of a greedy soup are chosen
by, what `auto` compares on validation rows, and what the table and its intervals show. `also` are
reported beside it, in the report's "Other metrics" and under `also` in `results.json`; nothing is
chosen by them.

```yaml
metric: macro_f1
also: [accuracy, log_loss, auroc]
```

By default `metric` is `accuracy`, or `r2` for regression; `also` holds the others that always have
a value (all but `auroc` and `r2`). WiSE-FT's coefficient is chosen by the validation loss,
whatever the metric.

- Every domain has its own value; several domains are averaged plainly. `greedy_on: pooled` weighs
  domains by their rows.
- Every row has a score whose mean is the metric on these rows. For balanced accuracy, macro-F1,
  AUROC, calibration error and RMSE that is the metric plus the row's influence on it (its
  derivative by the row's weight), so that intervals from redrawn rows are right to first order.
  The scores of `r2` take the variance of the labels as known.
- In `metrics.json` and `results.json` a score is always higher-is-better: log-loss, calibration
  error, RMSE and MAE stand there with a minus sign. Keys such as `accuracy` and `id_accuracy` hold
  the chosen metric; `task.metric` and `task.metrics` say which it is. Reports, tables and model
  cards show the plain value.
- A class without rows: balanced accuracy and AUROC leave it out; macro-F1 counts it as 0 when it
  is predicted, else leaves it out, as scikit-learn does. AUROC is refused before any work where
  all rows of a domain have one class, R2 where all labels are the same.
- Log-loss comes from the logits, so nothing is clipped. An ensemble's probabilities are the mean
  of its members'.
- AUROC of two classes is the usual one. F1 of two classes is the mean of both classes' F1.
"""

SECTIONS: list[tuple[str, str, type[BaseModel]]] = [
    ("The recipe", "", Recipe),
    ("`backbone`", "", BackboneSpec),
    ("`training`", "", Training),
    ("`training: draw`", "", Draw),
    ("`training: swad`", "", Swad),
    ("`auxiliaries`", "A list; each is one of three kinds.", Auxiliary),
    ("`auxiliaries: - training`", "", AuxiliaryTraining),
    ("`periodic`", "", Periodic),
    ("`connectivity`", "", ConnectivitySettings),
    ("`final`", "", Final),
]
TASKS = [
    specs.ImageFolderSpec,
    specs.TextSpec,
    specs.ArraySpec,
    specs.DatasetsSpec,
    specs.RotatedMnistSpec,
    specs.ColoredMnistSpec,
    specs.RotationSpec,
    specs.FunctionSpec,
]


_TABLES = "<!-- tables: written by docs/make_reference.py -->\n"
_END = "<!-- end of tables -->"


def page() -> str:
    """The page as Markdown."""
    parts = [OPENING, DATA]
    for title, words, model in SECTIONS:
        parts.append(f"## {title}\n")
        parts.append(words or _paragraph(model) + "\n")
        parts.append(_table(model))
    parts.append("## `task`\n")
    for model in TASKS:
        kind = get_args(model.model_fields["kind"].annotation)[0]
        parts.append(f"### `kind: {kind}`\n\n{_paragraph(model)}\n")
        parts.append(_table(model, leave=("kind",)))
    parts.append(METRICS_OPENING)
    parts.append(_metrics())
    parts.append("## `protocols`\n")
    parts.append(_protocols())
    parts.append(NOTES.read_text(encoding="utf-8"))
    parts.append(SURE.read_text(encoding="utf-8"))
    return "\n".join(part.rstrip() + "\n" for part in parts)


def trainers() -> str:
    """``docs/trainers.md`` with its tables."""
    before, _, rest = TRAINERS.read_text(encoding="utf-8").partition(_TABLES)
    parts = [before, _TABLES, "\n", _table(TrainerRecipe)]
    for title, model in (("trainer", NamedTrainer), ("auxiliaries", OtherStart)):
        parts.append(f"\n### `{title}`\n\n{_paragraph(model)}\n\n{_table(model)}")
    return "".join([*parts, "\n", _END, rest.partition(_END)[2]])


def _paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _table(model: type[BaseModel], leave: tuple[str, ...] = ()) -> str:
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for name, info in model.model_fields.items():
        if name in leave:
            continue
        default = _default(info)
        words = (info.description or "").replace("|", "\\|").replace("\n", " ")
        rows.append(f"| `{name}` | {_type(info.annotation)} | {default} | {words} |")
    return "\n".join(rows) + "\n"


def _default(info: Any) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return ""
    if isinstance(value, Draw):
        return f"`{value.model_dump(exclude_defaults=True)}`"
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, list):
        value = [round(each, 6) if isinstance(each, float) else each for each in value]
    return f"`{value}`"


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " / ".join(f"`{each}`" for each in arguments)
    if origin in (UnionType, typing.Union):
        return " or ".join(dict.fromkeys(_type(e) for e in arguments if e is not NoneType))
    if origin in (list, tuple):
        inner = _type(arguments[0])
        return f"list of ({inner})" if " or " in inner else f"list of {inner}"
    if origin is dict:
        return "mapping"
    if annotation is Draw:
        return "`draw`"
    if annotation is Any:
        return "value"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "see `task`" if annotation.__name__.endswith("Spec") else "see below"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true / false"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


def _metrics() -> str:
    rows = ["| name | for | better | best | what it is | source |", "|" + "---|" * 6]
    for metric in METRICS.values():
        better = "higher" if metric.higher_is_better else "lower"
        best = metric.high if metric.higher_is_better else metric.low
        rows.append(
            f"| `{metric.name}` | {metric.kind} | {better} | {best:g} | {metric.formula} "
            f"| {metric.source} |"
        )
    return "\n".join(rows) + "\n"


def _protocols() -> str:
    rows = [
        "| name | row | runs | weights of a run | chosen | combined | paper |",
        "|" + "---|" * 7,
    ]
    for row in PROTOCOLS.values():
        paper = f"[{row.source}](https://arxiv.org/abs/{row.source})" if row.source else ""
        pool = row.pool + (" of all trials" if row.over_trials else "")
        rows.append(
            f"| `{row.name}` | {row.label} | {pool} | {row.take} | {row.select} | {row.combine} "
            f"| {paper} |"
        )
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    TRAINERS.write_text(trainers(), encoding="utf-8")
