"""A recipe: what to train, from which weights, and which protocols to compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stockpot.backbones.spec import BackboneSpec
from stockpot.declared import Declared, VerbRecipe
from stockpot.evaluation.metrics import METRICS
from stockpot.recycling.protocols import PROTOCOLS
from stockpot.tasks.specs import TaskSpec
from stockpot.yaml_lines import suggestion

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


AUTO = "auto"


class Draw(Declared):
    """What run 0 takes, and what the other runs draw from: ``choices``, or ``low`` to ``high``."""

    first: float = Field(description="the value of run 0")
    choices: list[float] | None = Field(None, min_length=1, description="each is as likely")
    low: float | None = Field(None, description="least value of a range")
    high: float | None = Field(None, description="largest value of a range")
    log: bool = Field(False, description="the range is uniform in the logarithm")

    @model_validator(mode="after")
    def _one_kind(self) -> Draw:
        limits = (self.low, self.high)
        if (self.choices is None) == (limits == (None, None)):
            raise ValueError("give either 'choices' or 'low' and 'high'")
        if self.choices is not None and self.log:
            raise ValueError("'log' is of the range from 'low' to 'high'; there are 'choices'")
        if self.choices is None:
            if self.low is None or self.high is None or self.low >= self.high:
                raise ValueError("'low' has to be below 'high'")
            if self.log and self.low <= 0:
                raise ValueError("with 'log', 'low' has to be above 0")
        return self

    @property
    def space(self) -> list[float] | Mapping[str, Any]:
        """What runs other than run 0 draw from, see ``draw_values``."""
        return self.choices or {"low": self.low, "high": self.high, "log": self.log}


class Swad(Declared):
    """Where SWAD's average starts and ends, by the validation loss."""

    converge: int = Field(3, ge=1, description="it starts at the least of so many losses in a row")
    tolerance: int = Field(6, ge=1, description="it ends before so many losses above the threshold")
    ratio: float = Field(0.3, ge=0, description="the threshold: so much above the first losses")


class Training(Declared):
    """How one fine-tuning goes. A list is a set of values from which each run draws one.

    The first value of a list is the default, which run 0 of every pool takes. Draws and seeds of a
    run depend on the trial and the run's number; the draws are the same for every held-out domain.
    """

    steps: int | None = Field(None, ge=1, description="optimizer steps of one run [default: 300]")
    epochs: Positive | None = Field(
        None, description="instead of steps: as many as see so many times the training examples"
    )
    batch_size: int = Field(16, ge=1, description="examples per training domain and step")
    accumulate: int = Field(1, ge=1, description="batches whose gradients add up to one step")
    learning_rate: list[Positive] | Positive | Draw = Field(
        [5e-5, 3e-5, 1e-5], description="one value, or values to draw from, or a `draw`"
    )
    weight_decay: list[NotNegative] | NotNegative | Draw = Field(
        Draw(first=0.0, choices=[1e-4, 1e-6]), description="likewise"
    )
    dropout: list[Fraction] | Fraction | Draw = Field(
        [0.0, 0.1, 0.5], description="between featurizer and head; likewise"
    )
    head_only_steps: int | None = Field(
        None,
        ge=0,
        description="first steps of a run that starts from auxiliary weights "
        "[default: 4 % of the steps]",
    )
    evaluate_every: int = Field(50, ge=1, description="steps between validations")
    average_from: Fraction = Field(
        0.02, description="part of the run after which the moving average starts"
    )
    average_at: Literal["best", "end"] = Field(
        "best", description="best: a second validation at each, for the average, picks one"
    )
    swad: Swad = Field(Swad(), description="the loss valley; it starts at the first full step")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="DomainBed uses adam")
    momentum: float | None = Field(None, ge=0, lt=1, description="of sgd [default: 0.9]")
    nesterov: bool = Field(False, description="of sgd")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="of the learning rate after the warm-up: it stays, or falls to 0"
    )
    warmup_steps: int | None = Field(
        None, ge=0, description="full steps in which the rate rises from 0 [default: 0]"
    )
    warmup_ratio: Fraction | None = Field(None, description="instead: part of the full steps")
    clip_norm: Positive | None = Field(None, description="largest norm of the gradient")
    early_stopping: int | None = Field(
        None, ge=1, description="end a run after so many evaluations without a new best"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="of the target: label mass that goes to all classes"
    )
    class_weights: Literal["balanced"] | dict[str | int, Positive] | None = Field(
        None, description="of the target: balanced, or weights by class; 1 for the others"
    )
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="mixed precision")
    augmentation: bool = Field(True, description="of images: crop, flip, colour, grey")
    views: int = Field(4, ge=1, description="augmented views kept per image when blocks are frozen")
    limit_per_domain: int | None = Field(
        None, ge=2, description="at most so many examples of each domain, held out or not"
    )
    validation_fraction: float = Field(
        0.2, gt=0, lt=1, description="part of each training domain kept for validation"
    )

    @field_validator("learning_rate", "weight_decay", "dropout")
    @classmethod
    def _not_empty(cls, value: list[float] | float | Draw) -> list[float] | float | Draw:
        if value == []:
            raise ValueError("the list of values to draw from is empty")
        return value

    @model_validator(mode="after")
    def _no_two_of_one(self) -> Training:
        for one, other in (("steps", "epochs"), ("warmup_steps", "warmup_ratio")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"give one of '{one}' and '{other}', not both")
        for name in ("momentum", "nesterov"):
            if getattr(self, name) and self.optimizer != "sgd":
                raise ValueError(f"'{name}' is of the optimizer sgd, not of {self.optimizer}")
        return self


class AuxiliaryTraining(Declared):
    """How an auxiliary is made; what is not given is as in ``training``."""

    steps: int | None = Field(None, ge=1)
    epochs: Positive | None = None
    batch_size: int | None = Field(None, ge=1)
    learning_rate: Positive | None = None
    limit_per_domain: int | None = Field(None, ge=2)

    @model_validator(mode="after")
    def _one_length(self) -> AuxiliaryTraining:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give one of 'steps' and 'epochs', not both")
        return self


class Auxiliary(Declared):
    """Weights to start from besides the base: from the wild, or trained by the recipe.

    Exactly one of ``weights`` (a checkpoint of the same base), ``task`` (fine-tune the base on it),
    and ``rotation`` (predict the rotation of the target's own training images).
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    weights: str | None = None
    task: TaskSpec | None = None
    rotation: bool = False
    accept_doubt: bool = Field(
        False, description="use ``weights`` although the lineage test leaves a doubt"
    )
    training: AuxiliaryTraining = AuxiliaryTraining()

    @model_validator(mode="after")
    def _one_source(self) -> Auxiliary:
        given = [self.weights is not None, self.task is not None, self.rotation]
        if sum(given) != 1:
            raise ValueError("give exactly one of 'weights', 'task' and 'rotation: true'")
        if self.accept_doubt and self.weights is None:
            raise ValueError("'accept_doubt' is about 'weights' from the wild; there are none")
        return self


class Final(Declared):
    """Which model the output folder holds."""

    protocol: str = Field(
        AUTO, description="auto: the one that validation chooses; or a protocol by name"
    )
    at_least: Literal["probe", "best_run"] | None = Field(
        None, description="keep no model that validation says is worse than this"
    )
    train_on: Literal["first", "all"] = Field(
        "first", description="the first held-out domain's model, or one trained on all domains"
    )


class Periodic(Declared):
    """Model Stock during training."""

    every: int = Field(50, ge=1, description="steps between two merges")
    models: int = Field(2, ge=2)
    optimizer_state: Literal["keep", "reset"] = "keep"


class ConnectivitySettings(Declared):
    """How finely paths between weights are looked at for the diagnosis."""

    points: int = Field(7, ge=3, description="interpolation coefficients per path, ends included")
    examples: int = Field(300, ge=20, description="validation and held-out examples per point")


class Recipe(VerbRecipe):
    """The whole of it. Relative paths start at the recipe's own folder."""

    title: str = Field("Recycling", description="the report's headline")
    task: TaskSpec = Field(description="the data, with domains")
    backbone: BackboneSpec = Field(description="the base")
    held_out: list[str | list[str]] | Literal["all", "none"] = Field(
        "all",
        description="domains never trained on, which results are judged on: each in turn, those of "
        "a list in the list together; none: judge on test rows of the same sources, as with all "
        "where there is one domain",
    )
    train_domains: list[str] | None = Field(
        None,
        min_length=1,
        description="train on these; all others are held out together (instead of held_out)",
    )
    test_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="part of each domain set apart to judge on where no domain is held out and the "
        "data has no test rows of its own",
    )
    unseen_groups: bool = Field(
        False,
        description="judge held-out domains on groups that training does not see: of those that "
        "both have, test_fraction are left out of training and the others out of the test",
    )
    trials: int = Field(1, ge=1, description="independent splits; results are averaged over them")
    seed: int = Field(0, ge=0, description="of splits, draws and training")
    runs: int = Field(4, ge=2, description="fine-tunings from the base, and from all inits in turn")
    side_runs: int | None = Field(
        None,
        ge=1,
        description="fine-tunings for fusing, trajectory inits and Model Stock [default: runs]",
    )
    stock_runs: Literal["seeds", "plain"] = Field(
        "seeds",
        description="what Model Stock merges: runs that differ by their seed alone, "
        "or those of the soups, which costs no training",
    )
    training: Training = Field(Training(), description="one fine-tuning")
    auxiliaries: list[Auxiliary] = Field([], description="weights to start from besides the base")
    trajectory: list[Fraction] = Field(
        [1 / 3, 2 / 3], description="parts of run 0 after which its weights serve as inits"
    )
    periodic: Periodic = Field(Periodic(), description="Model Stock during training")
    connectivity: ConnectivitySettings = Field(
        ConnectivitySettings(), description="paths between weights"
    )
    metric: str | None = Field(
        None,
        description="what steps, runs and members are chosen by, and the table shows "
        "[default: accuracy, or r2 for regression]",
    )
    also: list[str] | None = Field(
        None,
        description="metrics shown beside it [default: those below that are always defined]",
    )
    greedy_on: Literal["pooled", "mean"] = Field(
        "pooled", description="greedy accepts by the score over all rows, or the mean over domains"
    )
    protocols: list[str] | None = Field(None, description="default: all that the recipe allows")
    final: Final = Field(Final(), description="the model that is kept")
    threads: int = Field(1, ge=1, description="CPU threads of a job; results depend on it")
    trainer: Literal["built-in"] = Field(
        "built-in", exclude=True, description="what fine-tunes; your own: docs/trainers.md"
    )
    resamples: int = Field(2000, ge=100, description="bootstrap resamples for the intervals")

    @field_validator("held_out", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return "none" if value is None else value

    @field_validator("held_out")
    @classmethod
    def _sets(cls, value: list[str | list[str]] | str) -> list[str | list[str]] | str:
        if isinstance(value, str):
            return value
        if not value or [] in value:
            raise ValueError("name at least one domain, 'all' or 'none'")
        sets = [{one} if isinstance(one, str) else set(one) for one in value]
        for one, names in zip(value, sets, strict=True):
            if sets.count(names) > 1 or (not isinstance(one, str) and len(names) < len(one)):
                raise ValueError(f"{one!r} names a domain twice, or stands twice")
        return value

    @field_validator("trainer", mode="before")
    @classmethod
    def _ours(cls, value: Any) -> Any:
        if value != "built-in":
            raise ValueError(
                "is 'built-in' here; a trainer of your own is a mapping, which `stockpot recycle` "
                "reads, and in Python stockpot.trainers.recycle_with"
            )
        return value

    @field_validator("protocols")
    @classmethod
    def _known(cls, names: list[str] | None) -> list[str] | None:
        for name in names or []:
            if name not in PROTOCOLS:
                raise ValueError(f"unknown protocol '{name}'{suggestion(name, list(PROTOCOLS))}")
        return names

    @field_validator("metric", "also")
    @classmethod
    def _metric_known(cls, value: str | list[str] | None) -> str | list[str] | None:
        for name in [value] if isinstance(value, str) else value or []:
            if name not in METRICS:
                hint = suggestion(name, list(METRICS)) or f"; choose one of {', '.join(METRICS)}"
                raise ValueError(f"unknown metric '{name}'{hint}")
        return value

    @field_validator("final")
    @classmethod
    def _final_known(cls, final: Final) -> Final:
        known = [AUTO, *(name for name, protocol in PROTOCOLS.items() if protocol.gives_weights)]
        if final.protocol not in known:
            hint = suggestion(final.protocol, known) or f"; choose one of {', '.join(known)}"
            raise ValueError(f"'{final.protocol}' gives no single set of weights{hint}")
        return final

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.train_domains is not None and self.held_out != "all":
            raise ValueError("give one of 'held_out' and 'train_domains'")
        names = [auxiliary.name for auxiliary in self.auxiliaries]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"auxiliary '{sorted(twice)[0]}' stands twice")
        for name in self.protocols or []:
            if PROTOCOLS[name].pool in ("auxiliary", "fusing") and not self.auxiliaries:
                raise ValueError(f"protocol '{name}' needs 'auxiliaries'")
        inits = ["the base", *names]
        pools = {PROTOCOLS[name].pool for name in self.protocol_names}
        if "auxiliary" in pools and self.runs < len(inits):
            raise ValueError(
                f"runs: {self.runs} runs cannot start from {len(inits)} inits "
                f"({', '.join(inits)}): '{inits[self.runs]}' would never be used; "
                f"give {len(inits)} or more"
            )
        if self.final.protocol == AUTO:
            if not any(PROTOCOLS[name].can_be_final for name in self.protocol_names):
                raise ValueError(
                    "none of 'protocols' gives a set of weights that validation can choose; "
                    "add one, such as 'soup_uniform', or name one as final.protocol"
                )
        elif PROTOCOLS[self.final.protocol].pool in ("auxiliary", "fusing") and not names:
            raise ValueError(
                f"the final model's protocol '{self.final.protocol}' needs 'auxiliaries'"
            )
        elif self.final.protocol not in self.protocol_names:
            raise ValueError(
                f"the final model's protocol '{self.final.protocol}' is not among 'protocols'"
            )
        return self

    @property
    def protocol_names(self) -> list[str]:
        """Protocols to run, in the table's order; by default all for which there are weights."""
        if self.protocols is not None:
            return [name for name in PROTOCOLS if name in self.protocols]
        return [
            name
            for name, protocol in PROTOCOLS.items()
            if (self.auxiliaries or protocol.pool not in ("auxiliary", "fusing"))
            and (self.trials > 1 or not protocol.over_trials)
        ]


load_recipe, parse_recipe = Recipe.load, Recipe.parse
