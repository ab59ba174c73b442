"""Write the JSON Schemas of all results: ``python docs/make_schemas.py`` (tested)."""

from __future__ import annotations

import json
from pathlib import Path

from stockpot.continual.schema import ContinualResults
from stockpot.ranking.evaluated import RankingEvaluation
from stockpot.ranking.schema import RankResults
from stockpot.recycling.schema import RecycleResults
from stockpot.results import VerbResults
from stockpot.soups import SoupResults
from stockpot.tangent.forgetting.schema import Certificate
from stockpot.tangent.schema import TangentResults

MODELS: dict[str, type[VerbResults]] = {
    "certificate": Certificate,
    "continual": ContinualResults,
    "history": RankingEvaluation,
    "rank": RankResults,
    "recycle": RecycleResults,
    "soup": SoupResults,
    "tangent": TangentResults,
}
"""By the name of the schema's file."""

FOLDER = Path(__file__).with_name("schemas")


def schema(name: str) -> str:
    """The schema of one verb's results as it is written in the file."""
    value = MODELS[name].model_json_schema(by_alias=True, mode="serialization")
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in MODELS:
        (FOLDER / f"{name}.json").write_text(schema(name), encoding="utf-8")


if __name__ == "__main__":
    main()
