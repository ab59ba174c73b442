"""What a merge method is, and everything its author needs to know.

A method is one function that turns a block of the parents' weights into a block of the result::

    from stockpot.merging.method import Block, Real, merge_method

    @merge_method(
        "half_way",
        title="Half way",
        formula="theta_0 + scale * mean_i(theta_i - theta_0)",
        source="Doe 2026, eq. 3",
        base="required",
        parameters=(Real("scale", 0.5, 0.0, 1.0, help="how far to go"),),
    )
    def half_way(block: Block, *, scale: float) -> Array:
        total = sum_arrays(block.deltas)
        total *= scale / block.count
        total += block.base
        return total

The decorator registers it; Python, YAML, the command line, validation and the contract tests follow
from the declaration. Methods of other packages are found through the entry point group
``stockpot.merge_methods`` (its value is the module, or the decorated function, to load).

**What a block is.** ``block.models`` holds one array a parent, ``block.base`` the base's (None
without one), all of the same shape and float dtype: float32 where the parents are 16-bit or
narrower, float64 where they are 32- or 64-bit. The engine rounds the returned array once, to
nearest even, to the dtype of the output. Arrays belong to the method: overwrite them (``a +=
b``), that is what makes it fast. ``block.deltas`` are ``models - base``, computed in place of the
models, which are gone afterwards. Methods that only add up take ``block.each_model()`` or
``block.each_delta()`` instead: one model at a time, so that twenty cost no more memory than three.

**Arrays** follow the array API standard; take functions from ``block.xp`` (``xp.abs``,
``xp.where``, ...), so that the same code runs on numpy blocks and on torch tensors of any device.
Operators and in-place operators are fine. Scalars must be Python numbers (float64 numpy scalars
would widen a float32 array under torch rules); take ``float(...)`` of statistics.

**Granularity** says how combine sees a tensor:

- ``"block"``: flat pieces, shape (n,), of any size. For methods that are elementwise given the
  statistics.
- ``"row"``: whole rows, shape (rows, columns), where a row is ``tensor[i]`` flattened; vectors
  and scalars are one row. Statistics of a row can be computed on the spot (``block.row_sum``).
- ``"tensor"``: the tensor whole and in its shape, a single number as (1,) (SVD, optimisation).
- ``"model"``: all tensors at once; the function gets a ``Models`` view and returns ``{name:
  array}``. Names beyond those of the base are allowed and are stored in the dtype they have.

``granularity`` and ``passes`` may be functions of the parameters (a dict) instead of constants.

**Statistics that need the whole tensor** (or the whole model) are gathered by passes that run
before combine. A ``Pass`` has ``reduce(block, **parameters)``, which returns named *additive*
statistics of a flat block, and optionally ``finish(statistics, tensor, **parameters)``, which
turns the sums into what later passes and combine read from ``block.statistics`` (computed once,
not once a block). With ``scope="model"`` sums run over all tensors and ``tensor`` is None. Kinds
of statistics:

- ``block.total(x)``: sum of the elements of x, float64.
- ``block.gram(vectors)``: all inner products, shape (k, k), float64.
- ``Count(x)``: integers, added. (``selection.py`` finds exact quantiles in passes of its own.)
- ``Largest(x)``: elementwise maximum.
- A subclass of ``Statistic`` of your own: how two of them are joined, and as which arrays one
  travels to another process or machine.

Bytes must not depend on block size or threads, and float addition is not associative. So sums are
taken over fixed chunks of 65,536 elements of the flattened tensor in one fixed order, and the
chunk sums are added exactly (``math.fsum``). The engine hands ``reduce`` whole chunks only. Do
not sum by hand in a block-granular combine.

**Randomness**: declare ``random=True``; a parameter ``seed`` appears. ``block.uniform(model)``
gives numbers in [0, 1) that depend on seed, tensor name, model and position of the element alone.

**What the method need not care about**: dtypes, NaN (reported by the engine with name and
position), integer buffers, heads, tensors that the base or a parent lacks (named policies of the
engine: a method only sees tensors that all of them have in one shape), devices, threads, files.

**What goes into the report**: values of ``block.statistics`` whose names are listed in ``report``.

**Contract** (proved for every method by ``tests/merging/methods``): equal parents give their
bytes; block sizes, threads and streaming do not change a bit; parameters refuse values outside
their range; share of bf16 results that differ from the correctly rounded float64 formula below
1e-4.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Literal

from stockpot.errors import MethodError
from stockpot.merging.block import (
    CHUNK,
    Array,
    Block,
    Count,
    Largest,
    Models,
    Statistic,
    Statistics,
    TensorShape,
    Total,
    sum_arrays,
)
from stockpot.merging.parameters import (
    Choice,
    Flag,
    Integer,
    Parameter,
    PerModel,
    Real,
    resolve,
)

__all__ = [
    "CHUNK",
    "Array",
    "Block",
    "Choice",
    "Count",
    "Flag",
    "Integer",
    "Largest",
    "Method",
    "Models",
    "Parameter",
    "Parameters",
    "Pass",
    "PerModel",
    "Real",
    "Statistic",
    "Statistics",
    "TensorShape",
    "Total",
    "available_methods",
    "get_method",
    "merge_method",
    "mergekit_methods",
    "sum_arrays",
]

Granularity = Literal["block", "row", "tensor", "model"]
Parameters = dict[str, Any]


# -------------------------------------------------------------------------------------- methods
def _unchanged(statistics: Statistics, tensor: TensorShape | None, **parameters: Any) -> Statistics:
    return statistics


def _always(statistics: Statistics) -> bool:
    return True


@dataclass(frozen=True)
class Pass:
    """One reading of the data before combine; see the module's text.

    reduce: ``(block, **parameters) -> {name: Statistic}``.
    finish: ``(statistics, tensor, **parameters) -> {name: value}``; gets all statistics so far,
        sums of this pass included, and returns those to keep.
    scope: sums over one tensor, or over all tensors of the model.
    sample: with a number, ``reduce`` gets of each larger tensor a single block of that many
        elements, taken in runs from all over it; for estimates only.
    needed: whether to read at all, from the statistics so far; if not, ``finish`` is not called.
    shows_nonfinite: whether NaN or infinity in any parent makes some sum non-finite; the parents
        are then searched only where that happens.
    """

    reduce: Callable[..., Mapping[str, Statistic]]
    finish: Callable[..., Statistics] = _unchanged
    scope: Literal["tensor", "model"] = "tensor"
    sample: int | None = None
    needed: Callable[[Statistics], bool] = _always
    shows_nonfinite: bool = False


@dataclass(frozen=True)
class Method:
    """A registered merge method. Made by ``merge_method``."""

    name: str
    combine: Callable[..., Any]
    title: str
    formula: str
    source: str
    base: Literal["required", "optional", "none"]
    parameters: tuple[Parameter, ...]
    granularity: Granularity | Callable[[Parameters], Granularity] = "block"
    passes: tuple[Pass, ...] | Callable[[Parameters], tuple[Pass, ...]] = ()
    models: tuple[int, int | None] = (1, None)
    random: bool = False
    torch: bool = False
    extras: tuple[str, ...] = ()
    report: tuple[str, ...] = field(default=())
    spreads_nonfinite: bool = False
    on_top: Callable[[Method], Method] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.combine(*args, **kwargs)

    def resolve(self, values: dict[str, Any], *, models: int) -> Parameters:
        """Checked parameters, defaults filled in, per-model values as lists."""
        low, high = self.models
        if models < low or (high is not None and models > high):
            wanted = f"{low}" if low == high else f"at least {low}"
            raise MethodError(f"method '{self.name}' takes {wanted} models, got {models}")
        return resolve(self.parameters, values, method=self.name, models=models)

    def granularity_for(self, parameters: Parameters) -> Granularity:
        return self.granularity(parameters) if callable(self.granularity) else self.granularity

    def passes_for(self, parameters: Parameters) -> tuple[Pass, ...]:
        return self.passes(parameters) if callable(self.passes) else self.passes


_REGISTERED: dict[str, Method] = {}
_FOREIGN = "mergekit:"
_SEED = Integer("seed", 0, 0, 2**63 - 1, help="seed of the random choices")


def merge_method(
    name: str,
    *,
    title: str,
    formula: str,
    source: str,
    base: Literal["required", "optional", "none"],
    parameters: tuple[Parameter, ...] = (),
    granularity: Granularity | Callable[[Parameters], Granularity] = "block",
    passes: tuple[Pass, ...] | Callable[[Parameters], tuple[Pass, ...]] = (),
    models: tuple[int, int | None] = (1, None),
    random: bool = False,
    torch: bool = False,
    extras: tuple[str, ...] = (),
    report: tuple[str, ...] = (),
    spreads_nonfinite: bool = False,
    on_top: Callable[[Method], Method] | None = None,
) -> Callable[[Callable[..., Any]], Method]:
    """Register the decorated function as merge method ``name``.

    Args:
        title: name in the words of the paper.
        formula: one line, in ``theta_i``, ``theta_0``, ``tau_i``.
        source: paper and equation.
        base: whether the formula needs theta_0.
        parameters: declarations; the function gets each as a keyword argument, checked. Values may
            differ from tensor to tensor (rules and gradients of a recipe).
        granularity, passes: see the module's text; constants or functions of the parameters.
        models: least and largest number of models (None: no limit).
        random: adds ``seed`` and gives ``block.uniform``; ``seed`` is not passed to the function.
        torch: the function imports torch (optimisation); blocks are numpy all the same unless a
            torch device was asked for.
        extras: kinds of statistics files it reads with ``block.extra`` (one checkpoint a model).
        report: names of statistics to record for each tensor.
        spreads_nonfinite: NaN or infinity in any parent makes the result non-finite at that place,
            whatever the parameters; the parents then need not be searched before.
        on_top: makes of another method the one that ``NAME+OTHER`` means: what this method does,
            done to the other's result.
    """

    def register(combine: Callable[..., Any]) -> Method:
        method = Method(
            name=name,
            combine=combine,
            title=title,
            formula=formula,
            source=source,
            base=base,
            parameters=(*parameters, _SEED) if random else parameters,
            granularity=granularity,
            passes=passes,
            models=models,
            random=random,
            torch=torch,
            extras=extras,
            report=report,
            spreads_nonfinite=spreads_nonfinite,
            on_top=on_top,
        )
        _REGISTERED[name] = method
        return method

    return register


def available_methods() -> list[str]:
    """Names of all methods, those of other packages included, sorted; nothing is imported."""
    from stockpot.merging.methods import BUILTIN

    ours = {name for name in _REGISTERED if not name.startswith(_FOREIGN)}
    return sorted({*BUILTIN, *ours, *(point.name for point in _entry_points())})


def mergekit_methods() -> list[str]:
    """Names of mergekit's methods, as ``mergekit:NAME``, sorted; nothing is imported."""
    from stockpot.merging.methods import MERGEKIT

    return sorted(_FOREIGN + name for name in MERGEKIT)


def get_method(name: str) -> Method:
    """The method called ``name``; ``NAME+OTHER`` is OTHER with NAME on top (see ``on_top``).

    Raises ``MethodError`` that lists the names there are.
    """
    method = _declared(name)
    if method is not None:
        return method
    upper, plus, lower = name.partition("+")
    outer = _declared(upper) if plus else None
    if outer is not None and outer.on_top is not None:
        return outer.on_top(get_method(lower))
    import difflib

    near = difflib.get_close_matches(name, available_methods(), n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(available_methods())}"
    raise MethodError(f"no merge method is called '{name}'", hint=hint)


def _declared(name: str) -> Method | None:
    """The method declared under ``name``; its module is imported for that.

    mergekit's methods are called ``mergekit:NAME``, those that only mergekit has NAME as well.
    """
    from stockpot.merging.methods import BUILTIN, MERGEKIT

    short = name.removeprefix(_FOREIGN)
    if short in MERGEKIT and (short != name or short not in BUILTIN):
        importlib.import_module(f"stockpot.merging.methods.{MERGEKIT[short]}")
        return _REGISTERED[_FOREIGN + short]
    if name not in _REGISTERED:
        if name in BUILTIN:
            importlib.import_module(f"stockpot.merging.methods.{BUILTIN[name]}")
        else:
            for point in _entry_points():
                if point.name == name:
                    point.load()
    return _REGISTERED.get(name)


def _entry_points() -> Iterable[Any]:
    return entry_points(group="stockpot.merge_methods")
