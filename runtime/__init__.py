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

# What is public, by the module that has it, which is loaded when it is asked for: `import splade_edge.runtime` costs no
# engine and no compiler.
_PUBLIC = {
    "artifact": "Artifact open_artifact",
    "bench.approximation": "Approximation measure_approximation",
    "build.corpus": "Record read_corpus",
    "build.indexing": "build_index",
    "build.lines": "BadLines",
    "build.passages": "Passages",
    "document": "Document",
    "encoder": "Encoder",
    "errors": "ArtifactError CorpusError IndexFormatError IndexLockedError IndexReplacedError InputError "
    "IntegrityError MissingExtraError SpladeEdgeError SpladeEdgeWarning StorageError",
    "filters": "WhereError literal",
    "index": "Index",
    "searcher": "Explanation Hit Searcher",
    "update.transaction": "Commit",
    "update.updater": "IndexUpdater",
    "vectors": "SparseBatch SparseVector",
    "warming": "use_kernels",
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
    for module, names in _PUBLIC.items():
        if name in names.split():
            return getattr(importlib.import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
