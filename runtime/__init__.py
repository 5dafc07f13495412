"""Search with an exported encoder and an index, on a CPU, without PyTorch."""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from .artifact import Artifact, open_artifact
    from .bench.approximation import Approximation, measure_approximation
    from .build.corpus import Record, read_corpus
    from .build.indexing import build_index
    from .build.lines import BadLines
    from .build.passages import Passages
    from .document import Document
    from .encoder import Encoder
    from .errors import (
        ArtifactError,
        CorpusError,
        IndexFormatError,
        IndexLockedError,
        IndexReplacedError,
        InputError,
        IntegrityError,
        MissingExtraError,
        SpladeEdgeError,
        SpladeEdgeWarning,
        StorageError,
    )
    from .filters import WhereError, literal
    from .index import Index
    from .searcher import Explanation, Hit, Searcher
    from .update.transaction import Commit
    from .update.updater import IndexUpdater
    from .vectors import SparseBatch, SparseVector
    from .warming import use_kernels

    __version__: str

# Loaded when asked for, so that `import splade_edge.runtime` costs no engine and no compiler.
_HOMES = {
    "Approximation": "bench.approximation",
    "Artifact": "artifact",
    "ArtifactError": "errors",
    "BadLines": "build.lines",
    "Commit": "update.transaction",
    "CorpusError": "errors",
    "Document": "document",
    "Encoder": "encoder",
    "Explanation": "searcher",
    "Hit": "searcher",
    "Index": "index",
    "IndexFormatError": "errors",
    "IndexLockedError": "errors",
    "IndexReplacedError": "errors",
    "IndexUpdater": "update.updater",
    "InputError": "errors",
    "IntegrityError": "errors",
    "MissingExtraError": "errors",
    "Passages": "build.passages",
    "Record": "build.corpus",
    "Searcher": "searcher",
    "SparseBatch": "vectors",
    "SparseVector": "vectors",
    "SpladeEdgeError": "errors",
    "SpladeEdgeWarning": "errors",
    "StorageError": "errors",
    "WhereError": "filters",
    "build_index": "build.indexing",
    "literal": "filters",
    "measure_approximation": "bench.approximation",
    "open_artifact": "artifact",
    "read_corpus": "build.corpus",
    "use_kernels": "warming",
}

__all__ = [
    "Approximation",
    "Artifact",
    "ArtifactError",
    "BadLines",
    "Commit",
    "CorpusError",
    "Document",
    "Encoder",
    "Explanation",
    "Hit",
    "Index",
    "IndexFormatError",
    "IndexLockedError",
    "IndexReplacedError",
    "IndexUpdater",
    "InputError",
    "IntegrityError",
    "MissingExtraError",
    "Passages",
    "Record",
    "Searcher",
    "SparseBatch",
    "SparseVector",
    "SpladeEdgeError",
    "SpladeEdgeWarning",
    "StorageError",
    "WhereError",
    "build_index",
    "literal",
    "measure_approximation",
    "open_artifact",
    "read_corpus",
    "use_kernels",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        return importlib.import_module(".version", __name__).VERSION
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
