"""Write the table of attacks in docs/security.md from the tests: ``python docs/make_attacks.py``.

A test compares the page with what this writes, so that the numbers cannot go stale.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "security.md"
BEGIN = "<!-- Written by docs/make_attacks.py; change the tests, not this table. -->\n"
END = "<!-- End of the table. -->\n"

INPUTS: dict[str, tuple[str, str | None]] = {
    # a test: what it feeds, and to which command where none is among its parameters
    "test_safetensors": ("safetensors files", None),
    "test_pytorch_files": ("PyTorch files", None),
    "test_what_is_no_file": ("pipes, devices, links", None),
    "test_json_beside_weights": ("indexes and configs", None),
    "test_adapters": ("adapters", None),
    "test_components_and_shards": ("components and shards that lead elsewhere", None),
    "test_what_lies_beside_is_no_link": ("links beside weights", None),
    "test_gguf": ("GGUF files", None),
    "test_a_config_of_a_quantisation_that_lies": ("configs of quantisations", "merge"),
    "test_damaged_tables_of_an_encoding": ("damaged encodings", "merge"),
    "test_model_folders": ("model folders that lie", None),
    "test_inputs": ("inputs", None),
    "test_evaluators": ("descriptions of evaluators", None),
    "test_rows_of_an_evaluator": ("rows of evaluators", "soup"),
    "test_tokenizers": ("tokenizers", None),
    "test_a_folder_with_a_bad_record": ("records", None),
    "test_a_bad_record_is_not_pushed": ("records", "push"),
    "test_a_bad_record_in_the_header_of_a_file": ("records in headers", "registry add"),
    "test_a_bad_list_of_models_does_not_land": ("lists of models", "registry land"),
    "test_what_is_said_of_a_contribution_is_checked": ("names, authors, notes", "contribute"),
    "test_histories": ("histories and stores", None),
    "test_a_store_that_is_added_to": ("histories and stores", "history add"),
    "test_what_is_said_of_a_result_is_checked": ("names and values", "history add"),
    "test_outputs": ("outputs that cannot be", None),
    "test_a_new_colleague_on_s3": (
        "damaged and stray entries on S3",
        "registry log, checkout, verify, repair",
    ),
    "test_hostile_yaml": ("YAML files", None),
    "test_a_recipe_that_is_no_file": ("pipes, devices, links", None),
    "test_code_that_nobody_offers_does_not_run": ("functions of others", None),
    "test_remote_code_does_not_run": ("functions of others", None),
    "test_arrays": ("arrays", None),
    "test_tables": ("tables", None),
    "test_images": ("images", None),
    "test_a_damaged_entry": ("damaged entries", "registry log, show, verify, repair, dashboard"),
    "test_every_command_works_beside_it": (
        "damaged, newer and stray entries",
        "registry log, tree, show, checkout, diff, gc, reindex, contribute, review",
    ),
    "test_a_stray_file_disturbs_nothing": (
        "stray files",
        "registry log, show, verify, repair, dashboard",
    ),
    "test_what_a_newer_version_wrote_stays": (
        "newer entries",
        "registry log, show, verify, repair, dashboard",
    ),
}
NAMES = {"tangent": "tangent train"}


class Collector:
    """Counts cases by command and input."""

    def __init__(self) -> None:
        self.cases: dict[str, Counter[str]] = defaultdict(Counter)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            known = INPUTS.get(item.function.__name__)
            if known is not None:
                params = item.callspec.params if hasattr(item, "callspec") else {}
                command = params.get("command") or known[1]
                self.cases[NAMES.get(command, command)][known[0]] += 1


def table() -> str:
    """The table as it belongs into the page."""
    collector = Collector()
    options = ["--collect-only", "-qq", "-m", "", "-p", "no:cacheprovider"]
    if pytest.main([*options, str(DOCS.parent / "tests" / "attacks")], [collector]):
        raise SystemExit("the tests cannot be collected")
    lines = ["| command | cases | hostile input |", "|---|---|---|"]
    total = sum(sum(counts.values()) for counts in collector.cases.values())
    for command, counts in sorted(
        collector.cases.items(), key=lambda item: (-sum(item[1].values()), item[0])
    ):
        words = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        shown = ", ".join(f"`{name}`" for name in command.split(", "))
        lines.append(f"| {shown} | {sum(counts.values())} | {words} |")
    return "\n".join([*lines, f"| all | {total} | |", ""])


def page(text: str) -> str:
    """The page with the table of now."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
