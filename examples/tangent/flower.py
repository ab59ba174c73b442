"""Federated components: every site trains on its own data, the server only sums.

    python examples/tangent/flower.py recipe.yaml -o federated            # in this process
    python examples/tangent/flower.py recipe.yaml -o federated --flower   # Flower's simulation

The recipe is one of `stockpot tangent train`, with a component for each site. One round of
federated averaging on deltas is exactly the composition of the sites' components, weighted by their
examples; so there is one round, the server never needs the base or any data, and a site that
withdraws later is left out of the sum. Flower (`pip install "flwr[simulation]"`) is needed for
`--flower` alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from stockpot.tangent import Component, aggregate, from_arrays, plan_recipe, to_arrays, train

Sent = tuple[list[np.ndarray], dict[str, Any]]


def site(recipe: Path, name: str, work: Path) -> Sent:
    """What a site does: train its component, and send arrays with their description."""
    done = train(recipe, work / name, only=[name], backend="serial", quiet=True)
    return to_arrays(Component.load(done.components[0]))


def server(received: list[Sent]) -> Component:
    """What the server does: check every component against its hash and sum them."""
    components = [from_arrays(arrays, about) for arrays, about in received]
    return aggregate(components, "examples", name="federated")


def client_app(recipe: Path, names: list[str], work: Path) -> Any:
    """A Flower ``ClientApp``: node number i is the site ``names[i]``."""
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train_site(message: Message, context: Context) -> Message:
        name = names[int(context.node_config["partition-id"])]
        arrays, about = site(recipe, name, work)
        content = {
            "arrays": ArrayRecord(numpy_ndarrays=arrays),
            "metrics": MetricRecord({"num-examples": about["examples"]}),
            "about": ConfigRecord({"component": json.dumps(about)}),
        }
        return Message(content=RecordDict(content), reply_to=message)

    return app


def server_app(sites: int, output: Path) -> Any:
    """A Flower ``ServerApp`` that asks every site once and writes the sum to ``output``."""
    from flwr.app import ArrayRecord, Context, MetricRecord
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg

    class Composition(FedAvg):
        """Federated averaging, but in float64, in a fixed order, with every base checked."""

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            valid, failed = self._check_and_log_replies(replies, is_train=True, validate=False)
            if failed:
                raise RuntimeError(f"{len(failed)} of {sites} sites failed; see Flower's log")
            composed = server(
                [
                    (
                        reply.content["arrays"].to_numpy_ndarrays(),
                        json.loads(reply.content["about"]["component"]),
                    )
                    for reply in valid
                ]
            )
            composed.save(output)
            arrays, _ = to_arrays(composed)
            metrics = MetricRecord({"num-examples": composed.examples})
            return ArrayRecord(numpy_ndarrays=arrays), metrics

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = Composition(
            fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites
        )
        nothing = ArrayRecord(numpy_ndarrays=[np.zeros(1, dtype=np.float32)])
        strategy.start(grid=grid, initial_arrays=nothing, num_rounds=1)

    return app


def main() -> None:
    """Train all sites, in this process or under Flower, and say what was composed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--output", "-o", type=Path, default=Path("federated"))
    parser.add_argument("--flower", action="store_true", help="run under Flower's simulation")
    options = parser.parse_args()
    recipe, output = options.recipe.resolve(), options.output.resolve()
    names = [planned.name for planned in plan_recipe(recipe)]
    file = output / "composed.safetensors"
    if options.flower:
        from flwr.simulation import run_simulation

        run_simulation(
            server_app=server_app(len(names), file),
            client_app=client_app(recipe, names, output),
            num_supernodes=len(names),
        )
    else:
        server([site(recipe, name, output) for name in names]).save(file)
    composed = Component.load(file)
    for term in composed.settings["composed"]:
        print(f"{term['weight']:.4f}  {term['task']} ({term['examples']} examples)")
    print(f"composed: {file}  {composed.digest[:12]}")


if __name__ == "__main__":
    main()
