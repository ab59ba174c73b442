"""The offline phase on tiny tasks and networks: one matrix, clusters, ranking of a new task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from stockpot.cli.main import app
from stockpot.errors import InputError
from stockpot.ranking.fennec.offline import architecture_clusters, learn, look, rank_by
from stockpot.ranking.zoo import ModelEntry, parse_zoo
from stockpot.tasks import load_task
from tests.ranking.rank.tiny import QUALITY, write_task, zoo
from tests.training.tiny import array_task


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory):
    found = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp(f"t{seed}")
        write_task(folder, seed=seed)
        task = load_task({"kind": "arrays", "path": "data.npz"}, root=folder)
        found.append((task, np.arange(len(task))))
    return found


def entries(**changes: str) -> dict[str, ModelEntry]:
    found = parse_zoo(zoo(**changes)).entries
    return {name: entry for name, entry in found.items() if isinstance(entry, ModelEntry)}


def test_models_are_ranked_on_a_new_task_in_milliseconds(tasks, tmp_path: Path) -> None:
    models = entries(broken="broken")
    proxy = models["good"]
    known = learn(tasks[:2], models, proxy, cache=tmp_path, root=tmp_path)
    assert known.models == tuple(QUALITY)
    assert known.transfer.shape == (4, 2)
    assert [each.name for each in known.failed] == ["broken"]
    means = known.transfer.mean(axis=1)
    assert means.argmax() == 0
    assert means.argmin() == 3
    assert [len(each) for each in known.proxies] == [100, 100]
    assert known.model_facts["good"].parameters == 66
    assert known.model_facts["good"].layers == 1
    assert {each.architecture for each in known.model_facts.values()} == {0}
    new, rows = tasks[2]
    found = rank_by(known, known.fit(), new, rows, proxy, cache=tmp_path, root=tmp_path)
    assert found.order[0] == "good"
    assert found.milliseconds < 2000
    held = known.fit(without=0, scale_facts=True)
    assert len(held.factors.tasks) == 1
    real = known.fit(transfer=np.array([[0.9, 0.8], [0.7, np.nan], [0.5, 0.4], [0.2, 0.3]]))
    again = rank_by(known, real, new, rows, proxy, cache=tmp_path, root=tmp_path)
    assert again.order[0] == "good"


def test_what_cannot_be_learnt_from_is_refused(tasks, tmp_path: Path) -> None:
    models = entries()
    regression = array_task("regression")
    with pytest.raises(InputError, match="no classification"):
        learn([(regression, np.arange(20))], models, models["good"], cache=tmp_path, root=tmp_path)
    broken = {"broken": entries(broken="broken")["broken"]}
    with pytest.raises(InputError, match="no model could be run"):
        learn(tasks[:1], broken, models["good"], cache=tmp_path, root=tmp_path)
    with pytest.raises(InputError, match="the proxy 'broken' cannot be run"):
        look(*tasks[0], broken["broken"], cache=tmp_path, root=tmp_path)


def test_the_proxy_sees_no_labels(tasks, tmp_path: Path) -> None:
    from dataclasses import replace

    task, rows = tasks[0]
    proxy = entries()["good"]
    seen = look(task, rows, proxy, cache=tmp_path / "a", root=tmp_path)
    shuffled = replace(task, labels=np.roll(task.labels, 1))
    other = look(shuffled, rows, proxy, cache=tmp_path / "b", root=tmp_path)
    np.testing.assert_array_equal(seen, other)


def test_architectures_of_one_kind_share_a_cluster() -> None:
    from tests.ranking.fennec.test_archi2vec import FLAT, IMAGE, conv, mlp, operation_graph

    networks = {"a": (mlp(2), FLAT), "b": (mlp(3), FLAT), "c": (conv(2), IMAGE)}
    facts = {n: {"operations": operation_graph(*each).to_json()} for n, each in networks.items()}
    assert architecture_clusters(facts, 2) == {"a": 0, "b": 0, "c": 1}


def test_the_command_ranks_by_known_tasks(tmp_path: Path) -> None:
    for seed, name in enumerate(("new", "a", "b")):
        (tmp_path / name).mkdir()
        write_task(tmp_path / name, seed=seed)
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(zoo(broken="broken")))
    words = ["rank", str(tmp_path / "new" / "task.yaml"), "--zoo", str(tmp_path / "zoo.yaml")]
    words += ["--method", "fennec", "-o", str(tmp_path / "out")]
    learnt = [word for name in "ab" for word in ("--known", str(tmp_path / name / "task.yaml"))]

    def run(*more: str) -> Any:
        return CliRunner().invoke(app, [*words, *more])

    done = run(*learnt, "--proxy", "good", "--json")
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert value["models"][0]["name"] == "good"
    assert [each["model"] for each in value["failed"]] == ["broken"]
    assert (tmp_path / "out" / "recipe.yaml").exists()
    for more, message in (
        ((*learnt, "--proxy", "goood"), "did you mean 'good'"),
        (("--proxy", "good"), "learns from known tasks"),
        (learnt, "needs --zoo, and --proxy"),
        ((*learnt, "--proxy", "good", "--verify"), "takes no --verify"),
        ((*learnt, "--method", "fenec"), "did you mean 'fennec'"),
        ((*learnt, "--method", "posterior"), "are for --method fennec"),
    ):
        done = run(*more)
        assert done.exit_code == 2
        assert message in done.stderr
