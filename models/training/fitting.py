"""The objective "index": a query encoder is fitted to an index whose document vectors stay as they are.

No document is encoded, so a step costs the query encoder alone, and all documents of a collection are candidates: its
softmax is over what a search ranks, not over a batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .bm25 import Bm25
from .collections import Collection
from .evaluation import encode_all, ndcg_of
from .imitation import Imitated
from .indexed import all_scores, read_vectors
from .objective import Regularizer, imitation_loss, penalty
from .ranking_losses import ranking_losses
from .sampling import Batch, BatchSettings, Sampler, no_ranks
from .settings import RunFile
from .side import Side, training_device
from .teacher import Teacher, lexical_weight

# Best documents of a fragment among which those that hold it word for word are looked for.
_DEPTH = 30


class Fitting:
    """Losses and gradients of batches of queries. ``cache``: a directory for the teacher's embeddings."""

    def __init__(self, run: RunFile, collections: Sequence[Collection], texts: Sequence[str], cache: Path) -> None:
        assert run.query is not None  # read_run_file has checked it
        self._run = run
        settings = run.training
        self._device = training_device()
        self._collections = collections
        self.query = Side(run.query, texts, settings.seed, self._device)
        self.document = None
        self.sides = {"query": self.query}
        tokenizer, size = Path(run.query.base) / "tokenizer.json", self.query.encoder.decoder.weight.shape[0]
        self._by_term = [read_vectors(str(c.settings.index), c, tokenizer, size) for c in collections]
        taught = bool(run.teacher.base and run.teacher.weight)
        bm25 = [
            Bm25(c.documents)
            if c.settings.weight and (settings.fragments or (taught and lexical_weight(run.teacher, c)))
            else None
            for c in collections
        ]
        self._sampler = Sampler(
            collections,
            [None] * len(collections),
            BatchSettings(
                batch=settings.batch,
                per_query=0,
                everything=True,
                steps=settings.steps * settings.accumulate,
                seed=settings.seed,
                fragments=settings.fragments,
                keywords=settings.keywords,
            ),
            [functools.partial(b.rank, k=_DEPTH) if b else no_ranks for b in bm25],
        )
        self._teacher = Teacher(run.teacher, collections, bm25, cache) if taught else None
        if self._teacher is not None:
            self._teacher.embed_documents()
        self._imitated = (
            Imitated(run.teacher, run.query, collections, self._device) if run.teacher.query_vectors else None
        )
        self.regularizers = (Regularizer(run.query_regularizer), Regularizer(run.document_regularizer))
        self.negatives = [None] * len(collections)

    def backward(self, step: int, part: int) -> dict[str, float]:
        """Accumulate the gradients of part ``part`` of a step; returns its losses and counts."""
        settings = self._run.training
        number = step * settings.accumulate + part
        batch = self._sampler.batch(number)
        vectors = self.query.encode(self.query.ids(batch.texts), chunk=0, bf16=settings.bf16)
        loss, parts = self._loss(step, number, batch, vectors)
        (loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
        return parts

    def observe(self, step: int, totals: dict[str, float]) -> None:
        """Steer the regularizer by what the step saw."""
        self.regularizers[0].observe(step, totals["query terms"])

    def evaluate(self) -> dict[str, float]:
        """nDCG@10 of the held-out queries on whole collections, and the terms of a query."""
        found: dict[str, float] = {}
        for collection, by_term in zip(self._collections, self._by_term, strict=True):
            if collection.held_out.size:
                q = encode_all(self.query, [collection.queries[i] for i in collection.held_out])
                name = collection.name
                value = ndcg_of(collection, q, by_term, self.query.query_idf)
                found |= {f"ndcg/{name}": value, f"query terms/{name}": q.nnz / q.shape[0]}
        return found

    def _loss(self, step: int, number: int, batch: Batch, q: Tensor) -> tuple[Tensor, dict[str, float]]:
        run = self._run
        scores = run.training.scale * all_scores(q, self._by_term[batch.collection])
        weight = self.regularizers[0].weight(step)
        parts, accuracy = ranking_losses(run, batch, scores, q, self._teacher, self._imitated)
        if self._imitated is not None and run.teacher.random_words:
            rng = np.random.default_rng([run.training.seed, 6, number])
            ids = self.query.ids(self._imitated.random_texts(run.training.batch, rng))
            found = self.query.encode(ids, chunk=0, bf16=run.training.bf16)
            wanted = self._imitated.vectors(ids, run.training.bf16)
            parts["random words"] = run.teacher.random_words * imitation_loss(found, wanted)
        parts["query penalty"] = weight * penalty(run.query_regularizer.penalty, q)
        loss = torch.stack(list(parts.values())).sum()
        return loss, {key: float(value.detach()) for key, value in parts.items()} | {
            "loss": float(loss.detach()),
            "accuracy": accuracy,
            "query terms": float((q > 0).sum(dim=1).float().mean()),
            "query weight": weight,
        }
