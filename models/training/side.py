"""One encoder of a run: its settings, its tokenizer, and its forward pass in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..stated import stated_query_idf
from .encoder import SparseEncoder
from .initial import initial_encoder
from .settings import EncoderSettings
from .vocabulary import Texts

# Texts encoded at a time where gradients are not cached; only for less padding.
_PIECE = 16


def training_device() -> torch.device:
    """The GPU if PyTorch finds one, the CPU otherwise."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Side:
    """The query or the document encoder. ``texts``: documents that a new head is fitted on."""

    def __init__(self, settings: EncoderSettings, texts: Sequence[str], seed: int, device: torch.device) -> None:
        self.settings = settings
        self.encoder: SparseEncoder = initial_encoder(settings, texts, seed).to(device)
        self.tokens = Texts(settings.base)
        self.device = device

    @property
    def query_idf(self) -> float:
        """What a search does to the weights of queries (see :func:`splade_edge.runtime.idf.idf_factors`), as
        ``config.json`` says; it comes from the base and goes into the pair.
        """
        return stated_query_idf(self.encoder.model.config, Path(self.settings.base))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts.

        Parameters
        ----------
        texts : sequence of str
            The texts.

        Returns
        -------
        list of list of int
            Token ids, cut at the side's maximum length or at what its encoder takes.
        """
        return self.tokens.ids(texts, min(self.settings.max_length, self.encoder.positions))

    def encode(self, ids: Sequence[Sequence[int]], *, chunk: int, bf16: bool) -> Tensor:
        """Encode texts; without recording gradients if the side is frozen or ``chunk`` is not 0.

        Parameters
        ----------
        ids : sequence of sequence of int
            The token ids of each text.
        chunk : int
            Texts that are encoded at once, 0 for all.
        bf16 : bool
            Whether to compute in bfloat16.

        Returns
        -------
        float32 tensor ``[len(ids), vocab]``
            The weights.
        """
        groups = _by_length(ids, chunk or _PIECE)
        with torch.set_grad_enabled(not self.settings.frozen and not chunk), self._precision(bf16):
            pieces = [self.encoder([ids[i] for i in group]) for group in groups]
        order = torch.tensor([i for group in groups for i in group], device=self.device)
        return torch.cat(pieces)[torch.argsort(order)]

    def replay(self, ids: Sequence[Sequence[int]], gradient: Tensor | None, *, chunk: int, bf16: bool) -> None:
        """Encode texts again chunk by chunk, and send each chunk its part of a gradient (gradient caching).

        Parameters
        ----------
        ids : sequence of sequence of int
            The token ids of each text.
        gradient : tensor ``[len(ids), vocab]`` or None
            The gradient of the vectors.
        chunk : int
            Texts that are encoded at once.
        bf16 : bool
            Whether to compute in bfloat16.

        References
        ----------
        Gao et al., "Scaling deep contrastive learning batch size under memory limited setup", RepL4NLP 2021.
        """
        if self.settings.frozen or gradient is None:
            return
        for group in _by_length(ids, chunk):
            with self._precision(bf16):
                vectors = self.encoder([ids[i] for i in group])
            vectors.backward(gradient[group])

    def _precision(self, bf16: bool) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)


def _by_length(ids: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    return [order[start : start + size] for start in range(0, len(order), size)]
