"""The decoder session of an ONNX graph: its body runs in ONNX Runtime, its vocabulary decoder in our kernel."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...artifact import BODY_OUTPUT_NAMES, DecoderPart
from ...errors import ArtifactError, export_again
from ..graph_files import reading_graph
from ..onnx_session import OnnxGraph
from ..session import Ids
from .decoder import DecoderRows
from .decoder_session import Activated, DecoderSession


class OnnxDecoderSession(DecoderSession):
    """The body of a graph in ONNX Runtime, and its decoder in our kernel.

    It gives what the graph in ONNX Runtime gives, up to the last bit of a logarithm.

    Parameters
    ----------
    path, activation, vocab_size, max_length, threads
        See :class:`DecoderSession`.
    part : DecoderPart
        Where body and decoder lie in the file.

    Raises
    ------
    ArtifactError
        If the file does not hold them, or the body does not load.
    """

    def __init__(
        self, path: Path, part: DecoderPart, activation: str, vocab_size: int, max_length: int, threads: int
    ) -> None:
        super().__init__(path, activation, vocab_size, max_length, threads)
        self._rows = _map_rows(path, part, vocab_size)
        self._graph = OnnxGraph(path, threads, BODY_OUTPUT_NAMES, part.body)

    def _activations(self, input_ids: Ids, attention_mask: Ids, lengths: list[int]) -> Iterable[Activated]:
        batch, length = input_ids.shape
        activations, scale = self._graph.run(np.ascontiguousarray(input_ids), np.ascontiguousarray(attention_mask))
        hidden = self._rows.weights.shape[1]
        if (
            activations.dtype != np.uint8
            or activations.shape != (batch, length, hidden)
            or scale.dtype != np.float32
            or scale.shape != (batch, 1, 1)
            or not np.isfinite(scale).all()
        ):
            raise ArtifactError(
                f"{self.path}: its graph does not give finite {hidden} values a token; {export_again()}"
            )
        return [(activations[i, : lengths[i]], scale[i, 0, 0]) for i in range(batch)]


def _map_rows(path: Path, part: DecoderPart, vocab_size: int) -> DecoderRows:
    """The decoder in the file. Raises ArtifactError if it does not lie there."""
    with reading_graph(path, f"{path} does not hold the decoder that its manifest describes"):
        size = path.stat().st_size
        sizes = {part.weights: vocab_size * part.hidden, part.scale: 4 * vocab_size, part.bias: 4 * vocab_size}
        if part.hidden <= 0 or part.hidden % 4 or not 0 < part.body <= size:
            raise ValueError
        if any(start < 0 or start + length > size for start, length in sizes.items()):
            raise ValueError
        weights = np.memmap(path, np.int8, "r", part.weights, (vocab_size, part.hidden))
        scale, bias = (
            np.array(np.memmap(path, "<f4", "r", start, (vocab_size,)), np.float32) for start in (part.scale, part.bias)
        )
    if not (np.isfinite(scale).all() and np.isfinite(bias).all() and scale.min() > 0):
        raise ArtifactError(f"{path} has a decoder that is not finite; {export_again()}")
    return DecoderRows(np.asarray(weights), scale, bias)
