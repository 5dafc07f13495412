"""Middle-training: masked-language modelling with a FLOPS penalty (Lassance & Clinchant 2022).

It gives the head of an encoder, which later training makes sparse, its own idea of which terms belong to a text, on
the texts of the collections and without judgements. Masking is BERT's: of the chosen tokens 80 % become [MASK], 10 %
another token, 10 % stay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...runtime.errors import InputError
from .collections import Collection, shares
from .objective import Regularizer, penalty
from .settings import RunFile
from .side import Side, training_device
from .vocabulary import silent_terms


class MiddleTraining:
    """Losses and gradients of batches of documents. A batch is a function of the step number alone."""

    def __init__(self, run: RunFile, collections: Sequence[Collection], texts: Sequence[str]) -> None:
        self._run = run
        self._collections = collections
        self._device = training_device()
        assert run.document is not None  # read_run_file has checked it
        self.document = Side(run.document, texts, run.training.seed, self._device)
        self.query = self.document
        self.sides = {"document": self.document}
        self.regularizers = (Regularizer(run.query_regularizer), Regularizer(run.document_regularizer))
        self.negatives = [None] * len(collections)
        mask = self.document.tokens.tokenizer.token_to_id("[MASK]")
        if mask is None:
            raise InputError(f"{run.document.base}: its tokenizer has no [MASK], so it cannot be middle-trained")
        self._mask = int(mask)
        size = self.document.encoder.decoder.weight.shape[0]
        self._silent = silent_terms(self.document.tokens.tokenizer, [*run.document.silent, "special"], size)
        self._guessable = np.flatnonzero(~self._silent)

    def backward(self, step: int, part: int) -> dict[str, float]:
        """Accumulate the gradients of part ``part`` of a step; returns its losses and counts."""
        settings = self._run.training
        ids = self.document.ids(self._texts(step, part))
        vectors = self.document.encode(ids, chunk=0, bf16=settings.bf16)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=settings.bf16):
            guess = self._guess_loss(ids, np.random.default_rng([settings.seed, 4, step, part]))
        weight = self.regularizers[1].weight(step)
        flops = weight * penalty(self._run.document_regularizer.penalty, vectors)
        loss = guess + flops
        (loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
        return {
            "loss": float(loss.detach()),
            "masked tokens": float(guess.detach()),
            "document penalty": float(flops.detach()),
            "document terms": float((vectors > 0).sum(dim=1).float().mean()),
            "document weight": weight,
        }

    def observe(self, step: int, totals: dict[str, float]) -> None:
        """Steer the regularizer by what the step saw."""
        self.regularizers[1].observe(step, totals["document terms"])

    def _texts(self, step: int, part: int) -> list[str]:
        settings = self._run.training
        rng = np.random.default_rng([settings.seed, 3, step, part])
        collection = self._collections[rng.choice(len(self._collections), p=shares(self._collections))]
        chosen = rng.choice(len(collection.documents), min(settings.batch, len(collection.documents)), replace=False)
        return [collection.documents[i] for i in chosen]

    def _guess_loss(self, ids: Sequence[Sequence[int]], rng: np.random.Generator) -> Tensor:
        """Cross-entropy of the chosen tokens."""
        encoder = self.document.encoder
        masked = [list(text) for text in ids]
        places: list[tuple[int, int]] = []
        for row, text in enumerate(masked):
            inner = np.arange(len(text))[~self._silent[text]]  # what may get no weight is not guessed either
            for position in inner[rng.random(inner.size) < self._run.middle.mask_rate]:
                places.append((row, int(position)))
                kind = rng.random()
                if kind < 0.8:
                    text[position] = self._mask
                elif kind < 0.9:
                    text[position] = int(rng.choice(self._guessable))
        if not places:
            return torch.zeros((), device=self._device)
        rows, columns = (list(axis) for axis in zip(*places, strict=True))
        states = encoder.transformed(encoder.hidden(masked)[rows, columns])
        target = torch.tensor([ids[row][column] for row, column in places], device=self._device)
        return F.cross_entropy(encoder.decoder(states).float(), target)
