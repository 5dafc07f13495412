"""The reference encoder: text to SPLADE weights in PyTorch, written to be read.

It does the arithmetic in the order of the papers (Formal et al. 2021, arXiv:2109.10086, equation 6; Lassance &
Clinchant 2022, arXiv:2207.03834):

    weight[t] = pool over positions p of  activation(logits[p, t]),  padding left out

and, for query sides that keep to the text's own terms (splade-v3-doc, -lexical; OpenSearch's look-ups):

    weight[t] = what the encoder or the table says, if t is a token of the text; 0 otherwise

Where a checkpoint says so, vectors are then normalized (L2), and only their largest weights kept. An export compares
its graphs with sentence-transformers, and with this where that library cannot load the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .checkpoint import Checkpoint
from .head import run_model
from .layout import Side
from .pooling import ACTIVATIONS, POOLINGS


class ReferenceEncoder:
    """Encodes texts with a checkpoint's own PyTorch model and tokenizer, in float32, one text at a time: there are
    architectures that depend on padding.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.vocab_size = checkpoint.vocab_size
        self.dropped_terms = torch.tensor(checkpoint.dropped_terms, dtype=torch.long)

    def encode(self, texts: Sequence[str], side: Side | None = None) -> npt.NDArray[np.float32]:
        """Encode texts of a side.

        Parameters
        ----------
        texts : sequence of str
            The texts. The side's prompt is put before each, and both are cut at its maximum length.
        side : {"query", "document"}, optional
            The side. By default the checkpoint's only one, or the document side.

        Returns
        -------
        float32 array ``[len(texts), vocab_size]``
            The weights, non-negative.
        """
        served = self.checkpoint.sides
        side = side or ("document" if "document" in served else "query")
        rows = np.zeros((len(texts), self.vocab_size), np.float32)
        for row, text in zip(rows, texts, strict=True):
            ids = torch.tensor([self.checkpoint.token_ids(text, side)])
            if ids.numel():  # a tokenizer without special tokens, and an empty text
                row[:] = self.weights(ids, torch.ones_like(ids))[0].numpy()
        return rows

    @torch.inference_mode()
    def weights(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute the weights of a batch.

        Parameters
        ----------
        input_ids, attention_mask : int64 tensor ``[batch, length]``
            Token ids, and 1 where they count.

        Returns
        -------
        float32 tensor ``[batch, vocab_size]``
            The weights.
        """
        c = self.checkpoint
        if c.table is not None:
            weights = torch.from_numpy(c.table).expand(len(input_ids), -1)
        else:
            logits = run_model(c.model, input_ids, attention_mask)
            weights = POOLINGS[c.pooling](ACTIVATIONS[c.activation](logits) * attention_mask.unsqueeze(-1))
        if c.lexical_only:
            present = torch.zeros(len(input_ids), self.vocab_size)
            weights = weights * present.scatter_reduce(1, input_ids, attention_mask.float(), "amax")
        return self._finished(weights.index_fill(1, self.dropped_terms, 0.0))

    def _finished(self, weights: Tensor) -> Tensor:
        c = self.checkpoint
        if c.normalization == "all terms":
            weights = torch.nn.functional.normalize(weights)
        if c.max_active_dims is not None and c.max_active_dims < self.vocab_size:
            order = weights.argsort(dim=1, descending=True, stable=True)[:, : c.max_active_dims]
            weights = torch.zeros_like(weights).scatter(1, order, weights.gather(1, order))
        if c.normalization == "kept terms":
            weights = torch.nn.functional.normalize(weights)
        return weights
