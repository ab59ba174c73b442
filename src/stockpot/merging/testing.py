"""The contract of merge methods, as checks that any registered method can be put to.

In the tests of a package that brings its own method::

    import pytest
    from stockpot.merging.testing import CHECKS, MethodCase

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(MethodCase("my_method", reference=my_formula_in_float64))

A check raises ``AssertionError`` that names the tensor, or ``unittest.SkipTest`` (a skip for
pytest) where it does not apply.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.checkpoints import Checkpoint, TensorInfo, open_checkpoint, write_checkpoint
from stockpot.checkpoints.dtypes import narrow, widen
from stockpot.errors import MethodError, NonFiniteError
from stockpot.merging.merge import merge
from stockpot.merging.method import Method, PerModel, get_method

State = dict[str, np.ndarray]
Reference = Callable[..., Mapping[str, np.ndarray]]

ROUNDING_SHARE = 1e-4
"""Largest share of 16-bit results that may differ from the correctly rounded float64 formula."""

_SHAPES: dict[str, tuple[int, ...]] = {
    "embed.weight": (20, 12),
    "layers.0.attention.weight": (12, 12),
    "layers.0.norm.weight": (12,),
    "layers.1.convolution.weight": (6, 4, 3, 3),
    "layers.1.empty": (0, 4),
    "layers.2.attention.weight": (8, 12),
    "head.bias": (5,),
    "temperature": (),
}
_LARGE: dict[str, tuple[int, ...]] = {**_SHAPES, "layers.1.wide.weight": (140, 700)}


@dataclass(frozen=True)
class MethodCase:
    """A method under test.

    Attributes:
        name: registered name.
        parameters: values for parameters without a default, or to make a slow method quick.
        reference: ``(base, models, **parameters) -> state`` in float64, written as plainly as the
            paper; parameters come checked, per-model ones as lists, statistics files as lists of
            states.
        extras: makes statistics files: ``(models) -> {kind: one state a model}``.
        averages: equal models give their own bytes, whatever the base.
        symmetric: the order of the models is no matter (per-model parameters go with them).
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    reference: Reference | None = None
    extras: Callable[[Sequence[State]], dict[str, list[State]]] | None = None
    averages: bool = False
    symmetric: bool = True

    @property
    def method(self) -> Method:
        return get_method(self.name)

    @property
    def resolved(self) -> dict[str, Any]:
        """The parameters, checked and complete."""
        return self.method.resolve(dict(self.parameters), models=self.models)

    @property
    def models(self) -> int:
        """How many models the examples have: three where the method takes them."""
        low, high = self.method.models
        return max(low, min(3, high if high is not None else 3))


class StoredState(Checkpoint):
    """A float state stored as type ``code`` ("BF16", ...), in memory."""

    def __init__(self, state: Mapping[str, np.ndarray], code: str) -> None:
        self.bits = {name: narrow(np.asarray(x), code) for name, x in state.items()}
        infos = {name: TensorInfo(name, np.shape(x), code) for name, x in state.items()}
        super().__init__(infos, label=f"{code} example")

    def raw(self, name: str) -> np.ndarray:
        return np.ascontiguousarray(self.bits[name]).reshape(-1)

    def wide(self) -> State:
        """The stored values in float64."""
        return {
            name: widen(bits, self.info(name).dtype).astype(np.float64)
            for name, bits in self.bits.items()
        }


@dataclass(frozen=True)
class MergeExample:
    """Base, models and statistics files of one merge."""

    base: StoredState
    models: list[StoredState]
    extras: dict[str, list[State]]

    def run(self, subject: MethodCase, **options: Any) -> State:
        """The merged state, widened to numpy floats."""
        state = merge(
            self.models,
            method=subject.name,
            base=None if subject.method.base == "none" else self.base,
            hash_parents=False,
            **{**subject.parameters, **self.extras, **options},
        ).state
        return {name: np.asarray(x) for name, x in state.items()}

    def expected(self, subject: MethodCase) -> Mapping[str, np.ndarray]:
        """What the reference makes of the stored values."""
        assert subject.reference is not None
        base = None if subject.method.base == "none" else _filled(self.base.wide())
        extras = {
            kind: [{n: x.astype(np.float64) for n, x in state.items()} for state in states]
            for kind, states in self.extras.items()
        }
        models = [_filled(model.wide()) for model in self.models]
        return subject.reference(base, models, **subject.resolved, **extras)


def example(
    subject: MethodCase,
    code: str = "F32",
    *,
    large: bool = False,
    equal: str = "",
    seed: int = 0,
) -> MergeExample:
    """A base of standard deviation 0.02 and models around it, of several shapes.

    ``equal``: "models" makes all models equal, "all" makes them equal to the base.
    """
    rng = np.random.default_rng(seed)
    shapes = _LARGE if large else _SHAPES
    base = {name: np.asarray(0.02 * rng.standard_normal(shape)) for name, shape in shapes.items()}
    states: list[State] = []
    for number in range(subject.models):
        moved = {name: x + 0.002 * rng.standard_normal(x.shape) for name, x in base.items()}
        moved["layers.0.norm.weight"] = base["layers.0.norm.weight"]
        states.append(
            base if equal == "all" else states[0] if equal == "models" and number else moved
        )
    models = [StoredState(state, code) for state in states]
    extras = subject.extras([model.wide() for model in models]) if subject.extras else {}
    return MergeExample(StoredState(base, code), models, extras)


# --------------------------------------------------------------------------------------- checks
def models_equal_to_the_base_change_nothing(subject: MethodCase) -> None:
    for code in ("BF16", "F32", "F64"):
        case = example(subject, code, equal="all")
        _same(case.run(subject), _values(case.base), f"{code}: equal models and base")


def equal_models_give_their_bytes(subject: MethodCase) -> None:
    for code in ("BF16", "F16", "F32", "F64"):
        case = example(subject, code, equal="models")
        _same(case.run(subject), _values(case.models[0]), f"{code}: equal models")


def blocks_and_threads_change_no_bit(subject: MethodCase) -> None:
    small, large = example(subject, "BF16"), example(subject, "BF16", large=True)
    for case, sizes in ((small, (1, 7)), (large, (65_536, 100_000))):
        whole = case.run(subject, threads=1, block_elements=1 << 22)
        for size in sizes:
            for threads in (1, 4):
                found = case.run(subject, threads=threads, block_elements=size)
                _same(found, whole, f"blocks of {size}, {threads} threads")


def streaming_equals_memory(subject: MethodCase) -> None:
    for code in ("BF16", "F32"):
        case = example(subject, code)
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for number, stored in enumerate([case.base, *case.models]):
                paths.append(Path(folder) / f"{number}.safetensors")
                codes = dict.fromkeys(stored.names, code)
                write_checkpoint(paths[-1], stored.bits, dtypes=codes)
            output = Path(folder) / "merged.safetensors"
            merge(
                paths[1:],
                method=subject.name,
                base=None if subject.method.base == "none" else paths[0],
                output=output,
                **{**subject.parameters, **case.extras},
            )
            with open_checkpoint(output) as written:
                read = {name: written.read(name).copy() for name in written.names}
        _same(read, case.run(subject), f"{code}: written to a file")


def order_of_models_does_not_matter(subject: MethodCase) -> None:
    case = example(subject, "BF16", large=True)
    per_model = {p.name for p in subject.method.parameters if isinstance(p, PerModel)}
    turned = MethodCase(
        subject.name,
        {
            name: value[::-1] if name in per_model and isinstance(value, list) else value
            for name, value in subject.parameters.items()
        },
    )
    other = MergeExample(
        case.base, case.models[::-1], {kind: states[::-1] for kind, states in case.extras.items()}
    )
    found = case.run(subject)
    share = _share_that_differs(other.run(turned), {name: found[name] for name in case.base.names})
    assert share < ROUNDING_SHARE, f"{share:.1e} of the results depend on the order of the models"


def every_float_type_is_merged_as_the_formula_says(subject: MethodCase) -> None:
    for code, digits, arithmetic in (
        ("BF16", 8, 2.0**-21),
        ("F16", 11, 2.0**-21),
        ("F32", 24, 1e-11),
        ("F64", 53, 1e-11),
    ):
        case = example(subject, code)
        expected = case.expected(subject)
        for name, values in case.run(subject).items():
            if name not in expected:
                continue
            exact = np.asarray(expected[name], dtype=np.float64)
            assert values.shape == exact.shape, f"{code} '{name}': shape {values.shape}"
            # Half a unit in the last place, and what arithmetic in the working type may lose.
            unit = np.exp2(np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-14))) + 1 - digits)
            room = unit / 2 + arithmetic * float(np.abs(exact).max(initial=0.0))
            wrong = np.ravel(np.abs(values - exact) > room)
            if wrong.any():
                place = int(np.argmax(wrong))
                raise AssertionError(
                    f"{code} '{name}' at {place}: {np.ravel(values)[place]!r}, "
                    f"expected {np.ravel(exact)[place]!r}"
                )


def sixteen_bit_results_are_correctly_rounded(subject: MethodCase) -> None:
    case = example(subject, "BF16", large=True)
    exact = {name: np.asarray(x) for name, x in case.expected(subject).items()}
    names = [name for name in case.base.names if name in exact]
    rounded = _values(StoredState({name: exact[name] for name in names}, "BF16"))
    found = case.run(subject)
    share = _share_that_differs({name: found[name] for name in names}, rounded)
    assert share < ROUNDING_SHARE, f"{share:.1e} of the bfloat16 results are not correctly rounded"


def nan_and_infinity_are_reported(subject: MethodCase) -> None:
    for value in (math.nan, math.inf):
        case = example(subject)
        name = "layers.1.convolution.weight"
        case.models[-1].bits[name] = case.models[-1].bits[name].copy()
        case.models[-1].bits[name][2, 1, 0, 2] = value
        try:
            case.run(subject)
        except NonFiniteError as error:
            message = str(error)
        else:
            message = "merged without a word"
        assert name in message, f"{value}, tensor: {message}"
        assert "2, 1, 0, 2" in message, f"{value}, position: {message}"


def bad_parameters_are_refused(subject: MethodCase) -> None:
    case = example(subject)
    for parameter in subject.method.parameters:
        for number, value in enumerate(parameter.invalid()):
            try:
                if number:
                    subject.method.resolve(
                        {**subject.parameters, parameter.name: value}, models=subject.models
                    )
                else:
                    case.run(subject, **{parameter.name: value})
            except MethodError as error:
                message = str(error)
            else:
                message = "accepted"
            assert parameter.name in message, f"'{parameter.name}' = {value!r}: {message}"


def good_parameters_are_accepted(subject: MethodCase) -> None:
    case = example(subject, "BF16")
    for parameter in subject.method.parameters:
        for value in parameter.valid():
            if parameter.name in subject.parameters and isinstance(value, int) and value > 100:
                continue
            try:
                merged = case.run(subject, **{parameter.name: value})
            except MethodError:
                continue  # A value may be in its range and yet not go with the others.
            for name, values in merged.items():
                assert np.isfinite(values).all(), f"'{parameter.name}' = {value!r}: '{name}'"


def torch_equals_numpy(subject: MethodCase) -> None:
    for code in ("BF16", "F32"):
        case = example(subject, code, large=True)
        share = _share_that_differs(case.run(subject, device="torch-cpu"), case.run(subject))
        limit = ROUNDING_SHARE if subject.method.passes_for(subject.resolved) else 0.0
        assert share <= limit, f"{code}: {share:.1e} of the results differ between torch and numpy"


def contract(subject: MethodCase) -> tuple[Callable[[MethodCase], None], ...]:
    """The checks that apply to a method."""
    checks = [
        models_equal_to_the_base_change_nothing,
        blocks_and_threads_change_no_bit,
        streaming_equals_memory,
        nan_and_infinity_are_reported,
        bad_parameters_are_refused,
        good_parameters_are_accepted,
    ]
    if subject.averages:
        checks.append(equal_models_give_their_bytes)
    if subject.symmetric:
        checks.append(order_of_models_does_not_matter)
    if subject.reference is not None:
        checks.append(every_float_type_is_merged_as_the_formula_says)
        checks.append(sixteen_bit_results_are_correctly_rounded)
    elementwise = subject.method.granularity_for(subject.resolved) == "block"
    if elementwise and find_spec("torch") is not None:
        checks.append(torch_equals_numpy)
    return tuple(checks)


def _filled(state: State) -> State:
    """Without the tensors that have no elements."""
    return {name: x for name, x in state.items() if x.size}


def _values(stored: StoredState) -> State:
    return {name: widen(bits, stored.info(name).dtype) for name, bits in stored.bits.items()}


def _same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], when: str) -> None:
    for name, values in expected.items():
        got = np.asarray(found[name])
        assert got.shape == values.shape, f"{when}: '{name}' has shape {got.shape}"
        different = np.ravel(got != values)
        place = int(np.argmax(different)) if different.size else 0
        assert not different.any(), (
            f"{when}: '{name}' differs at {int(different.sum())} of {different.size} places, "
            f"first at {place}: {np.ravel(got)[place]!r} and {np.ravel(values)[place]!r}"
        )


def _share_that_differs(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> float:
    different = sum(int(np.count_nonzero(found[name] != expected[name])) for name in expected)
    return different / max(sum(np.size(values) for values in expected.values()), 1)
