"""mergekit's methods under the contract of all methods; their numbers have tests of their own."""

from __future__ import annotations

import pytest

from stockpot.merging.method import PerModel, get_method, mergekit_methods
from stockpot.merging.testing import MethodCase, contract

GIVEN = {"t": 0.3}
"""What a method asks for that has no default; weights are of unlike size."""

AVERAGES = {"mergekit:linear", "mergekit:passthrough", "mergekit:karcher"}


def case_of(name: str) -> MethodCase:
    method = get_method(name)
    low, high = method.models
    count = max(low, min(3, high or 3))
    parameters = {
        p.name: [0.5, 0.25, 1.0][:count] if isinstance(p, PerModel) else GIVEN[p.name]
        for p in method.parameters
        if p.default is None
    }
    return MethodCase(name, parameters, symmetric=False, averages=name in AVERAGES)


CASES = [
    pytest.param(case, check, id=f"{case.name}-{check.__name__}")
    for case in map(case_of, mergekit_methods())
    for check in contract(case)
]


@pytest.mark.parametrize(("case", "check"), CASES)
def test_contract(case, check):
    check(case)
