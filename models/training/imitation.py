"""The imitation objective: a small query encoder learns to give a large one's vectors, without any document.

It needs no judgements, so every text is a lesson: the collections' training queries, and fragments of their documents
in which a word that no query has can still be met.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...runtime.errors import InputError
from .collections import Collection, shares
from .objective import Regularizer, imitation_loss, penalty
from .runfile import EncoderSettings, RunFile
from .sampling import fragment
from .side import Side, training_device
from .vocabulary import Texts


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
        self._teacher = open_imitated(run.teacher.query_vectors, run.query, device)
        self.regularizers = (Regularizer(run.query_regularizer), Regularizer(run.document_regularizer))
        self.negatives = [None] * len(collections)

    def backward(self, step: int, part: int) -> dict[str, float]:
        """Accumulate the gradients of part ``part`` of a step; returns its losses and counts."""
        settings = self._run.training
        ids = self.query.ids(self._texts(np.random.default_rng([settings.seed, 5, step, part])))
        vectors = self.query.encode(ids, chunk=0, bf16=settings.bf16)
        wanted = self._teacher.encode(ids, chunk=0, bf16=settings.bf16)
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
                texts.append(fragment(collection.documents[rng.integers(len(collection.documents))], rng))
            else:
                texts.append(collection.queries[rng.choice(collection.train)])
        return texts


def open_imitated(base: str, like: EncoderSettings, device: torch.device) -> Side:
    """The query encoder that is imitated, as it is. It must share the vocabulary of the encoder that learns."""
    side = Side(EncoderSettings(base=base, frozen=True, max_length=like.max_length, silent=[]), [], 0, device)
    if side.tokens.tokenizer.get_vocab() != Texts(like.base).tokenizer.get_vocab():
        raise InputError(f"{base} and {like.base} have different vocabularies")
    return side
