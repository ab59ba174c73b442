"""How large and how tangled the house is: measured from the source, bounded by pyproject.toml.

    python tools/house.py            print every measure; exit 1 where one is beyond its bound
    python tools/house.py --list     name the places behind the numbers

Bounds stand under ``[tool.house]``. They only go down: whoever makes a number smaller writes the
smaller number there.

- ``code_lines``: lines with code, without blank lines, comments and docstrings.
- ``class_clashes``: names that two or more public classes share.
- ``untyped_results``: ``dict[str, Any]`` in the packages of the verbs.
- ``import_circles``: groups of modules that import each other, imports inside functions included,
  those for type checkers only left out.
- ``long_functions``: functions of more than 60 lines, docstring aside.
- ``duplicates``: functions of three statements or more that stand elsewhere to the letter.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
VERBS = ("recycling", "ranking", "tangent", "continual", "registry", "community")
LONGEST = 60
SMALLEST = 3
_SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True)
class Module:
    """One file: its dotted name, text and syntax tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The room: the second part of the dotted name."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else parts[0]


@dataclass
class Measures:
    """The numbers, and the places behind them."""

    lines: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def value(self, name: str) -> int:
        """The number that is bounded."""
        return sum(self.lines.values()) if name == "code_lines" else len(self.places[name])


NAMES = (
    "code_lines",
    "class_clashes",
    "untyped_results",
    "import_circles",
    "long_functions",
    "duplicates",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="name the places behind the numbers")
    arguments = parser.parse_args()
    bounds = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["house"]
    measured = measure(list(read_modules(SOURCE)))
    for package, count in measured.lines.most_common():
        print(f"{count:8,}  {package}")
    beyond = False
    for name in NAMES:
        value, bound = measured.value(name), bounds[name]
        state = "BEYOND THE BOUND" if value > bound else "" if value == bound else "lower the bound"
        beyond |= value > bound
        print(f"{value:8,}  {name.replace('_', ' ')} (at most {bound:,}) {state}".rstrip())
        if arguments.list or value > bound:
            for place in measured.places[name]:
                print(f"          {place}")
    return int(beyond)


def read_modules(source: Path) -> Iterator[Module]:
    """Every module below ``source``."""
    for path in sorted(source.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        yield Module(name, path, text, ast.parse(text))


def measure(modules: list[Module]) -> Measures:
    """All numbers of some modules."""
    measured = Measures()
    for module in modules:
        measured.lines[module.package] += code_lines(module)
    measured.places["class_clashes"] = class_clashes(modules)
    measured.places["untyped_results"] = untyped(modules)
    measured.places["import_circles"] = circles(import_graph(modules))
    functions = [(module, node) for module in modules for node in _functions(module)]
    measured.places["long_functions"] = [
        f"{module.name}:{node.name} ({_length(node)} lines)"
        for module, node in functions
        if _length(node) > LONGEST
    ]
    measured.places["duplicates"] = duplicates(functions)
    return measured


def code_lines(module: Module) -> int:
    """Lines with code: what the tokenizer sees, less docstrings."""
    docstrings: set[int] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if _is_text(first):
                docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type not in _SILENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def class_clashes(modules: list[Module]) -> list[str]:
    """Public class names that stand in two modules or more."""
    homes: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module.name)
    return [f"{name}: {', '.join(where)}" for name, where in sorted(homes.items()) if where[1:]]


def untyped(modules: list[Module]) -> list[str]:
    """Places in the verbs that pass ``dict[str, Any]``."""
    return [
        f"{module.name}:{node.lineno}"
        for module in modules
        if module.package in VERBS
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Subscript) and ast.unparse(node) == "dict[str, Any]"
    ]


def import_graph(modules: list[Module]) -> dict[str, set[str]]:
    """Module -> the modules of this source that it imports when it runs."""
    known = {module.name for module in modules}
    graph: dict[str, set[str]] = {}
    for module in modules:
        skipped = {
            id(inner)
            for node in ast.walk(module.tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for inner in ast.walk(node)
        }
        targets: set[str] = set()
        for node in ast.walk(module.tree):
            if id(node) in skipped:
                continue
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    targets.add(inner if inner in known else node.module)
        graph[module.name] = (targets & known) - {module.name}
    return graph


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Strongly connected groups of two modules or more (Tarjan 1972), as words."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = []
            while True:
                group.append(stack.pop())
                if group[-1] == name:
                    break
            if len(group) > 1:
                groups.append(sorted(group))

    sys.setrecursionlimit(10_000)
    for name in sorted(graph):
        if name not in index:
            visit(name)
    return [" <-> ".join(group) for group in sorted(groups)]


def duplicates(functions: list[tuple[Module, ast.FunctionDef]]) -> list[str]:
    """Functions whose bodies, docstrings aside, are another's to the letter."""
    homes: dict[str, list[str]] = defaultdict(list)
    for module, node in functions:
        body = node.body[1:] if _is_text(node.body[0]) else node.body
        if sum(isinstance(inner, ast.stmt) for part in body for inner in ast.walk(part)) < SMALLEST:
            continue
        key = ast.dump(node.args) + "".join(ast.dump(part) for part in body)
        homes[key].append(f"{module.name}:{node.name}")
    return [" = ".join(where) for where in homes.values() if where[1:]]


def _functions(module: Module) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def _length(node: ast.FunctionDef) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    return lines - (_height(first) if _is_text(first) else 0)


def _height(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _is_text(node: ast.stmt | None) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


if __name__ == "__main__":
    sys.exit(main())
