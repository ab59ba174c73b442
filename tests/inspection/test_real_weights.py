"""Published weights whose history is known; numbers as in docs/inspection.md."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import LineageError
from stockpot.inspection import check_lineage, compare
from tests.weights import weights

pytestmark = pytest.mark.weights

SEGMENTERS = ("lraspp-kelp-presence", "lraspp-kelp-species", "lraspp-mussels", "lraspp-mussels-v2")


def test_a_fine_tuning_from_the_wild_descends_from_minilm() -> None:
    evidence = check_lineage(weights("minilm"), weights("sre"))
    assert evidence.verdict == "same ancestor"
    assert evidence.layers == 39
    assert evidence.adjusted == pytest.approx(0.9999, abs=1e-4)
    assert evidence.distance == pytest.approx(0.0129, abs=2e-4)
    assert evidence.largest == pytest.approx(0.0251, abs=5e-4)


@pytest.mark.parametrize(("a", "b"), list(combinations(SEGMENTERS, 2)))
@pytest.mark.parametrize("quick", [False, True])
def test_four_segmenters_are_siblings(a: str, b: str, quick: bool) -> None:
    found = compare([weights(a), weights(b)], quick=quick)
    assert found.verdict == "same ancestor"
    assert found.pairs[0].adjusted is not None
    assert found.pairs[0].adjusted > 0.98


def test_two_resnets_under_other_names_and_types_are_siblings() -> None:
    found = compare([weights("resnet18-eyes"), weights("resnet18-fire")])
    assert found.verdict == "same ancestor"
    assert found.models[1].renamed == "without 'layers.'"
    assert found.pairs[0].adjusted == pytest.approx(0.9992, abs=1e-4)


@pytest.mark.parametrize("quick", [False, True])
def test_two_mobilenets_of_other_ancestry_are_strangers(quick: bool) -> None:
    files = [weights("mobilenetv2-imagenet"), weights("mobilenetv2-documents")]
    found = compare(files, quick=quick)
    assert found.verdict == "unrelated"
    assert found.pairs[0].shared == 0
    assert found.pairs[0].adjusted == pytest.approx(0.0, abs=0.01)
    with pytest.raises(LineageError, match="no ancestor"):
        check_lineage(*files, quick=quick)


def test_a_resnet_is_no_mobilenet() -> None:
    with pytest.raises(LineageError, match="only 0 of"):
        check_lineage(weights("mobilenetv2-imagenet"), weights("resnet18-fire"))


def minilm() -> dict[str, np.ndarray]:
    with open_checkpoint(weights("minilm")) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.names}


def test_neurons_of_one_block_in_another_order_are_caught() -> None:
    base, changed = minilm(), minilm()
    order = np.random.default_rng(0).permutation(1536)
    block = "encoder.layer.4."
    rows = [block + "intermediate.dense.weight", block + "intermediate.dense.bias"]
    columns = block + "output.dense.weight"
    changed |= {name: changed[name][order] for name in rows}
    changed[columns] = changed[columns][:, order]
    found = compare({"minilm": base, "permuted": changed})
    assert found.verdict == "same ancestor"
    assert found.pairs[0].foreign == found.pairs[0].permuted == (rows[0], columns)
    with pytest.raises(LineageError, match="channels are permuted"):
        check_lineage(base, changed)


def test_frozen_layers_do_not_vouch_for_trained_ones() -> None:
    base, changed = minilm(), minilm()
    trained = [name for name in base if name.startswith("encoder.layer.5.")]
    draw = np.random.default_rng(0)
    for name in trained:
        if changed[name].ndim == 2:
            shape, spread = changed[name].shape, changed[name].std()
            changed[name] = (draw.normal(size=shape) * spread).astype(np.float32)
    assert check_lineage(base, changed).doubt is not None
    with pytest.raises(LineageError, match="no ancestor"):
        check_lineage(base, changed, names=trained)
