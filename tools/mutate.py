"""Would the tests notice? Change one thing in the source, run the tests of its module, count.

    python tools/mutate.py                    120 mutants, seed 0; exit 1 below 93 % noticed
    python tools/mutate.py --count 30 --only evaluation

A mutant is one swapped comparison, operator, truth value, ``and`` / ``or`` or number, drawn at
random (fixed seed) from the modules below, in a copy of the source. It is noticed where the tests
fail or take ten times as long. Those that nobody notices are printed: read them, for some change
nothing that can be seen (equivalent mutants), and write a test for the others.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEAST = 0.93
MODULES = {
    "merging/selection.py": ("merging/test_selection.py",),
    "merging/statistics.py": ("merging/methods/test_statistics.py",),
    "merging/methods/stock.py": ("merging/test_stock.py",),
    "evaluation/intervals.py": ("evaluation/test_intervals.py",),
    "evaluation/crossed.py": ("evaluation/test_crossed.py",),
    "evaluation/selection.py": ("evaluation/test_selection.py",),
    "evaluation/connectivity.py": ("evaluation/test_connectivity.py",),
    "recycling/choice.py": ("recycling/test_choice.py",),
    "ranking/halving.py": ("ranking/rank/test_halving.py",),
    "ranking/posterior/condition.py": ("ranking/posterior",),
    "ranking/posterior/covariance.py": ("ranking/posterior",),
    "ranking/posterior/evidence.py": ("ranking/posterior",),
    "ranking/posterior/fallback.py": ("ranking/posterior",),
    "ranking/posterior/forecast.py": ("ranking/posterior",),
    "ranking/posterior/learning.py": ("ranking/posterior",),
    "ranking/posterior/marginals.py": ("ranking/posterior",),
    "ranking/posterior/scale.py": ("ranking/posterior",),
}
"""Source below ``src/stockpot``, and the tests below ``tests`` that state its facts."""

_PAIRS = (
    (ast.Lt, ast.LtE),
    (ast.Gt, ast.GtE),
    (ast.Eq, ast.NotEq),
    (ast.Is, ast.IsNot),
    (ast.In, ast.NotIn),
    (ast.Add, ast.Sub),
    (ast.Mult, ast.Div),
    (ast.And, ast.Or),
)
_SWAPS = dict(_PAIRS) | {second: first for first, second in _PAIRS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=120, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="modules whose path holds this")
    arguments = parser.parse_args()
    modules = [name for name in MODULES if arguments.only in name]
    pool = [(name, n) for name in modules for n in range(len(list(places(_tree(name)))))]
    drawn = random.Random(arguments.seed).sample(pool, min(arguments.count, len(pool)))
    alive = []
    with tempfile.TemporaryDirectory(prefix="mutate-") as scratch:
        copy = Path(scratch) / "src"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
        longest = {}
        for tests in {MODULES[name] for name, _ in drawn}:
            start = time.monotonic()
            if not passes(copy, tests, None):
                print(f"these fail as it is: {' '.join(tests)}")
                return 1
            longest[tests] = 10 * (time.monotonic() - start) + 30
        for number, (name, place) in enumerate(sorted(drawn), 1):
            text, what = mutant(name, place)
            path = copy / "stockpot" / name
            path.write_text(text, encoding="utf-8")
            survived = passes(copy, MODULES[name], longest[MODULES[name]])
            shutil.copyfile(ROOT / "src" / "stockpot" / name, path)
            alive += [what] if survived else []
            print(f"{number:4} {'ALIVE' if survived else 'noticed'}  {what}", flush=True)
    share = 1 - len(alive) / len(drawn)
    print(f"{len(drawn) - len(alive)} of {len(drawn)} noticed ({share:.0%}); not noticed:")
    print("\n".join(alive))
    return int(share < LEAST)


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """What can be changed: a node and the field of it; the same order for equal trees."""
    hidden = set()
    for node in ast.walk(tree):  # types, and decorators such as dataclass(frozen=True)
        outside = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        outside += getattr(node, "decorator_list", [])
        hidden |= {id(inner) for outer in outside if outer for inner in ast.walk(outer)}
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in _SWAPS:
            yield node, "op"
        elif isinstance(node, ast.Compare):
            yield node, "ops"
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
            yield node, "value"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield node, "operand"


def mutant(name: str, place: int) -> tuple[str, str]:
    """The source with one thing changed, and which."""
    tree = _tree(name)
    node, field = list(places(tree))[place]
    before = ast.unparse(node)
    if field == "op":
        node.op = _SWAPS[type(node.op)]()
    elif field == "ops":
        node.ops[0] = _SWAPS[type(node.ops[0])]()
    elif field == "value":
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
    elif isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
    else:
        node.operand = ast.UnaryOp(ast.Not(), node.operand)
    return ast.unparse(tree), f"{name}:{node.lineno}: {before}  ->  {ast.unparse(node)}"


def passes(source: Path, tests: tuple[str, ...], limit: float | None) -> bool:
    """Whether the tests pass on ``source`` within ``limit`` seconds."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *(f"tests/{test}" for test in dict.fromkeys(tests))],
            cwd=ROOT,
            env=environment,
            timeout=limit,
            capture_output=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _tree(name: str) -> ast.AST:
    return ast.parse((ROOT / "src" / "stockpot" / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
