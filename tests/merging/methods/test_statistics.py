"""Fisher and RegMean statistics against what their definitions give, and merged with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stockpot.checkpoints import open_checkpoint
from stockpot.errors import InputError, MethodError
from stockpot.merging import merge
from stockpot.merging.statistics import fisher_information, input_grams, save_statistics


def logistic(seed: int = 0) -> tuple[nn.Linear, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    module = nn.Linear(3, 4)
    with torch.no_grad():
        module.weight.copy_(torch.randn(4, 3, generator=generator))
        module.bias.copy_(torch.randn(4, generator=generator))
    return module, torch.randn(64, 3, generator=generator)


def test_exact_fisher_of_a_softmax_regression_is_its_formula():
    module, x = logistic()
    found = fisher_information(module, [x[:10], x[10:]], estimate="exact")
    p = torch.softmax(module(x), dim=-1).detach().numpy().astype(np.float64)
    variance = p * (1 - p)
    np.testing.assert_allclose(found["bias"], variance.mean(axis=0), rtol=1e-5)
    expected = np.einsum("nc,nd->cd", variance, x.numpy().astype(np.float64) ** 2) / len(x)
    np.testing.assert_allclose(found["weight"], expected, rtol=1e-5)
    assert found["weight"].dtype == np.float32


def test_sampled_fisher_is_near_the_exact_one_and_repeats():
    module, x = logistic()
    exact = fisher_information(module, [x], estimate="exact")["bias"]
    once = fisher_information(module, [x] * 10, seed=1)["bias"]
    again = fisher_information(module, [x] * 10, seed=1)["bias"]
    assert np.array_equal(once, again)
    np.testing.assert_allclose(once, exact, rtol=0.25)


def test_empirical_fisher_squares_the_gradients_of_the_given_labels():
    module, x = logistic()
    y = torch.arange(len(x)) % 4
    found = fisher_information(
        module,
        [(x, y)],
        predict=lambda model, batch: model(batch[0]),
        labels=lambda batch: batch[1],
        estimate="labels",
    )
    p = torch.softmax(module(x), dim=-1).detach().numpy()
    slopes = np.eye(4)[y.numpy()] - p
    np.testing.assert_allclose(found["bias"], (slopes**2).mean(axis=0), rtol=1e-5)
    with pytest.raises(InputError, match="labels"):
        fisher_information(module, [x], estimate="labels")


def test_grams_are_of_the_inputs_of_each_layer():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten())
    module.append(nn.Linear(3 * 4 * 4, 5))
    module.train()
    x = torch.randn(6, 2, 8, 8)
    found = input_grams(module, [x[:2], x[2:]])
    assert module.training
    assert set(found) == {"0.weight", "3.weight"}
    features = module[:3](x).detach().double()
    np.testing.assert_allclose(found["3.weight"], features.T @ features / len(x), rtol=1e-5)
    # A convolution is a linear map of patches in the layout of its flattened weight.
    patches = torch.nn.functional.unfold(x, 3, padding=1, stride=2).transpose(1, 2).reshape(-1, 18)
    by_hand = patches @ module[0].weight.reshape(3, 18).T + module[0].bias
    outputs = module[0](x).permute(0, 2, 3, 1).reshape(-1, 3)
    torch.testing.assert_close(by_hand, outputs)
    gram = (patches.double().T @ patches.double() / len(patches)).numpy()
    np.testing.assert_allclose(found["0.weight"], gram, rtol=1e-5)


def test_grams_of_a_convolution_padded_to_the_same_size():
    torch.manual_seed(0)
    x = torch.randn(2, 1, 5, 5)
    same = input_grams(nn.Conv2d(1, 1, 3, padding="same"), [x])["weight"]
    np.testing.assert_allclose(same, input_grams(nn.Conv2d(1, 1, 3, padding=1), [x])["weight"])


def test_without_data_there_are_no_statistics():
    module, _ = logistic()
    with pytest.raises(InputError, match="no statistics"):
        fisher_information(module, [])
    with pytest.raises(InputError, match="no statistics"):
        input_grams(nn.ReLU(), [torch.zeros(1)])


def test_saved_statistics_merge(tmp_path):
    (first, x), (second, y) = logistic(0), logistic(1)
    paths = []
    for number, (module, inputs) in enumerate(((first, x), (second, y))):
        paths.append(tmp_path / f"gram-{number}.safetensors")
        save_statistics(paths[-1], input_grams(module, [inputs]), "gram")
    with open_checkpoint(paths[0]) as saved:
        assert saved.metadata["statistics"] == "gram"
    merged = merge(
        [first.state_dict(), second.state_dict()],
        method="regmean",
        gram=paths,
        shrink=1.0,
        ridge=1e-12,
    ).state["weight"]
    # RegMean minimises the summed squared distance to the outputs of both on their own inputs.
    stacked = torch.cat([x / len(x) ** 0.5, y / len(y) ** 0.5]).double()
    targets = torch.cat(
        [
            x.double() @ first.weight.double().T / len(x) ** 0.5,
            y.double() @ second.weight.double().T / len(y) ** 0.5,
        ]
    )
    best = torch.linalg.lstsq(stacked, targets).solution.T
    torch.testing.assert_close(merged.double(), best.detach(), atol=1e-5, rtol=1e-5)


def test_statistics_that_lack_a_tensor_or_fit_another_model_are_refused():
    models = [{"w": np.ones((2, 3), dtype=np.float32)} for _ in range(2)]
    gram = {"w": np.eye(3, dtype=np.float32)}
    with pytest.raises(MethodError, match="model 2 lacks tensor 'w'"):
        merge(models, method="regmean", gram=[gram, {"v": gram["w"]}])
    with pytest.raises(MethodError, match=r"shape \(4, 4\)"):
        merge(models, method="regmean", gram=[gram, {"w": np.eye(4, dtype=np.float32)}])
    with pytest.raises(MethodError, match="model 2 lacks tensor 'w'"):
        merge(models, method="fisher", fisher=[models[0], {"v": models[0]["w"]}])


def test_where_no_model_depends_on_a_weight_it_gets_the_plain_mean():
    models = [{"w": np.array(values, dtype=np.float32)} for values in ([1, 1, 4], [3, 3, 8])]
    fisher = [{"w": np.array(values, dtype=np.float32)} for values in ([1, 0, 0], [3, 0, 1])]
    merged = merge(models, method="fisher", fisher=fisher).state["w"]
    assert merged.tolist() == [2.5, 2.0, 8.0]
    other = merge(models, method="fisher", fisher=[{"v": fisher[0]["w"]}] * 2).state["w"]
    assert other.tolist() == [2.0, 2.0, 6.0]
