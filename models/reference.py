"""The reference encoder: text to SPLADE weights in PyTorch, written to be read.

This is what every exported graph is compared with. It does the arithmetic in the order of the papers
(Formal et al. 2021, arXiv:2109.10086, equation 6; Lassance & Clinchant 2022, arXiv:2207.03834):

    weight[t] = pool over positions p of  activation(logits[p, t]),  padding left out

and, for query sides that keep to the text's own terms (splade-v3-doc, -lexical; OpenSearch's look-ups):

    weight[t] = what the encoder or the table says, if t is a token of the text; 0 otherwise
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .head import run_model
from .pooling import ACTIVATIONS, POOLINGS


class ReferenceEncoder:
    """Encodes texts with a checkpoint's own PyTorch model and tokenizer, in float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.model: Any = checkpoint.model
        self.table = None if checkpoint.table is None else torch.from_numpy(checkpoint.table)
        self.own_terms = checkpoint.own_terms
        self.vocab_size = checkpoint.vocab_size
        self.tokenizer: Any = checkpoint.tokenizer
        self.max_length = checkpoint.max_length
        self.activation = checkpoint.activation
        self.pooling = checkpoint.pooling
        self.dropped_terms = torch.tensor(checkpoint.dropped_terms, dtype=torch.long)

    def encode(self, texts: Sequence[str], batch_size: int = 1) -> npt.NDArray[np.float32]:
        """Weights of each text: float32 ``[len(texts), vocab_size]``, non-negative.

        Texts are cut at the checkpoint's maximum length and padded on the right.
        """
        rows: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(texts), batch_size):
            batch = self.tokenizer(
                list(texts[start : start + batch_size]),
                padding=True,
                truncation=True,
                max_length=self.max_length,
                padding_side="right",
                return_tensors="pt",
            )
            weights = self.weights(batch["input_ids"], batch["attention_mask"])
            rows.append(weights.numpy())
        return np.concatenate(rows) if rows else np.empty((0, self.vocab_size), np.float32)

    @torch.inference_mode()
    def weights(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """``input_ids`` and ``attention_mask``: int64 ``[batch, length]``. Returns float32 ``[batch, vocab_size]``."""
        if self.table is not None:
            weights = self.table.expand(len(input_ids), -1)
        else:
            logits = run_model(self.model, input_ids, attention_mask)
            weights = POOLINGS[self.pooling](ACTIVATIONS[self.activation](logits) * attention_mask.unsqueeze(-1))
        if self.own_terms:
            present = torch.zeros(len(input_ids), self.vocab_size)
            weights = weights * present.scatter_reduce(1, input_ids, attention_mask.float(), "amax")
        return weights.index_fill(1, self.dropped_terms, 0.0)
