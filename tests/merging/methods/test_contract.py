"""Every registered method against the contract, with its plain float64 reference."""

from __future__ import annotations

import numpy as np
import pytest

from stockpot.merging.method import available_methods
from stockpot.merging.testing import MethodCase, State, contract

from .references import REFERENCES


def fisher_files(models: list[State]) -> dict[str, list[State]]:
    rng = np.random.default_rng(1)
    return {
        "fisher": [
            {
                name: np.asarray(rng.random(x.shape) + 0.01, dtype=np.float32)
                for name, x in model.items()
            }
            for model in models
        ]
    }


def gram_files(models: list[State]) -> dict[str, list[State]]:
    rng = np.random.default_rng(1)

    def gram(columns: int) -> np.ndarray:
        x = rng.standard_normal((2 * columns, columns))
        return (x.T @ x / len(x)).astype(np.float32)

    return {
        "gram": [
            {name: gram(x[0].size) for name, x in model.items() if x.ndim >= 2 and x.size}
            for model in models
        ]
    }


def coefficient_files(models: list[State]) -> dict[str, list[State]]:
    rng = np.random.default_rng(1)
    return {
        "coefficients": [
            {name: np.asarray(rng.random(), dtype=np.float32) for name in model} for model in models
        ]
    }


def of_tasks(reference):
    """The part of a packed reference that has the names of the base."""
    return lambda base, models, **values: {
        name: x for name, x in reference(base, models, **values).items() if name in base
    }


AVERAGES = {
    "linear",
    "stock",
    "slerp",
    "nuslerp",
    "karcher",
    "fisher",
    "regmean",
    "cocktail",
    "keep_zeros",
}
SPECIAL = {
    "cocktail": {"parameters": {"losses": [0.5, 1.0, 1.7]}},
    "wudi": {"parameters": {"steps": 10}},
    "doge": {"parameters": {"steps": 10}},
    "fisher": {"extras": fisher_files},
    "regmean": {"extras": gram_files},
    "adamerging": {"extras": coefficient_files},
    "dare": {"symmetric": False},
    "della": {"symmetric": False},
    "emr": {"reference": of_tasks(REFERENCES["emr"])},
    "tall": {"reference": of_tasks(REFERENCES["tall"])},
}


def subject_of(name: str) -> MethodCase:
    values = {"reference": REFERENCES.get(name), "averages": name in AVERAGES}
    return MethodCase(name, **{**values, **SPECIAL.get(name, {})})


CASES = [
    pytest.param(subject, check, id=f"{subject.name}-{check.__name__}")
    for subject in map(subject_of, available_methods())
    for check in contract(subject)
]


@pytest.mark.parametrize(("subject", "check"), CASES)
def test_contract(subject, check):
    check(subject)


def test_every_method_has_a_reference():
    assert set(available_methods()) <= set(REFERENCES)
