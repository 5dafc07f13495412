"""The table backend: a query side without an encoder looks up the weight of each term."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import ArtifactError, export_again
from .graph_files import reading_graph
from .session import Ids, Session, Weights


class TableSession(Session):
    """Gives every text the whole table, float32 ``[vocab_size]``; the encoder masks it by the text's terms.

    No engine is loaded. See :class:`Session`. Raises ArtifactError if the file does not hold ``vocab_size`` weights.
    """

    def __init__(self, path: Path, vocab_size: int, max_length: int, threads: int) -> None:
        super().__init__(path, vocab_size, max_length, threads)
        with reading_graph(path):
            data = path.read_bytes()
        if len(data) != 4 * vocab_size:
            raise ArtifactError(f"{path} does not hold {vocab_size} float32 weights; {export_again()}")
        self._table = np.frombuffer(data, "<f4").astype(np.float32, copy=False)

    def _run(self, input_ids: Ids, attention_mask: Ids) -> Weights:
        return np.tile(self._table, (len(input_ids), 1))
