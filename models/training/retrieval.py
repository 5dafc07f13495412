"""The retrieval objective: a query encoder and a document encoder that rank, taught and kept sparse."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...runtime.errors import InputError
from .bm25 import Bm25
from .collections import Collection
from .imitation import Imitated
from .mining import Miner
from .objective import Regularizer, penalty
from .ranking_losses import ranking_losses
from .sampling import Batch, BatchSettings, Sampler, no_ranks
from .settings import RunFile
from .side import Side, training_device
from .teacher import Teacher, lexical_weight


class Retrieval:
    """Losses and gradients of batches. ``cache``: a directory for mined negatives and teacher embeddings."""

    def __init__(self, run: RunFile, collections: Sequence[Collection], texts: Sequence[str], cache: Path) -> None:
        self._run = run
        settings = run.training
        self._device = training_device()
        self._collections = collections
        assert run.document is not None  # read_run_file has checked it
        lengths = ((run.query or run.document).max_length, run.document.max_length)
        miner = Miner(settings.miner, lengths, cache, self._device)
        self.negatives = [
            miner.negatives(c, settings.negative_depth) if _needs_negatives(run, c) else None for c in collections
        ]
        bm25 = [Bm25(c.documents) if c.settings.weight and _needs_bm25(run, c) else None for c in collections]
        self._sampler = Sampler(
            collections,
            self.negatives,
            BatchSettings(
                batch=settings.batch,
                per_query=settings.negatives,
                steps=settings.steps * settings.accumulate,
                seed=settings.seed,
                fragments=settings.fragments,
                keywords=settings.keywords,
            ),
            [functools.partial(b.rank, k=settings.negative_depth) if b else no_ranks for b in bm25],
        )
        self.document = Side(run.document, texts, settings.seed, self._device)
        self.query = Side(run.query, texts, settings.seed + 1, self._device) if run.query else self.document
        self.sides = {"document": self.document} | ({"query": self.query} if run.query else {})
        if self.query.tokens.tokenizer.get_vocab() != self.document.tokens.tokenizer.get_vocab():
            raise InputError(
                f"{self.query.settings.base} and {self.document.settings.base} have different vocabularies"
            )
        self._teacher = (
            Teacher(run.teacher, collections, bm25, cache) if run.teacher.base and run.teacher.weight else None
        )
        self._imitated = (
            Imitated(run.teacher, self.query.settings, collections, self._device) if run.teacher.query_vectors else None
        )
        self.regularizers = (Regularizer(run.query_regularizer), Regularizer(run.document_regularizer))

    def backward(self, step: int, part: int) -> dict[str, float]:
        """Accumulate the gradients of part ``part`` of a step; returns its losses and counts."""
        settings = self._run.training
        batch = self._sampler.batch(step * settings.accumulate + part)
        collection = self._collections[batch.collection]
        documents = [collection.documents[d] for d in batch.documents]
        texts = [(self.query, self.query.ids(batch.texts)), (self.document, self.document.ids(documents))]
        vectors = [side.encode(ids, chunk=settings.chunk, bf16=settings.bf16) for side, ids in texts]
        leaves = [v.detach().requires_grad_() for v in vectors] if settings.chunk else vectors
        loss, parts = self._loss(step, batch, *leaves)
        (loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
        if settings.chunk:
            for (side, ids), leaf in zip(texts, leaves, strict=True):
                side.replay(ids, leaf.grad, chunk=settings.chunk, bf16=settings.bf16)
        return parts

    def observe(self, step: int, totals: dict[str, float]) -> None:
        """Steer the regularizers by what the step saw."""
        for regularizer, name, side in zip(
            self.regularizers, ("query", "document"), (self.query, self.document), strict=True
        ):
            if not side.settings.frozen:
                regularizer.observe(step, totals[f"{name} terms"])

    def _loss(self, step: int, batch: Batch, q: Tensor, d: Tensor) -> tuple[Tensor, dict[str, float]]:
        run = self._run
        scores = run.training.scale * (q @ d.T)
        weights = [
            0.0 if side.settings.frozen else regularizer.weight(step)
            for side, regularizer in zip((self.query, self.document), self.regularizers, strict=True)
        ]
        parts, accuracy = ranking_losses(run, batch, scores, q, self._teacher, self._imitated)
        parts |= {
            "query penalty": weights[0] * penalty(run.query_regularizer.penalty, q),
            "document penalty": weights[1] * penalty(run.document_regularizer.penalty, d),
        }
        loss = torch.stack(list(parts.values())).sum()
        return loss, {key: float(value.detach()) for key, value in parts.items()} | {
            "loss": float(loss.detach()),
            "accuracy": accuracy,
            "query terms": float((q > 0).sum(dim=1).float().mean()),
            "document terms": float((d > 0).sum(dim=1).float().mean()),
            "query weight": weights[0],
            "document weight": weights[1],
        }


def _needs_negatives(run: RunFile, collection: Collection) -> bool:
    """Whether a batch or a probe asks for them."""
    trained = bool(run.training.negatives and collection.settings.weight)
    return trained or bool(run.training.evaluate_every and collection.held_out.size)


def _needs_bm25(run: RunFile, collection: Collection) -> bool:
    """Whether the teacher or the negatives of fragments ask for it."""
    taught = bool(run.teacher.base and run.teacher.weight and lexical_weight(run.teacher, collection))
    return taught or bool(run.training.fragments and run.training.negatives)
