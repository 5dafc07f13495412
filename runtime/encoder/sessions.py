"""The one place that says which session runs a variant of an artifact.

Each backend is imported when it is needed, so that a process loads only the one it uses.
"""

from __future__ import annotations

from ..artifact import Artifact, Variant
from ..errors import ArtifactError, export_again
from .session import Session


def open_session(artifact: Artifact, variant: Variant, threads: int) -> Session:
    """Load one graph of an artifact, or its table.

    Parameters
    ----------
    artifact : Artifact
        The artifact that has the graph.
    variant : Variant
        The graph, from the artifact's manifest.
    threads : int
        CPU threads that one call may use.

    Returns
    -------
    Session
        An ONNX graph whose decoder can run outside of it gets the decoder session.

    Raises
    ------
    ArtifactError
        If the file is missing, or is not what the manifest says.
    MissingExtraError
        If the backend's library is not installed.
    """
    manifest = artifact.manifest
    path, vocab_size, max_length = artifact.file(variant.path), manifest.vocab_size, manifest.max_length
    if variant.decoder is not None:
        from .native.onnx_decoder_session import OnnxDecoderSession

        return OnnxDecoderSession(path, variant.decoder, manifest.activation, vocab_size, max_length, threads)
    match variant.backend:
        case "kernel":
            from .native.session import NativeSession

            if variant.transformer is None:
                raise ArtifactError(f"{artifact.path}: its manifest does not describe {variant.path}; {export_again()}")
            return NativeSession(path, variant.transformer, manifest.activation, vocab_size, max_length, threads)
        case "onnx":
            from .onnx_session import OnnxSession

            return OnnxSession(path, vocab_size, max_length, threads)
        case "openvino":
            from .openvino_session import OpenVinoSession

            return OpenVinoSession(path, vocab_size, max_length, threads)
        case "table":
            from .table_session import TableSession

            return TableSession(path, vocab_size, max_length, threads)
