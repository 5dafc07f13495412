"""A float32 graph about to be quantized, and what calibration text says of it: computed when a recipe asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import onnx

from ..models.checkpoint import Checkpoint
from .onnx_graph import Inputs, Statistics, encoder_products, pools_first, statistics_of
from .sensitivity import by_sensitivity


class QuantizationSource:
    """The float32 ONNX graph at ``path``, its calibration ``inputs``, and the ``checkpoint`` it was traced from."""

    def __init__(self, path: Path, inputs: Sequence[Inputs], checkpoint: Checkpoint | None = None) -> None:
        self.path = path
        self.inputs = inputs
        self.checkpoint = checkpoint

    @property
    def batch_invariant(self) -> bool:
        """Whether the float32 graph gives a text the same vector in any batch."""
        return self.checkpoint is None or not self.checkpoint.depends_on_padding

    @cached_property
    def pools_first(self) -> bool:
        """Whether the maximum is taken of what the decoder gives, before its bias: the graph ends in one matrix."""
        return pools_first(onnx.load(self.path).graph)

    @cached_property
    def products(self) -> list[str]:
        """Names of the encoder's products with a weight matrix, in the order of the graph; the decoder is not one."""
        return [node.name for node in encoder_products(onnx.load(self.path).graph)]

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """What goes into each of ``products``, by its name."""
        model = onnx.load(self.path)
        return statistics_of(model, {node.name: node.input[0] for node in encoder_products(model.graph)}, self.inputs)

    @cached_property
    def by_sensitivity(self) -> list[str]:
        """``products``, the one first that loses the most in int8 (see :mod:`sensitivity`)."""
        return by_sensitivity(self.path, self.products, self.statistics, self.inputs)

    def left_out(self, share: float) -> frozenset[str]:
        """The products that a recipe leaves in float32.

        Parameters
        ----------
        share : float
            The share of ``products`` to leave out, between 0 and 1; rounded up.

        Returns
        -------
        frozenset of str
            Their names; the most sensitive ones.
        """
        if share <= 0:
            return frozenset()
        if share >= 1:
            return frozenset(self.products)
        return frozenset(self.by_sensitivity[: -int(-share * len(self.products) // 1)])
