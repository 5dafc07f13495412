"""Search with an exported encoder and an index, on a CPU, without PyTorch."""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

    from .approximation import Approximation, measure_approximation
    from .artifact import Artifact, open_artifact
    from .corpus import Document, Record, read_corpus
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
    from .index import Index
    from .index.transaction import Commit
    from .indexing import build_index
    from .jit import use_kernels
    from .lines import BadLines
    from .passages import Passages
    from .searcher import Explanation, Hit, Searcher
    from .updating import IndexUpdater
    from .vectors import SparseBatch, SparseVector
    from .where import WhereError, literal

    __version__: str

# Loaded when asked for, so that `import splade_edge.runtime` costs no engine and no compiler.
_HOMES = {
    "Approximation": "approximation",
    "Artifact": "artifact",
    "ArtifactError": "errors",
    "BadLines": "lines",
    "Commit": "index.transaction",
    "CorpusError": "errors",
    "Document": "corpus",
    "Encoder": "encoder",
    "Explanation": "searcher",
    "Hit": "searcher",
    "Index": "index",
    "IndexFormatError": "errors",
    "IndexLockedError": "errors",
    "IndexReplacedError": "errors",
    "IndexUpdater": "updating",
    "InputError": "errors",
    "IntegrityError": "errors",
    "MissingExtraError": "errors",
    "Passages": "passages",
    "Record": "corpus",
    "Searcher": "searcher",
    "SparseBatch": "vectors",
    "SparseVector": "vectors",
    "SpladeEdgeError": "errors",
    "SpladeEdgeWarning": "errors",
    "StorageError": "errors",
    "WhereError": "where",
    "build_index": "indexing",
    "literal": "where",
    "measure_approximation": "approximation",
    "open_artifact": "artifact",
    "read_corpus": "corpus",
    "use_kernels": "jit",
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
