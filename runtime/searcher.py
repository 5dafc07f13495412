"""Query text in, documents out: an index and the query encoder it carries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .artifact import MANIFEST_NAME as ARTIFACT_MANIFEST
from .artifact import Backend, Precision
from .encoder import Encoded, Encoder
from .encoder.tokenizer import ReadText
from .errors import ArtifactError, IndexFormatError, InputError
from .files import safe_join
from .forking import Threads, new_lock
from .idf import Factors, check_power
from .index import Index
from .manifest import FileEntry
from .threads import resolve_threads
from .vectors import SparseVector

if TYPE_CHECKING:
    from .filters import Predicate

Allowed = npt.NDArray[np.bool_] | None
Where: TypeAlias = "str | Predicate | None"
_NO_TERMS = SparseVector(np.empty(0, np.int32), np.empty(0, np.float32))
_BATCH = 512  # queries encoded and searched at a time by search_many


@dataclass(frozen=True)
class Hit:
    """One answer.

    ``passage`` is the best passage, where documents are split. ``ordinal`` is the document's place in the index and
    ``unit`` that of what was scored: the document itself, or its passage.
    """

    ordinal: int
    unit: int
    score: float
    id: str
    title: str
    text: str
    metadata: dict[str, Any]
    passage: str | None


@dataclass(frozen=True)
class TermContribution:
    """What a query term earned in a document: ``weight`` x document weight = ``score``."""

    term: str
    weight: float
    score: float


@dataclass(frozen=True)
class Explanation:
    """Why a hit has its score: the query's terms and weights, and contributions that add up to the score, largest
    first.
    """

    query: list[tuple[str, float]]
    contributions: list[TermContribution]


class Searcher:
    """An index with its query encoder, loaded. Safe from several threads, and in children of the process. It can be
    pickled: see :meth:`__reduce__`.

    It searches the generation it has opened until :meth:`refresh`; each search is of one generation as a whole.
    ``threads`` is one setting for encoder and scorer. ``approximate``: see :meth:`Index.search_vector`; None is exact.
    ``idf``: the power of the terms' inverse document frequency in the index that query weights are multiplied with (see
    :func:`idf_factors`); None: what the encoder's artifact states. A query without a known word finds nothing.
    """

    def __init__(
        self,
        index: Index,
        encoder: Encoder,
        threads: int | None = None,
        approximate: float | None = None,
        idf: float | None = None,
    ) -> None:
        _check_vocabulary(index, encoder)
        self.encoder = encoder
        self._idf = check_power(encoder.artifact.manifest.query_idf if idf is None else idf)
        self._state = _State(index, encoder.restricted(index.terms), Factors(index, encoder.vocab_size, self._idf))
        self._refreshing = new_lock()
        self.threads = resolve_threads(threads)
        self.approximate = approximate

    @property
    def index(self) -> Index:
        """The generation of the index that is searched."""
        return self._state.index

    def refresh(self) -> bool:
        """Go on with the newest generation of the index; returns whether there was a newer one.

        Searches that are running end with the generation they began with. It never goes on with another index: raises
        what :meth:`Index.refresh` does, and ArtifactError where the index was given another encoder; the searcher then
        stays as it is.
        """
        with self._refreshing:
            before = self._state
            index = before.index.refresh()
            if index is before.index:
                return False
            _check_vocabulary(index, self.encoder)
            if _carried_encoder(index) != _carried_encoder(before.index):
                raise ArtifactError(f"another query encoder has taken the place of that in {index.path}; open it again")
            same = np.array_equal(index.terms, before.index.terms)
            encoder = before.encoder if same else self.encoder.restricted(index.terms)
            self._state = _State(index, encoder, Factors(index, encoder.vocab_size, self._idf))
            return True

    @property
    def idf(self) -> float:
        """The power of the terms' inverse document frequency that query weights are multiplied with."""
        return self._idf

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        backend: Backend | None = None,
        precision: Precision | None = None,
        threads: int | None = None,
        query_encoder: str | Path | None = None,
        approximate: float | None = None,
        idf: float | None = None,
    ) -> Searcher:
        """Open an index directory and the query encoder in it, or another ``query_encoder`` of the same vocabulary.

        Raises IndexFormatError, ArtifactError, IntegrityError, MissingExtraError, InputError, and IndexReplacedError
        where another index takes the place meanwhile.
        """
        index = Index.open(path)
        if query_encoder is None:
            if index.manifest.query_encoder is None:
                raise IndexFormatError(f"{path} carries no query encoder; name one with --query-encoder")
            query_encoder = safe_join(index.path, index.manifest.query_encoder)
        encoder = Encoder.open(query_encoder, "query", backend=backend, precision=precision, threads=threads)
        index.refuse_replaced()  # the encoder was opened by its path: it must not be another index's
        return cls(index, encoder, threads, approximate, idf)

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its paths and settings: where it is unpickled the same directories are opened, at the newest
        generation that is there then.
        """
        settings = {"threads": self.threads, "approximate": self.approximate, "idf": self._idf}
        return _reopened, (self.index, self.encoder, settings)

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def encode_query(self, query: str) -> SparseVector:
        """The query's vector as it is searched with, over all terms that have weight; empty for a query without a known
        word. ``encoder.encode_query`` gives it without the factors of :attr:`idf`.
        """
        return self._state.vector(self.encoder.encode_text(query, "query"))

    def read_query(self, query: str) -> ReadText:
        """What the encoder reads of a query, as text: its prompt and as much of the query as is not cut."""
        return self.encoder.tokenizer_of("query").read(query)

    def encode_for_search(self, query: str) -> SparseVector:
        """The part of :meth:`encode_query` that can earn a score: the terms that occur in the index, with the same
        weights. This is what a search computes, and it is faster.
        """
        state = self._state
        return state.vector(state.encoder.encode_text(query, "query"))

    def search(self, query: str, k: int = 10, *, where: Where = None, allowed: Allowed = None) -> list[Hit]:
        """The ``k`` best documents, best first; fewer if fewer share a term. Raises InputError for k < 1.

        ``where``: a filter over stored fields, such as ``year >= 2020 and lang = "en"``: the answer is the exact top k
        of the documents that satisfy it (see :meth:`Index.select`; raises WhereError).
        ``allowed``: bool ``[documents]`` by ordinal, to search only the documents where it is True.
        """
        state = self._state
        vector = state.vector(state.encoder.encode_text(query, "query"))
        index = state.index
        found = index.search_units(vector, k, allowed=_allowed(index, where, allowed), approximate=self.approximate)
        return _hits(index, *found)

    def search_vector(
        self, query: SparseVector, k: int = 10, *, where: Where = None, allowed: Allowed = None
    ) -> list[Hit]:
        """:meth:`search` for a vector, such as :meth:`encode_query` gives. Its weights are taken as they are."""
        index = self._state.index
        found = index.search_units(query, k, allowed=_allowed(index, where, allowed), approximate=self.approximate)
        return _hits(index, *found)

    def search_many(
        self, queries: Iterable[str], k: int = 10, *, where: Where = None, allowed: Allowed = None
    ) -> Iterator[list[Hit]]:
        """:meth:`search` for each query, lazily and in order, ``threads`` of them scored at a time; all of them search
        the generation of now.
        """
        state = self._state
        return self._search_many(state, queries, k, _allowed(state.index, where, allowed))

    def _search_many(self, state: _State, queries: Iterable[str], k: int, allowed: Allowed) -> Iterator[list[Hit]]:
        def search(vector: SparseVector) -> list[Hit]:
            found = state.index.search_units(vector, k, allowed=allowed, approximate=self.approximate)
            return _hits(state.index, *found)

        vectors = map(state.vector, state.encoder.encode(queries, "query"))
        with Threads(self.threads) as pool:
            while batch := list(islice(vectors, _BATCH)):
                yield from pool.map(search, batch)

    def explain(self, query: str | SparseVector, hit: Hit) -> Explanation:
        """Which terms earned how much of a hit's score, for the query (or its vector) that found it.

        After :meth:`refresh` a text is explained as it is searched with now: where :attr:`idf` is not 0, the
        contributions add up to the score that the hit would have, not to the one it had. Raises InputError where the
        hit's document is no longer where it was.
        """
        state = self._state
        vector = state.vector(self.encoder.encode_text(query, "query")) if isinstance(query, str) else query
        index = state.index
        if hit.ordinal >= len(index) or index.documents([hit.ordinal])[0].id != hit.id:
            raise InputError(f"the hit {hit.id!r} is of an earlier generation of the index; search again")
        parts = index.contributions(vector, hit.unit)
        terms = self.encoder.vocabulary
        contributions = [
            TermContribution(terms[vector.indices[i]], float(vector.values[i]), float(parts[i]))
            for i in np.argsort(-parts, kind="stable")
            if parts[i] > 0
        ]
        return Explanation(self.encoder.decode(vector), contributions)


@dataclass(frozen=True)
class _State:
    """What a search takes as a whole: a generation, the encoder for the terms that occur in it, and what their weights
    are multiplied with.
    """

    index: Index
    encoder: Encoder  # other terms earn nothing in this index, so a search need not know their weights
    factors: Factors

    def vector(self, encoded: Encoded) -> SparseVector:
        """The vector that is searched with: none where no word of the query is known."""
        return self.factors.times(encoded.vector) if encoded.known else _NO_TERMS


def _hits(
    index: Index, ordinals: npt.NDArray[np.uint32], units: npt.NDArray[np.uint32], scores: npt.NDArray[np.float64]
) -> list[Hit]:
    """What :meth:`Index.search_units` found, with the stored documents."""
    documents = index.documents(ordinals)
    hits = []
    for ordinal, unit, score, document in zip(
        ordinals.tolist(), units.tolist(), scores.tolist(), documents, strict=True
    ):
        span = index.span(unit)
        passage = document.text[span[0] : span[1]] if span else None
        hits.append(Hit(ordinal, unit, score, document.id, document.title, document.text, document.metadata, passage))
    return hits


def _reopened(index: Index, encoder: Encoder, settings: dict[str, Any]) -> Searcher:
    """A searcher that was pickled."""
    return Searcher(index, encoder, **settings)


def _check_vocabulary(index: Index, encoder: Encoder) -> None:
    """Raise ArtifactError unless an encoder is for queries, and for this index."""
    artifact, vocabulary = encoder.artifact, index.manifest.vocabulary_sha256
    if not artifact.serves("query"):
        raise ArtifactError(f"{artifact.path} holds a document encoder; searching needs a query encoder")
    if vocabulary is not None and vocabulary != artifact.manifest.vocabulary_sha256:
        raise ArtifactError(
            f"{artifact.path} has another vocabulary than the index {index.path}; use the query encoder of the pair "
            "that made the index"
        )


def _carried_encoder(index: Index) -> FileEntry | None:
    manifest = index.manifest
    return manifest.files.get(f"{manifest.query_encoder}/{ARTIFACT_MANIFEST}")


def _allowed(index: Index, where: Where, allowed: Allowed) -> Allowed:
    if where is None:
        return allowed
    selected = index.select(where).allowed
    return selected if allowed is None else np.logical_and(selected, allowed)
