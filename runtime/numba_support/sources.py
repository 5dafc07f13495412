"""Which source files the machine code of a kernel depends on: its own, and those that it imports, transitively.

A kernel freezes the helpers and the constants that its file imports. So the digest covers every file of this package
that can be reached through imports. Imports are found by their text, because Python's parser would take longer than
loading the kernels does. Only imports at the beginning of a line count: one under ``TYPE_CHECKING`` or inside of a
function gives a kernel nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_PACKAGE = __name__.rpartition(".")[0].rpartition(".")[0]  # splade_edge.runtime
_ROOT = Path(__file__).parents[1]
_IMPORT = re.compile(rf"^from +(\.+|{re.escape(_PACKAGE)}(?=[. ]))([\w.]*) +import +(\([^)]*\)|.*)", re.MULTILINE)
# It says how kernels are compiled. Nothing that it imports gets into a kernel.
_COMPILING = Path(__file__).with_name("cache.py")


def source_digest(path: Path) -> str:
    """Return a digest of the contents of a source file and of all that it imports from this package.

    Parameters
    ----------
    path
        A Python file. Relative imports are followed wherever they lead, absolute ones into this package.

    Returns
    -------
    str
        SHA-256, in hexadecimal. Times and places of files do not count.

    Raises
    ------
    OSError
        If a file cannot be read, for example because it is in a zip file.
    """
    digest = hashlib.sha256()
    for one in sorted(_read(file)[0] for file in dependencies(path)):
        digest.update(one)
    return digest.hexdigest()


def dependencies(path: Path) -> set[Path]:
    """Return the files that :func:`source_digest` covers, ``path`` included."""
    found, waiting = {path}, [path]
    while waiting:
        new = _read(waiting.pop())[1] - found
        found |= new
        waiting += new
    return found


@cache
def _read(path: Path) -> tuple[bytes, frozenset[Path]]:
    """The SHA-256 of a file, and the files that it imports."""
    data = path.read_bytes()
    imports = frozenset() if path == _COMPILING else frozenset(_imports(path, data.decode()))
    return hashlib.sha256(data).digest(), imports


def _imports(path: Path, text: str) -> Iterator[Path]:
    for start, module, names in _IMPORT.findall(text):
        base = path.parents[len(start) - 1] if start.startswith(".") else _ROOT
        base = base.joinpath(*filter(None, module.split(".")))
        if (file := base.with_name(f"{base.name}.py")).is_file():
            yield file
        elif (file := base / "__init__.py").is_file():
            yield file
            for name in re.findall(r"\w+", names):
                inside = base / f"{name}.py", base / name / "__init__.py"
                yield from (file for file in inside if file.is_file())
