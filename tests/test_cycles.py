"""No module of the project imports, on any path, a module that imports it. Imports inside functions count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = {
    "runtime": "splade_edge.runtime",
    "models": "splade_edge.models",
    "export": "splade_edge.export",
    "benchmarks": "benchmarks",
}


def modules(rooms: dict[str, str] = ROOMS) -> dict[str, Path]:
    """Every module of these rooms by its name."""
    found = {}
    for room, package in rooms.items():
        for path in (ROOT / room).rglob("*.py"):
            parts = path.relative_to(ROOT / room).with_suffix("").parts
            if parts[0] == "optimum_register":  # a package of optimum's, which imports ours by its full name
                continue
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the project that a module imports anywhere but under ``if TYPE_CHECKING``."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in _without_type_checking(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import module` imports the module; `from module import name` the module the name is in.
            found |= {base if f"{base}.{alias.name}" not in known else f"{base}.{alias.name}" for alias in node.names}
    return (found & known.keys()) - {name}


def _without_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _without_type_checking(child)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The circles of a graph: sets of nodes that reach each other (Tarjan 1972), each sorted."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in order:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], order[other])
        if lowest[node] == order[node]:
            place = stack.index(node)
            if len(stack) - place > 1:
                found.append(sorted(stack[place:]))
            del stack[place:]

    for node in sorted(graph):
        if node not in order:
            visit(node)
    return found


def test_the_walk_sees_a_circle():
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_rooms_have_no_import_cycles():
    known = modules()
    assert len(known) > 150
    graph = {name: imports(name, path, known) for name, path in known.items()}
    # Those of the runtime are another commit's to break.
    outside = {name: {other for other in others if ".runtime" not in other} for name, others in graph.items()}
    assert cycles(outside) == []
