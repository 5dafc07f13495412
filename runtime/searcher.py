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

    Attributes
    ----------
    ordinal
        The document's number in the index, by insertion, from 0.
    unit
        The number of what was scored: the document itself, or its best passage.
    score
        Dot product of query and document.
    id, title, text, metadata
        The document as it is stored.
    passage
        The text of the best passage; None where documents are not split.
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
    """What a query term contributed to a document's score.

    Attributes
    ----------
    term
        The term as text.
    weight
        Its weight in the query.
    score
        ``weight`` x the term's weight in the document.
    """

    term: str
    weight: float
    score: float


@dataclass(frozen=True)
class Explanation:
    """Why a hit has its score.

    Attributes
    ----------
    query
        The query's terms and weights.
    contributions
        They add up to the score; largest first.
    """

    query: list[tuple[str, float]]
    contributions: list[TermContribution]


class Searcher:
    """An index and a query encoder. It is safe from several threads, and in children of the process.

    It searches the generation that it has opened until :meth:`refresh`. Each search sees one generation as a whole. A
    query without a known word finds nothing. A searcher can be pickled: see :meth:`__reduce__`.

    Parameters
    ----------
    index
        The index. :meth:`close` closes it.
    encoder
        A query encoder with the index's vocabulary.
    threads
        Number of threads of :meth:`search_many`; None: the CPUs that this process may use.
    approximate
        See :meth:`Index.search_vector`; None is exact.
    idf
        Query weights are multiplied with the terms' inverse document frequency in the index, to the power of this
        exponent. None: the exponent that the encoder's artifact states.

    Raises
    ------
    ArtifactError
        The encoder is for documents, or of another vocabulary.
    InputError
        For ``threads`` or ``idf`` out of range.
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
        """Go on with the newest generation of the index. Searches that are running end with the one they began with.

        Returns
        -------
        bool
            Whether there was a newer generation.

        Raises
        ------
        ArtifactError
            The index carries another encoder now. The searcher stays as it is, as it does for every error.
        IndexReplacedError
            Another directory has taken the index's place. See :meth:`Index.refresh` for other errors.
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
        """The exponent of the inverse document frequency that query weights are multiplied with."""
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
        """Open an index directory and its query encoder.

        Parameters
        ----------
        path
            The index directory.
        backend, precision
            Of the encoder: see :meth:`Encoder.open`. None: the one that suits this machine.
        threads
            Number of threads of the encoder and of :meth:`search_many`; None: the CPUs that this process may use.
        query_encoder
            An artifact with the index's vocabulary, to be used instead of the one in the index.
        approximate, idf
            See :class:`Searcher`.

        Raises
        ------
        IndexFormatError
            It is not an index, it is too new, or it carries no query encoder.
        ArtifactError, MissingExtraError
            The encoder cannot run here, or is of another vocabulary.
        IntegrityError
            A file is damaged.
        IndexReplacedError
            Another index took the place of this one while it was opened.
        InputError
            For options out of range.
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
        """Pickle paths and settings. Unpickling opens the same directories, at the generation that is newest then."""
        settings = {"threads": self.threads, "approximate": self.approximate, "idf": self._idf}
        return _reopened, (self.index, self.encoder, settings)

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def encode_query(self, query: str) -> SparseVector:
        """Encode a query, over all terms that have weight, with the factors of :attr:`idf`.

        ``encoder.encode_query`` gives the vector without these factors.

        Parameters
        ----------
        query
            Its text.

        Returns
        -------
        SparseVector
            Empty for a query without a known word.
        """
        return self._state.vector(self.encoder.encode_text(query, "query"))

    def read_query(self, query: str) -> ReadText:
        """The text that the encoder reads of a query: its prompt, and the query as far as it is not truncated."""
        return self.encoder.tokenizer_of("query").read(query)

    def encode_for_search(self, query: str) -> SparseVector:
        """Encode a query over the terms that occur in the index, as a search does.

        Other terms cannot contribute to a score. The weights are those of :meth:`encode_query`, and it is faster.

        Parameters
        ----------
        query
            Its text.

        Returns
        -------
        SparseVector
            Empty for a query without a known word.
        """
        state = self._state
        return state.vector(state.encoder.encode_text(query, "query"))

    def search(self, query: str, k: int = 10, *, where: Where = None, allowed: Allowed = None) -> list[Hit]:
        """Find the top k documents of a query.

        Parameters
        ----------
        query
            Its text.
        k
            Number of documents, at least 1.
        where
            A filter over stored fields, such as ``year >= 2020 and lang = "en"``: the answer is the exact top k of the
            documents that satisfy it. See :meth:`Index.select`.
        allowed
            bool ``[documents]`` by ordinal: only documents where it is True are searched.

        Returns
        -------
        list of Hit
            Best first; fewer than k where fewer documents share a term with the query.

        Raises
        ------
        InputError
            For k < 1 or a malformed mask.
        WhereError
            For a filter that is malformed, or that does not fit the fields.
        IntegrityError
            For damaged files.
        """
        state = self._state
        vector = state.vector(state.encoder.encode_text(query, "query"))
        index = state.index
        found = index.search_units(vector, k, allowed=_allowed(index, where, allowed), approximate=self.approximate)
        return _hits(index, *found)

    def search_vector(
        self, query: SparseVector, k: int = 10, *, where: Where = None, allowed: Allowed = None
    ) -> list[Hit]:
        """:meth:`search` for a query vector, such as :meth:`encode_query` gives.

        Parameters
        ----------
        query
            The vector; its weights are taken as they are.
        k, where, allowed
            As in :meth:`search`.
        """
        index = self._state.index
        found = index.search_units(query, k, allowed=_allowed(index, where, allowed), approximate=self.approximate)
        return _hits(index, *found)

    def search_many(
        self, queries: Iterable[str], k: int = 10, *, where: Where = None, allowed: Allowed = None
    ) -> Iterator[list[Hit]]:
        """:meth:`search` for each query, lazily and in order, on ``threads`` threads.

        All of them search the generation that is open when this is called.

        Parameters
        ----------
        queries
            Their texts.
        k, where, allowed
            As in :meth:`search`.

        Yields
        ------
        list of Hit
            The hits of the next query.
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
        """Say which terms contributed how much to a hit's score.

        After :meth:`refresh` a text is explained as it is searched now: where :attr:`idf` is not 0, the contributions
        add up to the score that the hit would have, not to the one that it had.

        Parameters
        ----------
        query
            The text or the vector that found the hit.
        hit
            The hit.

        Returns
        -------
        Explanation
            The terms of the query, and what each contributed.

        Raises
        ------
        InputError
            The hit's document is no longer at its ordinal.
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
    """What a search reads in one step: a generation, the encoder for its terms, and the factors of their weights."""

    index: Index
    encoder: Encoder  # for the terms that occur in the index: others cannot contribute to a score
    factors: Factors

    def vector(self, encoded: Encoded) -> SparseVector:
        """The vector that is searched; empty where no word of the query is known."""
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
