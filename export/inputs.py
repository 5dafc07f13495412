"""The inputs of an exported graph, described the way optimum describes them."""

from __future__ import annotations

from typing import Any

import torch
from optimum.exporters.base import ExporterConfig
from optimum.utils import DummyTextInputGenerator, NormalizedTextConfig

from ..runtime.artifact import INPUT_NAMES, OUTPUT_NAME


class SpladeExporterConfig(ExporterConfig):  # type: ignore[misc]  # optimum has no type hints
    """Names and dynamic axes of a SPLADE graph's inputs and output, and example inputs to trace it with."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (DummyTextInputGenerator,)

    def __init__(self, config: Any) -> None:
        super().__init__(config.get_text_config(), task="fill-mask")

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Input names, each with its dynamic axes."""
        return {name: {0: "batch", 1: "length"} for name in INPUT_NAMES}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Output name with its dynamic axis."""
        return {OUTPUT_NAME: {0: "batch"}}

    def example_inputs(self) -> tuple[torch.Tensor, ...]:
        """Int64 tensors ``[batch, length]`` in the order of ``inputs``.

        Sizes differ from 1 and from each other, so that tracing takes neither for a constant.
        """
        with torch.random.fork_rng():
            torch.manual_seed(0)
            generated = self.generate_dummy_inputs(framework="pt", batch_size=2, sequence_length=9)
        return tuple(generated[name] for name in self.inputs)
