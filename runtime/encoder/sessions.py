"""Which session runs a variant of an artifact."""

from __future__ import annotations

from ..artifact import Artifact, Variant
from ..errors import ArtifactError, export_again
from .backends import OnnxSession, OpenVinoSession, Session, TableSession
from .decoder_session import SplitSession
from .native.session import TransformerSession

_SESSIONS: dict[str, type[Session]] = {"onnx": OnnxSession, "openvino": OpenVinoSession, "table": TableSession}


def open_session(artifact: Artifact, variant: Variant, threads: int) -> Session:
    """Load one graph of an artifact, or its table. Raises ArtifactError or MissingExtraError."""
    manifest = artifact.manifest
    path = artifact.file(variant.path)
    if variant.decoder is not None:
        return SplitSession(
            path, variant.decoder, manifest.activation, manifest.vocab_size, manifest.max_length, threads
        )
    if variant.backend == "kernel":
        if variant.transformer is None:
            raise ArtifactError(f"{artifact.path}: its manifest does not describe {variant.path}; {export_again()}")
        return TransformerSession(
            path, variant.transformer, manifest.activation, manifest.vocab_size, manifest.max_length, threads
        )
    return _SESSIONS[variant.backend](path, manifest.vocab_size, manifest.max_length, threads)
