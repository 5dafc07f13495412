"""The imitation objective: a small query encoder learns to give a large one's vectors, without any document.

It needs no judgements, so every text is a lesson: the collections' training queries, and fragments of their documents
in which a word that no query has can still be met.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...runtime.errors import InputError
from .collections import Collection, shares
from .objective import Regularizer, imitation_loss, penalty
from .rarity import rarity
from .sampling import cut_from, random_words
from .settings import EncoderSettings, RunFile, TeacherSettings
from .side import Side, training_device
from .vocabulary import Texts, whole_words

# Tokens of the documents whose vectors' terms are counted.
_DOCUMENT_TOKENS = 128


class Imitation:
    """Losses and gradients of batches of short texts. A batch is a function of the step number alone."""

    def __init__(self, run: RunFile, collections: Sequence[Collection], texts: Sequence[str]) -> None:
        assert run.query is not None  # read_run_file has checked it
        assert run.teacher.query_vectors is not None
        self._run = run
        self._collections = collections
        device = training_device()
        self.query = Side(run.query, texts, run.training.seed, device)
        self.document = None
        self.sides = {"query": self.query}
        self._teacher = Imitated(run.teacher, run.query, collections, device)
        self.regularizers = (Regularizer(run.query_regularizer), Regularizer(run.document_regularizer))
        self.negatives = [None] * len(collections)

    def backward(self, step: int, part: int) -> dict[str, float]:
        """Accumulate the gradients of part ``part`` of a step; returns its losses and counts."""
        settings = self._run.training
        ids = self.query.ids(self._texts(np.random.default_rng([settings.seed, 5, step, part])))
        vectors = self.query.encode(ids, chunk=0, bf16=settings.bf16)
        wanted = self._teacher.vectors(ids, settings.bf16)
        imitation = self._run.teacher.vector_weight * imitation_loss(vectors, wanted)
        weight = self.regularizers[0].weight(step)
        sparsity = weight * penalty(self._run.query_regularizer.penalty, vectors)
        loss = imitation + sparsity
        (loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
        return {
            "loss": float(loss.detach()),
            "imitation": float(imitation.detach()),
            "query penalty": float(sparsity.detach()),
            "query terms": float((vectors > 0).sum(dim=1).float().mean()),
            "teacher's terms": float((wanted > 0).sum(dim=1).float().mean()),
            "query weight": weight,
        }

    def observe(self, step: int, totals: dict[str, float]) -> None:
        """Steer the regularizer by what the step saw."""
        self.regularizers[0].observe(step, totals["query terms"])

    def _texts(self, rng: np.random.Generator) -> list[str]:
        numbers = rng.choice(len(self._collections), self._run.training.batch, p=shares(self._collections))
        texts = []
        for number in numbers:
            collection = self._collections[number]
            if rng.random() < self._run.training.fragments:
                document = collection.documents[rng.integers(len(collection.documents))]
                texts.append(cut_from(document, self._run.training.keywords, rng)[0])
            else:
                texts.append(collection.queries[rng.choice(collection.train)])
        return texts


class Imitated:
    """The query vectors that are imitated. Their encoder must share the vocabulary of the one that learns (``like``).

    Raises InputError.
    """

    def __init__(
        self, settings: TeacherSettings, like: EncoderSettings, collections: Sequence[Collection], device: torch.device
    ) -> None:
        assert settings.query_vectors is not None  # read_run_file has checked it
        self._side = _as_it_is(settings.query_vectors, like.max_length, device)
        self._factor: Tensor | None = None
        self._words = whole_words(self._side.tokens.tokenizer) if settings.random_words else []
        if settings.random_words and not self._words:
            raise InputError(f"{settings.query_vectors} has no whole words in its vocabulary; leave random_words out")
        vocabulary = self._side.tokens.tokenizer.get_vocab()
        if vocabulary != Texts(like.base).tokenizer.get_vocab():
            raise InputError(f"{settings.query_vectors} and {like.base} have different vocabularies")
        if settings.idf:
            document = settings.document_vectors and _as_it_is(settings.document_vectors, _DOCUMENT_TOKENS, device)
            if document and document.tokens.tokenizer.get_vocab() != vocabulary:
                raise InputError(f"{settings.query_vectors} and {document.settings.base} have different vocabularies")
            size = self._side.encoder.decoder.weight.shape[0]
            factor = rarity(collections, self._side.tokens, size, document or None) ** settings.idf
            self._factor = torch.from_numpy(factor).to(device)

    def random_texts(self, texts: int, rng: np.random.Generator) -> list[str]:
        """Make queries of words that are drawn from the vocabulary.

        Parameters
        ----------
        texts : int
            How many.
        rng : numpy.random.Generator
            What draws.

        Returns
        -------
        list of str
            The queries.
        """
        return random_words(self._words, texts, rng)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize queries.

        Parameters
        ----------
        texts : sequence of str
            The queries.

        Returns
        -------
        list of list of int
            The token ids.
        """
        return self._side.ids(texts)

    def vectors(self, ids: Sequence[Sequence[int]], bf16: bool) -> Tensor:
        """Encode queries without recording gradients.

        Parameters
        ----------
        ids : sequence of sequence of int
            The token ids of each query.
        bf16 : bool
            Whether to compute in bfloat16.

        Returns
        -------
        float32 tensor ``[len(ids), vocab]``
            The vectors to imitate.
        """
        vectors = self._side.encode(ids, chunk=0, bf16=bf16)
        return vectors if self._factor is None else vectors * self._factor


def _as_it_is(base: str, max_length: int, device: torch.device) -> Side:
    return Side(EncoderSettings(base=base, frozen=True, max_length=max_length, silent=[]), [], 0, device)
