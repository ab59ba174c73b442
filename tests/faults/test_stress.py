"""Writers, collectors of garbage and reviewers at once on one registry: nothing is lost.

``STOCKPOT_STRESS_SECONDS`` says how long, ``STOCKPOT_STRESS_CREW`` how many of each ("12,16,12").
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stockpot.registry import Registry, add, checkout, init_registry
from stockpot.registry.checking import verify
from tests.faults.world import SMALL
from tests.registry.models import files, moved, write_model

SECONDS = float(os.environ.get("STOCKPOT_STRESS_SECONDS", "20"))
CREW = [int(count) for count in os.environ.get("STOCKPOT_STRESS_CREW", "3,2,3").split(",")]


def work(role: str, number: int, root: Path) -> None:
    """What one process does until its time is over: a line for each thing that it has done."""
    import time

    from stockpot.community import contribute, contributions, refuse, review
    from stockpot.errors import StockpotError
    from stockpot.registry.collecting import gc

    end, turn = time.monotonic() + SECONDS, 0
    with (root / f"{role}{number}.log").open("w", buffering=1) as log:
        while time.monotonic() < end:
            turn += 1
            try:
                with Registry(root / "registry") as registry:
                    if role == "writer":
                        name = f"w{number}n{turn}"
                        state = moved(SMALL, 1000 * number + turn)
                        model = write_model(root / "models" / name, state)
                        if turn % 2:
                            done = add(registry, model, parents=["base"], threads=1).id
                        else:
                            done = contribute(registry, model).model
                        print(json.dumps([name, done]), file=log)
                    elif role == "gc":
                        gc(registry, grace=0)
                        print(json.dumps(["gc", turn]), file=log)
                    elif known := contributions(registry):
                        chosen = known[(number * 7 + turn) % len(known)]
                        if turn % 2:
                            why = f"no {number}.{turn}"
                            refuse(registry, chosen, why)
                        else:
                            why = review(registry, chosen).reason
                        print(json.dumps([chosen.id, why]), file=log)
            except StockpotError as error:
                # Garbage is being collected, or somebody else was faster.
                if "busy" not in error.message and "somebody else" not in error.message:
                    raise


@pytest.mark.slow
def test_nothing_is_lost_where_many_work_at_once(tmp_path: Path) -> None:
    with init_registry(tmp_path / "registry") as registry:
        add(registry, write_model(tmp_path / "base", SMALL))
        registry.advance("main", "base", {"what": "add"})
    crew = [
        (role, number)
        for role, count in zip(("writer", "gc", "reviewer"), CREW, strict=True)
        for number in range(count)
    ]
    start = "import sys; from pathlib import Path; from tests.faults.test_stress import work; "
    start += "work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", start, role, str(number), str(tmp_path)], env=environment
        )
        for role, number in crew
    ]
    assert [process.wait() for process in running] == [0] * len(running)

    def logged(role: str) -> list[list[str]]:
        lines = [path.read_text().splitlines() for path in sorted(tmp_path.glob(f"{role}*.log"))]
        return [json.loads(line) for each in lines for line in each]

    added, reviewed = logged("writer"), logged("reviewer")
    assert added
    assert logged("gc")
    with Registry(tmp_path / "registry") as registry:
        assert verify(registry).problems == ()
        assert not registry.quarantine()
        for name, model in added:
            checkout(registry, model, tmp_path / "out" / name, threads=1)
            assert files(tmp_path / "out" / name) == files(tmp_path / "models" / name)
        kept = sorted(
            [value["contribution"], check["words"]]
            for _, value in registry.documents("reviews")
            for check in value["checks"]
            if check["name"] == "maintainer"
        )
        refused = [line for line in reviewed if line[1].startswith("no ")]
        # A refusal that came while a review ran stands in that one, too.
        assert {tuple(line) for line in refused} <= {tuple(line) for line in kept}
        assert len(list(registry.documents("reviews"))) == len(reviewed)
        fresh = [row.id for row in registry.index.rows()]
    assert len(fresh) == len(set(fresh)) == len(added) + 1
