"""The core searches and imports nothing that is built on it, modules do not import each other in circles, and what one
search loads stays short enough to be read.
"""

from __future__ import annotations

import ast
import io
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from splade_edge.runtime import Document, build_index

from tests.tiny import write_artifact
from tests.transformers import write_transformer_artifact

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = "splade_edge.runtime"
PACKAGES = {
    RUNTIME: ROOT / "runtime",
    "splade_edge.export": ROOT / "export",
    "splade_edge.models": ROOT / "models",
    "benchmarks": ROOT / "benchmarks",
}
# What searches: these rooms, and the modules of the top level but for the first (it names everything that is public,
# and loads it when it is asked for).
CORE_ROOMS = {"encoder", "filters", "index", "numba_support", "scorer"}
FACADE = RUNTIME
LINES_OF_A_SEARCH = 6000
# Imports within functions that close a circle, and are to go. An entry that is no longer needed does no harm.
CLOSES_A_CIRCLE = {
    # loads the kernels of the scorer and of the encoder, which import Numba's support
    (f"{RUNTIME}.numba_support.backend", f"{RUNTIME}.warming"),
    ("benchmarks.engines", "benchmarks.peers"),
    ("benchmarks.soak", "benchmarks.swaps"),
    ("splade_edge.export.source", "splade_edge.export.quantize_rows"),
}


@cache
def modules() -> dict[str, Path]:
    """All modules by name."""
    return {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
        for package, folder in PACKAGES.items()
        for path in sorted(folder.rglob("*.py"))
    }


def import_statements(node: ast.AST, *, in_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports below a node that run, but for those that only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not in_functions:
            continue
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from import_statements(other, in_functions=in_functions)
        else:
            yield from import_statements(child, in_functions=in_functions)


def imported(name: str, *, in_functions: bool) -> set[str]:
    """The modules of ours that a module imports, with the packages that they are in."""
    path = modules()[name]
    found = set()
    for statement in import_statements(ast.parse(path.read_text(encoding="utf-8")), in_functions=in_functions):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
            continue
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        base = package[: len(package) + 1 - statement.level] if statement.level else []
        base += statement.module.split(".") if statement.module else []
        found |= {".".join((*base, alias.name)) for alias in statement.names} | {".".join(base)}
    return {package for other in found for package in packages_of(other)} & modules().keys() - set(packages_of(name))


def packages_of(name: str) -> list[str]:
    """A module and the packages that it is in: importing it imports them all."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The modules that import themselves, by way of others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for other in graph[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    return [name for name in graph if name in reached(name)]


def room(name: str) -> str | None:
    """The room of a module of the runtime; "" for the top level, None for a module of another package."""
    if not f"{name}.".startswith(f"{RUNTIME}."):
        return None
    parts = name.removeprefix(RUNTIME).strip(".").split(".")
    return parts[0] if (ROOT / "runtime" / parts[0]).is_dir() else ""


def is_core(name: str) -> bool:
    return name == FACADE or room(name) in CORE_ROOMS | {""}


def lines_of_code(paths: Iterable[Path]) -> int:
    """Lines of code: those with a token that is neither a comment nor part of a docstring."""
    total = 0
    for path in paths:
        source = path.read_text(encoding="utf-8")
        no_code = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
                ast.get_docstring(node, clean=False) is not None
            ):
                no_code |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
        code: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type not in (
                tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
            ):  # fmt: skip
                code |= set(range(token.start[0], token.end[0] + 1))
        total += len(code - no_code)
    return total


def test_the_core_imports_nothing_that_is_built_on_it() -> None:
    """Within functions neither."""
    wrong = {
        (name, other)
        for name in modules()
        if is_core(name) and name != FACADE
        for other in imported(name, in_functions=True)
        if not is_core(other)
    }
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles({name: imported(name, in_functions=False) for name in modules()}) == []


def test_no_functions_import_in_a_circle() -> None:
    graph = {name: imported(name, in_functions=True) for name in modules()}
    for name, other in CLOSES_A_CIRCLE:
        graph.get(name, set()).discard(other)
    assert circles(graph) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]


def loaded(code: str) -> tuple[list[str], list[str]]:
    """What a process that runs ``code`` has loaded: modules of ours, and of others the ones that are heavy."""
    report = "\nimport sys\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    process = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    names = process.stderr.split()
    return sorted(modules().keys() & set(names)), sorted({"numba", "onnxruntime", "torch"} & set(names))


def search(index: Path, options: str = "") -> str:
    return f"from {RUNTIME} import Searcher, use_kernels\nassert Searcher.open({str(index)!r}).search('cat'{options})\n"


@pytest.fixture(scope="module", params=["onnx", "native"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a few documents, with an encoder of this backend."""
    folder = tmp_path_factory.mktemp("rooms")
    write = write_artifact if request.param == "onnx" else write_transformer_artifact
    artifact = write(folder / "artifact")
    documents = [Document(str(n), "", "cat river" if n else "dog in the rain", {"year": 1990 + n}) for n in range(20)]
    build_index(folder / "index", documents, artifact, artifact)
    return folder / "index"


@pytest.mark.parametrize("kernels", [False, True])
def test_a_search_loads_the_core_alone(index: Path, kernels: bool) -> None:
    code = search(index)
    if kernels:
        code = code.replace("\nassert", "\nuse_kernels()\nassert", 1)
    ours, heavy = loaded(code)
    assert [name for name in ours if not is_core(name)] == []
    assert ("numba" in heavy) == kernels
    assert [name for name in ours if room(name) == "filters"] == []
    ours, _ = loaded(code.replace("'cat'", "'cat', where='year > 1990'"))
    assert [name for name in ours if not is_core(name)] == []
    assert [name for name in ours if room(name) == "filters"] != []


def test_what_a_search_loads_is_short(index: Path) -> None:
    """With the kernels. ``encoder/native`` is counted apart: it is a backend, as ONNX Runtime is."""
    ours, _ = loaded(f"import {RUNTIME}.scorer.numba_backend\n{search(index).replace(', use_kernels', '')}")
    backend = f"{RUNTIME}.encoder.native"
    assert lines_of_code(modules()[name] for name in ours if not name.startswith(backend)) <= LINES_OF_A_SEARCH
    assert lines_of_code(path for name, path in modules().items() if name.startswith(backend)) <= 1200


def test_lines_of_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(
        '"""Doc.\n\nMore."""\n\n# why\nx = (\n    1,  # one\n)\n\n\ndef f():\n    """Doc."""\n'
    )
    assert lines_of_code([tmp_path / "a.py"]) == 4


def test_deleting_loads_no_numba(index: Path, tmp_path: Path) -> None:
    """Nor an engine, where so few documents are deleted that no segments are merged."""
    copy = shutil.copytree(index, tmp_path / "copy")
    code = f"from {RUNTIME}.cli.main import main\nassert main(['delete', {str(copy)!r}, '2']) == 0\n"
    _, heavy = loaded(code)
    assert heavy == []
