"""The former place of ``build.index_writer.IndexWriter``, for scripts that import it from here. It goes with 0.1.0.

Reading does not import writing, so the class is looked up by name when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "IndexWriter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("splade_edge.runtime.build.index_writer").IndexWriter
