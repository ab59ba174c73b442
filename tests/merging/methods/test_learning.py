"""AdaMerging, Self Positioning and FW-Merging find coefficients that are known, and merge with
them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stockpot.errors import InputError
from stockpot.merging import merge
from stockpot.merging.methods.adamerging import learn_coefficients
from stockpot.merging.methods.frank_wolfe import frank_wolfe
from stockpot.merging.methods.self_positioning import self_position


def problem() -> tuple[nn.Module, dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """A classifier of two tasks: each model knows its own, on inputs of its own."""
    generator = torch.Generator().manual_seed(0)
    module = nn.Linear(8, 3, bias=False)
    base = {"weight": 0.01 * torch.randn(3, 8, generator=generator)}
    models = []
    for task in range(2):
        weight = base["weight"].clone()
        weight[:, 4 * task : 4 * task + 4] += torch.randn(3, 4, generator=generator)
        models.append({"weight": weight})
    return module, base, models


def inputs(task: int, count: int = 40) -> torch.Tensor:
    x = torch.zeros(count, 8)
    x[:, 4 * task : 4 * task + 4] = torch.randn(
        count, 4, generator=torch.Generator().manual_seed(10 + task)
    )
    return x


def entropy(weight: torch.Tensor) -> float:
    p = torch.softmax(torch.cat([inputs(0), inputs(1)]) @ weight.T, dim=-1)
    return float(-(p * p.log()).sum(-1).mean())


def test_adamerging_lowers_the_entropy_and_the_merge_is_the_learnt_model(tmp_path):
    module, base, models = problem()
    before = module.weight.detach().clone()
    learnt = learn_coefficients(
        module, base, models, [[inputs(0)], [inputs(1)]], steps=60, rate=0.05
    )
    assert learnt.losses[-1] < 0.7 * learnt.losses[0]
    assert torch.equal(module.weight, before), "the module's own weights must stay"
    files = learnt.save(tmp_path)
    merged = merge(models, method="adamerging", base=base, coefficients=files).state["weight"]
    assert entropy(merged) == pytest.approx(learnt.losses[-1] / 2, rel=0.1)
    by_hand = base["weight"] + sum(
        c * (model["weight"] - base["weight"])
        for c, model in zip(learnt.coefficients["weight"], models, strict=True)
    )
    torch.testing.assert_close(merged, by_hand)


def test_one_coefficient_a_model_is_the_same_for_all_tensors():
    module = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))
    base = {name: p.detach().clone() for name, p in module.named_parameters()}
    models = [{name: p + 0.5 for name, p in base.items()} for _ in range(2)]
    learnt = learn_coefficients(
        module, base, models, [[inputs(0)]], granularity="model", steps=3, initial=0.2
    )
    rows = list(learnt.coefficients.values())
    assert len(rows) == 4
    assert all(row == rows[0] for row in rows)
    assert rows[0] != [pytest.approx(0.2), pytest.approx(0.2)]


def test_heads_of_their_own_go_through_predict():
    module, base, models = problem()
    seen = set()

    def predict(model: nn.Module, batch: torch.Tensor, task: int) -> torch.Tensor:
        seen.add(task)
        return model(batch)[:, : 2 + task]

    learn_coefficients(module, base, models, [[inputs(0)], [inputs(1)]], predict=predict, steps=2)
    assert seen == {0, 1}


def test_self_positioning_finds_the_model_that_made_the_labels():
    module, base, models = problem()
    x = torch.cat([inputs(0), inputs(1)])
    y = x @ models[1]["weight"].T
    learnt = self_position(
        module,
        base,
        models,
        [[(x, y)]],
        lambda outputs, batch: ((outputs - batch[1]) ** 2).mean(),
        predict=lambda model, batch, task: model(batch[0]),
        steps=400,
        rate=0.5,
    )
    first, second = learnt.coefficients["weight"]
    assert learnt.losses[-1] < 0.02 * learnt.losses[0]
    assert abs(first) < 0.1
    assert second == pytest.approx(1.0, abs=0.1)


def labelled(weight: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    x = torch.cat([inputs(0), inputs(1)])
    return [(x, x @ weight.T)]


def squares(outputs: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return ((outputs - batch[1]) ** 2).mean()


def first_of(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], task: int) -> torch.Tensor:
    return model(batch[0])


def test_frank_wolfe_goes_to_the_model_that_made_the_labels_and_leaves_the_others():
    module, base, models = problem()
    far = [{"weight": base["weight"] + torch.randn(3, 8)} for _ in range(3)]
    learnt = frank_wolfe(
        module,
        base,
        [*far, models[1]],
        [labelled(models[1]["weight"])],
        squares,
        predict=first_of,
        steps=60,
    )
    row = learnt.coefficients["weight"]
    assert sum(row) == pytest.approx(1.0)
    assert row[3] > 0.9
    assert learnt.losses[-1] < 0.02 * learnt.losses[0]


def test_frank_wolfe_finds_a_mean_in_the_hull_at_the_classic_rate():
    module, base, models = problem()
    target = 0.25 * models[0]["weight"] + 0.75 * models[1]["weight"]
    learnt = frank_wolfe(
        module, base, models, [labelled(target)], squares, predict=first_of, steps=200
    )
    assert learnt.coefficients["weight"] == pytest.approx([0.25, 0.75], abs=0.02)


def test_one_frank_wolfe_step_is_its_formula():
    module, base, models = problem()
    x, y = labelled(models[0]["weight"])[0]
    learnt = frank_wolfe(
        module, base, models, [[(x, y)]], squares, predict=first_of, steps=1, step=0.25, initial=0.4
    )
    theta = base["weight"] + 0.4 * sum(m["weight"] - base["weight"] for m in models)
    gradient = 2 * (x @ theta.T - y).T @ x / y.numel()
    chosen = int(np.argmin([float((gradient * m["weight"]).sum()) for m in models]))
    expected = [0.3 + 0.25 * (i == chosen) for i in range(2)]
    assert learnt.coefficients["weight"] == pytest.approx(expected)


def test_frank_wolfe_chooses_by_tensor_or_for_the_whole_model():
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    zero = {name: torch.zeros(4, 4) + 0.1 * torch.eye(4) for name in ("0.weight", "1.weight")}
    one = {"0.weight": torch.eye(4), "1.weight": zero["1.weight"]}
    two = {"0.weight": zero["0.weight"], "1.weight": torch.eye(4)}
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    arguments = (module, zero, [one, two], [[(x, x)]], squares)
    by_tensor = frank_wolfe(*arguments, predict=first_of, steps=1).coefficients
    assert by_tensor == {"0.weight": [1.0, 0.0], "1.weight": [0.0, 1.0]}
    whole = frank_wolfe(*arguments, predict=first_of, steps=1, choice="model").coefficients
    assert whole["0.weight"] == whole["1.weight"]


def test_bad_frank_wolfe_steps_are_refused():
    module, base, models = problem()
    for wrong in ({"step": 0.0}, {"step": 1.5}, {"choice": "row"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            frank_wolfe(module, base, models, [[inputs(0)]], squares, **wrong)


def test_states_that_do_not_fit_are_refused():
    module, base, models = problem()
    with pytest.raises(InputError, match="no parameter name in common"):
        learn_coefficients(module, {"other": base["weight"]}, models, [[inputs(0)]])
    with pytest.raises(InputError, match="model 2 lacks tensor 'weight'"):
        learn_coefficients(module, base, [models[0], {"weight": torch.zeros(2, 2)}], [[inputs(0)]])
    with pytest.raises(InputError, match="no models"):
        learn_coefficients(module, base, [], [[inputs(0)]])
    with pytest.raises(InputError, match="task 0 has no batches"):
        learn_coefficients(module, base, models, [[]], steps=1)


def test_tensors_without_a_coefficient_get_the_usual_one():
    base = {"w": np.zeros(2, dtype=np.float32), "v": np.zeros(2, dtype=np.float32)}
    model = {"w": np.ones(2, dtype=np.float32), "v": np.ones(2, dtype=np.float32)}
    coefficients = {"w": np.array(0.5, dtype=np.float32)}
    merged = merge([model], method="adamerging", base=base, coefficients=[coefficients]).state
    assert merged["w"].tolist() == [0.5, 0.5]
    assert merged["v"].tolist() == pytest.approx([0.3, 0.3])
