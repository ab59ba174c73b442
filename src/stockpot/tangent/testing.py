"""The contract of composers, as checks that any composer can be put to.

In the tests of a composer::

    import pytest
    from stockpot.tangent.testing import CHECKS, ComposerCase

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_contract(check, subject):
        check(subject)

A check raises ``AssertionError`` that says what differs.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stockpot.errors import BaseMismatchError, CheckpointError, InputError
from stockpot.tangent.component import Component
from stockpot.tangent.composer import Composed, Composer


@dataclass(frozen=True)
class ComposerCase:
    """A composer under test.

    Attributes:
        composer: on some base.
        components: three or more on that base, with different tasks.
        inputs: a batch for ``predict``.
        truth: ``(components, weights) -> outputs (N, C)`` in float64, written plainly.
        tolerance: largest difference of outputs from the truth, relative to the largest output.
        dtypes: types that its tensors can be kept in.
    """

    composer: Composer
    components: Sequence[Component]
    inputs: Any
    truth: Callable[[Sequence[Component], Sequence[float]], Tensor]
    tolerance: float = 1e-5
    dtypes: tuple[torch.dtype, ...] = (
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
    )


def same_bytes(first: Composed, second: Composed, inputs: Any) -> None:
    """Tensors and outputs of both are equal bit for bit."""
    one, two = first.state(), second.state()
    assert sorted(one) == sorted(two), f"tensors {sorted(one)} and {sorted(two)}"
    for name in one:
        assert torch.equal(one[name], two[name]), f"tensor '{name}' differs"
    assert first.digest == second.digest, "digests differ"
    assert torch.equal(first.predict(inputs), second.predict(inputs)), "outputs differ"


def _close(subject: ComposerCase, composed: Composed, truth: Tensor) -> None:
    outputs = composed.predict(subject.inputs).double().cpu()
    gap = float((outputs - truth.double().cpu()).abs().max() / truth.abs().max().clamp(min=1e-30))
    assert gap <= subject.tolerance, f"outputs differ by {gap:.2e}, allowed {subject.tolerance:g}"


def identity(subject: ComposerCase) -> None:
    """One component with weight 1 is itself."""
    one = subject.components[:1]
    _close(subject, subject.composer.compose(one, [1.0]), subject.truth(one, [1.0]))


def formula(subject: ComposerCase) -> None:
    """Given weights compose as the formula says, negative ones too."""
    weights = [0.5 + 0.25 * index for index in range(len(subject.components))]
    composed = subject.composer.compose(subject.components, weights)
    _close(subject, composed, subject.truth(subject.components, weights))


def permutation(subject: ComposerCase) -> None:
    """The order of components changes no byte, whatever the rule."""
    turned = [*subject.components[2:], *subject.components[:2]]
    for weights in (None, "uniform", "sum", "examples"):
        rule: Any = weights
        first = subject.composer.compose(subject.components, rule)
        same_bytes(first, subject.composer.compose(turned, rule), subject.inputs)
        back = subject.composer.compose(subject.components[::-1], rule)
        same_bytes(first, back, subject.inputs)


def scale(subject: ComposerCase) -> None:
    """Scaling a composition is composing with scaled weights."""
    composed = subject.composer.compose(subject.components, "sum").scaled(0.5)
    halves = [0.5] * len(subject.components)
    same_bytes(composed, subject.composer.compose(subject.components, halves), subject.inputs)
    _close(subject, composed, subject.truth(subject.components, halves))


def removal(subject: ComposerCase) -> None:
    """Taking a component away gives the bytes of never having had it, by task or by digest."""
    gone, *rest = subject.components
    for weights in (None, "sum", "examples"):
        rule: Any = weights
        whole = subject.composer.compose(subject.components, rule)
        never = subject.composer.compose(rest, rule)
        same_bytes(whole.without(gone.task), never, subject.inputs)
        same_bytes(whole.without(gone.digest), never, subject.inputs)
        assert gone.digest not in {term.digest for term in whole.without(gone.task).terms}
    given = [1.0 + index for index in range(len(subject.components))]
    less = subject.composer.compose(subject.components, given).without(gone.task)
    same_bytes(less, subject.composer.compose(rest, given[1:]), subject.inputs)


def addition_and_removal(subject: ComposerCase) -> None:
    """A component that comes and goes leaves nothing behind."""
    first, second, *_ = subject.components
    alone = subject.composer.compose([first], "sum")
    same_bytes(alone.plus(second).without(second.task), alone, subject.inputs)


def partial_sums(subject: ComposerCase) -> None:
    """Sums of sums are the sum: groups of any size and order agree up to float64 rounding."""
    composer, (first, second, *rest) = subject.composer, subject.components
    whole = composer.compose(subject.components, "sum")
    left = [composer.partial([first, second]), composer.partial(rest)]
    right = [composer.partial([*rest, second]), composer.partial([first])]
    truth = subject.truth(subject.components, [1.0] * len(subject.components))
    for groups in (left, right):
        joined = composer.finish(groups)
        same_bytes(joined, composer.finish(groups[::-1]), subject.inputs)
        assert joined.terms == whole.terms, "terms differ"
        _close(subject, joined, truth)
    one, two = (sum(float(p.sums[n].sum()) for p in g for n in p.sums) for g in (left, right))
    assert abs(one - two) <= 1e-9 * max(abs(one), 1.0), f"partial sums differ: {one} and {two}"
    _refused(lambda: composer.finish([left[0], left[0]]), InputError, "twice")


def wrong_base(subject: ComposerCase) -> None:
    """A component of another base or head is refused, and so is another kind and a duplicate."""
    one = subject.components[0]
    for stranger in (replace(one, base_digest="0" * 64), replace(one, head_digest="0" * 64)):
        call = functools.partial(subject.composer.compose, [stranger])
        _refused(call, BaseMismatchError, "0" * 12)
    other: Any = {"delta": "statistics", "statistics": "delta"}[one.kind]
    _refused(lambda: subject.composer.compose([replace(one, kind=other)]), InputError, other)
    _refused(lambda: subject.composer.compose([one, one]), InputError, "twice")
    _refused(lambda: subject.composer.compose([]), InputError, "no components")


def corrupted(subject: ComposerCase) -> None:
    """A flipped bit anywhere in the tensors, a changed description, a cut file: all refused."""
    one = subject.components[0]
    with tempfile.TemporaryDirectory() as folder:
        path = one.save(Path(folder) / "component.safetensors")
        whole = path.read_bytes()
        start = 8 + int.from_bytes(whole[:8], "little")
        for place in (start, (start + len(whole)) // 2, len(whole) - 1):
            changed = bytearray(whole)
            changed[place] ^= 1
            path.write_bytes(changed)
            _refused(lambda: Component.load(path), CheckpointError, "")
        path.write_bytes(whole.replace(one.base_digest.encode(), b"f" * 64))
        _refused(lambda: Component.load(path), CheckpointError, "")
        path.write_bytes(whole[:-3])
        _refused(lambda: Component.load(path), CheckpointError, "")
        path.write_bytes(b"")
        _refused(lambda: Component.load(path), CheckpointError, "")


def round_trip(subject: ComposerCase) -> None:
    """A component comes back from disk as it was, in its own type, and composes to the same bytes.

    Types narrower than its own round each value once.
    """
    one = subject.components[0]
    with tempfile.TemporaryDirectory() as folder:
        for dtype in (None, *subject.dtypes):
            kept = one
            if dtype is not None:
                kept = replace(one, tensors={n: _typed(t, dtype) for n, t in one.tensors.items()})
            found = Component.load(kept.save(Path(folder) / "component.safetensors"))
            assert found.digest == kept.digest, f"{dtype}: digest changed"
            for name, tensor in kept.tensors.items():
                assert found.tensors[name].dtype == tensor.dtype, f"'{name}' changed its type"
                assert torch.equal(found.tensors[name], tensor.cpu()), f"'{name}' changed"
            first = subject.composer.compose([kept], [1.0])
            same_bytes(first, subject.composer.compose([found], [1.0]), subject.inputs)


def _typed(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _refused(call: Callable[[], Any], kind: type[Exception], word: str) -> None:
    try:
        call()
    except kind as error:
        said = str(error)
    else:
        raise AssertionError(f"accepted, expected {kind.__name__}")
    assert word in said, f"the error does not say '{word}': {said}"


CHECKS = (
    identity,
    formula,
    permutation,
    scale,
    removal,
    addition_and_removal,
    partial_sums,
    wrong_base,
    corrupted,
    round_trip,
)
