"""Texts to sparse vectors, without PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from ..artifact import SIDES, Artifact, Backend, Precision, Side, Variant, open_artifact
from ..errors import ArtifactError, InputError, export_again
from ..forking import cached_property
from ..numerics import check_numerics
from ..threads import resolve_threads
from ..vectors import SparseVector
from .batches import next_batch, pad_right
from .cpu_requirements import check_isa
from .sessions import open_session
from .shaping import Shaping
from .tokenizer import TextTokenizer, TokenIds

# Texts read ahead of the one a consumer waits for, so that a batch holds texts of similar length.
WINDOW = 256
# Bound on batch x length x vocabulary, the size of the largest tensor (float32) inside the graph.
LOGITS_BUDGET_BYTES = 64 << 20

Batch = list[list[int]]  # token ids of texts that are encoded together
Run = Callable[[Batch], list[SparseVector]]

_NO_TERMS = SparseVector(np.empty(0, np.int32), np.empty(0, np.float32))


class Encoded(NamedTuple):
    """One encoded text.

    ``tokens``: what the encoder saw, prompt and special tokens included; ``known``: at least one of the text's own is
    neither special nor unknown; ``truncated``: some were cut at the maximum length. A text without a known token has a
    vector too, that of the prompt and the special tokens; it says nothing of the text.
    """

    vector: SparseVector
    tokens: int
    known: bool
    truncated: bool


class Encoder:
    """An exported encoder, loaded: text in, sparse vectors over the vocabulary out.

    A text's vector does not depend on the texts around it beyond 1e-4. Methods may be called from several threads.

    An encoder for both sides may read queries otherwise than documents (prompt, length). Where a method takes a
    ``side``, None means the one that the encoder was opened for, else the only one that it serves, else either if they
    are read alike; otherwise the method raises InputError.
    """

    def __init__(
        self,
        artifact: Artifact,
        variant: Variant | None = None,
        threads: int | None = None,
        side: Side | None = None,
    ) -> None:
        """Load one graph of an opened artifact, or its table (default: see :meth:`Artifact.variant`).

        ``threads``: for the engine; None means the CPUs this process may use. ``side``: of which texts are, where a
        method is not told. Raises ArtifactError, MissingExtraError.
        """
        self.artifact = artifact
        self.variant = variant or artifact.variant()
        self.threads = resolve_threads(threads)
        manifest = artifact.manifest
        check_numerics(artifact.path, manifest.numerics)
        self.vocab_size = manifest.vocab_size
        self._side = side
        self._tokenizers: dict[Side | None, TextTokenizer] = {}
        side = side or self._any_side()
        if side is not None:
            self._tokenizers[None] = self._tokenizers[side] = self._open_tokenizer(side)
        # Padding is masked, so any id does where the tokenizer has no padding token, or one the graph does not know.
        pad_id = manifest.special_tokens.get("pad_token", 0)
        self._pad_id = pad_id if pad_id < self.vocab_size else 0
        self._kept: npt.NDArray[np.bool_] | None = None  # terms that may have weight; None: all
        self._restricted_to: npt.NDArray[np.bool_] | None = None
        self._filters = True  # False: the session gives weight to no other terms
        self._shaping = Shaping.of(manifest)
        self._asked: npt.NDArray[np.bool_] | None = None  # terms whose weights are wanted, of a vector that has all
        if manifest.dropped_terms:
            if max(manifest.dropped_terms) >= self.vocab_size:
                raise ArtifactError(f"{artifact.path} drops a term beyond its {self.vocab_size}; {export_again()}")
            self._kept = np.ones(self.vocab_size, np.bool_)
            self._kept[manifest.dropped_terms] = False
        self._lexical_only = manifest.kind != "encoder"
        check_isa(artifact, self.variant)
        self._session = open_session(artifact, self.variant, self.threads)

    @classmethod
    def open(
        cls,
        path: str | Path,
        side: Side | None = None,
        *,
        backend: Backend | None = None,
        precision: Precision | None = None,
        threads: int | None = None,
        check: bool = True,
    ) -> Encoder:
        """Open an artifact, or the ``side`` of a pair, and load the graph asked for. Texts are of this side, where a
        method is not told otherwise.

        ``check`` compares the SHA-256 of every file. Raises ArtifactError, IntegrityError, MissingExtraError.
        """
        artifact = open_artifact(path, side, check=check)
        return cls(artifact, artifact.variant(backend, precision), threads, side)

    def restricted(self, terms: npt.NDArray[np.integer]) -> Encoder:
        """This encoder for some terms: their weights are what they were, to the last bit, and others get none.

        ``terms``: term ids; those beyond the vocabulary are ignored. Where the artifact says where its decoder lies,
        other terms are not even computed, unless the weights depend on those of all terms (a norm, or only the largest
        are kept). The graph is shared with this encoder, so it costs the memory of the terms' rows.
        """
        kept = np.zeros(self.vocab_size, np.bool_)
        kept[terms[terms < self.vocab_size]] = True
        if self._shaping is not None:
            encoder = copy.copy(self)
            encoder._asked = kept if self._asked is None else kept & self._asked
            encoder._restricted_to = encoder._asked
            return encoder
        if self._kept is not None:
            kept &= self._kept
        encoder = copy.copy(self)
        encoder._session = self._session.restricted(np.flatnonzero(kept).astype(np.int32))
        encoder._kept, encoder._filters = kept, encoder._session is self._session
        encoder._restricted_to = kept
        return encoder

    def __copy__(self) -> Encoder:
        encoder = object.__new__(type(self))  # not by __reduce__, which loads the graph again
        encoder.__dict__.update(self.__dict__)
        return encoder

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its path: where it is unpickled, the same graph is loaded, after its files were hashed. Raises
        InputError for what :meth:`through` gave.
        """
        if "_run" in self.__dict__:
            raise InputError("an encoder whose batches go through a function stays in its process; send the one before")
        terms = None if self._restricted_to is None else np.flatnonzero(self._restricted_to)
        return _reopened, (self.artifact.path.absolute(), self.variant, self.threads, self._side, terms)

    def tokenizer_of(self, side: Side | None = None) -> TextTokenizer:
        """What reads texts of a side. Raises InputError without a side where they differ, ArtifactError for a side that
        this encoder does not serve.
        """
        found = self._tokenizers.get(side)
        if found is not None:
            return found
        if side is None:
            raise InputError(
                f"{self.artifact.path} reads queries otherwise than documents; say which the texts are: side='query' "
                "or side='document', here or to Encoder.open"
            )
        found = self._tokenizers[side] = self._open_tokenizer(side)
        return found

    @property
    def tokenizer(self) -> TextTokenizer:
        """:meth:`tokenizer_of` the side that None stands for."""
        return self.tokenizer_of()

    @property
    def max_length(self) -> int:
        """Tokens that are read of a text of the side that None stands for, its prompt and special tokens included."""
        return self.tokenizer_of().max_length

    def through(self, run: Callable[[Run, Batch], list[SparseVector]]) -> Encoder:
        """This encoder, whose batches (the token ids of each text) go through ``run``, which is given what computes
        their vectors too. What a batch gets depends on its ids alone.
        """
        encoder = copy.copy(self)
        encoder._run = partial(run, self._run)  # type: ignore[method-assign]
        return encoder

    @cached_property
    def vocabulary(self) -> list[str]:
        """The term of each term id, length ``vocab_size``."""
        return self.tokenizer_of(self.artifact.sides[0]).vocabulary(self.vocab_size)

    # A str is an iterable of str too; the first overload is meant to win.
    @overload
    def encode_query(self, text: str) -> SparseVector: ...  # type: ignore[overload-overlap]
    @overload
    def encode_query(self, text: Iterable[str]) -> Iterator[SparseVector]: ...
    def encode_query(self, text: str | Iterable[str]) -> SparseVector | Iterator[SparseVector]:
        """The vector of one query, or lazily those of many, in order.

        An empty query gives the vector of the special tokens alone. Raises ArtifactError if this encoder is for
        documents, InputError if a text is not a str.
        """
        return self._encode_side("query", text)

    @overload
    def encode_document(self, text: str) -> SparseVector: ...  # type: ignore[overload-overlap]
    @overload
    def encode_document(self, text: Iterable[str]) -> Iterator[SparseVector]: ...
    def encode_document(self, text: str | Iterable[str]) -> SparseVector | Iterator[SparseVector]:
        """The vector of one document, or lazily those of many, in order.

        Raises ArtifactError if this encoder is for queries, InputError if a text is not a str.
        """
        return self._encode_side("document", text)

    def encode(self, texts: Iterable[str], side: Side | None = None) -> Iterator[Encoded]:
        """Encode lazily, in order, reading at most ``WINDOW`` texts ahead of what was consumed.

        Raises InputError without a ``side`` where it is needed, ArtifactError for one that this encoder does not serve.
        """
        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise InputError(
                f"encode takes an iterable of texts, not {type(texts).__name__}; put a single text in a list"
            )
        return self._encode_lazily(iter(texts), self.tokenizer_of(side))

    def encode_text(self, text: str, side: Side | None = None) -> Encoded:
        """Encode one text. Raises InputError if it is not a str, and what :meth:`encode` raises."""
        tokens = self.tokenizer_of(side).encode(text)
        # Without ids: a tokenizer without special tokens, and an empty text.
        return _encoded(self._run([tokens.ids])[0] if tokens.ids else _NO_TERMS, tokens)

    def decode(self, vector: SparseVector, top: int | None = None) -> list[tuple[str, float]]:
        """Terms and weights of a vector, heaviest first (equal weights by term id), the first ``top`` of them."""
        order = np.argsort(-vector.values, kind="stable")[:top]
        return [(self.vocabulary[vector.indices[i]], float(vector.values[i])) for i in order]

    def _encode_side(self, side: Side, text: str | Iterable[str]) -> SparseVector | Iterator[SparseVector]:
        if isinstance(text, str):
            return self.encode_text(text, side).vector
        return (encoded.vector for encoded in self.encode(text, side))

    def _any_side(self) -> Side | None:
        """The side that texts are of where nobody says, None if it matters."""
        sides = self.artifact.sides
        alike = all(self.artifact.settings(side) == self.artifact.settings(sides[0]) for side in sides)
        return sides[0] if alike else None

    def _open_tokenizer(self, side: Side) -> TextTokenizer:
        if side not in SIDES:
            raise InputError(f"{side!r} is not a side of an encoder; give 'query' or 'document'")
        if not self.artifact.serves(side):
            raise ArtifactError(
                f"{self.artifact.path} holds a {self.artifact.manifest.role} encoder; open the {side} side of its pair"
            )
        for other, tokenizer in list(self._tokenizers.items()):  # another thread may add one
            if other is not None and self.artifact.settings(other) == self.artifact.settings(side):
                return tokenizer
        return TextTokenizer.of(self.artifact, side)

    def _encode_lazily(self, texts: Iterator[str], tokenizer: TextTokenizer) -> Iterator[Encoded]:
        token_budget = max(1, LOGITS_BUDGET_BYTES // (4 * self.vocab_size)) if self.variant.batch_invariant else 1
        waiting: dict[int, TokenIds] = {}  # by position in the input, as are the results
        done: dict[int, Encoded] = {}
        read = emitted = 0
        while True:
            for text in islice(texts, WINDOW - (read - emitted)):
                waiting[read] = tokenizer.encode(text)
                if not waiting[read].ids:  # a tokenizer without special tokens, and an empty text: no terms
                    done[read] = _encoded(_NO_TERMS, waiting.pop(read))
                read += 1
            if waiting:
                keys = next_batch({key: len(tokens.ids) for key, tokens in waiting.items()}, token_budget)
                batch = [waiting.pop(key) for key in keys]
                vectors = self._run([tokens.ids for tokens in batch])
                done.update(zip(keys, map(_encoded, vectors, batch), strict=True))
            elif not done:
                return
            while emitted in done:
                yield done.pop(emitted)
                emitted += 1

    def _run(self, ids: list[list[int]]) -> list[SparseVector]:
        if self._lexical_only:
            weights = self._session.run(*pad_right(ids, self._pad_id))
            vectors = [_at_terms(row, own) for row, own in zip(weights, ids, strict=True)]
        elif len(ids) == 1:
            vectors = [self._session.vector(ids[0])]
        else:
            vectors = self._session.vectors(*pad_right(ids, self._pad_id))
        if self._kept is not None and self._filters:
            vectors = [_only(vector, self._kept) for vector in vectors]
        if self._shaping is not None:
            vectors = [self._shaping.apply(vector) for vector in vectors]
        return vectors if self._asked is None else [_only(vector, self._asked) for vector in vectors]


def _reopened(
    path: Path, variant: Variant, threads: int, side: Side | None, terms: npt.NDArray[np.integer] | None
) -> Encoder:
    """An encoder that was pickled. Its files are hashed: they may be others by now."""
    artifact = open_artifact(path)
    if variant not in artifact.manifest.variants:
        raise ArtifactError(f"{path} has not the graph any more that it had; open it instead of sending it")
    encoder = Encoder(artifact, variant, threads, side)
    return encoder if terms is None else encoder.restricted(terms)


def _only(vector: SparseVector, kept: npt.NDArray[np.bool_]) -> SparseVector:
    """The terms of a vector for which ``kept`` ``[vocab]`` is true."""
    keep = kept[vector.indices]
    return vector if keep.all() else SparseVector(vector.indices[keep], vector.values[keep])


def _at_terms(weights: npt.NDArray[np.float32], ids: list[int]) -> SparseVector:
    """The positive entries of a dense ``[vocab]`` row at the terms of a text: a mask by bag of words."""
    terms = np.unique(np.asarray(ids, np.int32))
    values = weights[terms]
    return SparseVector(terms[values > 0], values[values > 0])


def _encoded(vector: SparseVector, tokens: TokenIds) -> Encoded:
    return Encoded(vector, len(tokens.ids), known=tokens.known, truncated=tokens.truncated)
