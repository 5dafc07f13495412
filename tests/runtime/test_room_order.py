"""The rooms that build, change, repair and measure an index import each other in one direction only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import splade_edge.runtime

RUNTIME = Path(splade_edge.runtime.__file__).parent
# Each room may import those before it.
ORDER = ("build", "update", "repair", "evaluation", "bench", "cli")


def rooms_imported_by(file: Path) -> set[str]:
    """Rooms that a module imports from, also within functions and for type hints."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 2:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("room", ORDER)
def test_imports_only_rooms_before_it(room: str) -> None:
    later = set(ORDER[ORDER.index(room) + 1 :])
    files = sorted((RUNTIME / room).glob("*.py"))
    assert files
    assert {file.name: rooms_imported_by(file) & later for file in files if rooms_imported_by(file) & later} == {}
