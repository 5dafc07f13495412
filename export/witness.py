"""Whose vectors ours must equal: the library that made a checkpoint, asked directly.

sentence-transformers is the reference for every checkpoint that it can load: it reads the same files with its own code,
and its ``encode_query`` and ``encode_document`` are what users compare with. Where it cannot load a checkpoint, or the
user asked for something else than the files say, the witness is transformers' model with our own pooling
(:mod:`splade_edge.models.reference`), and the report says so and why.

Texts are encoded one at a time: there are architectures that give other numbers in a padded batch.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ..models.checkpoint import Checkpoint
from ..models.layout import Side
from ..models.quiet import quiet_transformers
from ..models.reference import ReferenceEncoder
from ..models.tokenizing import read_backend
from ..runtime.errors import MissingExtraError

Vector = npt.NDArray[np.float32]
LIBRARY = "sentence-transformers"
LIBRARY_WITH_FILE = "sentence-transformers with tokenizer.json as it is"
_OURS = "transformers with our pooling"


class Witness(Protocol):
    """Who is compared with: ``name``, and ``reason`` why it is not sentence-transformers ("" where it is it, which then
    can vouch for keys that are not known here).
    """

    name: str
    reason: str

    def token_ids(self, text: str, side: Side) -> list[int] | None:
        """Tokenize a text.

        Parameters
        ----------
        text : str
            The text.
        side : {"query", "document"}
            The side it is encoded as.

        Returns
        -------
        list of int or None
            The token ids; None where the witness fails on the text.
        """
        ...

    def encode(self, text: str, side: Side) -> Vector | None:
        """Encode a text.

        Parameters
        ----------
        text : str
            The text.
        side : {"query", "document"}
            The side it is encoded as.

        Returns
        -------
        float32 array ``[vocab_size]`` or None
            The vector; None where the witness fails on the text.
        """
        ...


class LibraryWitness:
    """sentence-transformers in float32, with what the user overrode."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype | None = torch.float32) -> None:
        """Load the checkpoint. ``dtype`` None: as it is stored. Raises whatever the library does."""
        from sentence_transformers import SparseEncoder

        self.name, self.reason = LIBRARY, ""
        if checkpoint.options.tokenizer == "file":
            self.name = LIBRARY_WITH_FILE
        self.failure = ""  # what the library said of the last text that it could not encode
        self._vocab_size = checkpoint.vocab_size
        options = checkpoint.options
        asked = {"query": options.prompt_query, "document": options.prompt_document}
        arguments: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        with _quiet():
            self._model = SparseEncoder(
                str(checkpoint.library_root),
                device="cpu",
                local_files_only=True,
                trust_remote_code=options.trust_remote_code,
                model_kwargs={"use_safetensors": True, **arguments} if not options.allow_pickle else arguments,
                prompts={name: prompt for name, prompt in asked.items() if prompt is not None} or None,
                max_active_dims=options.max_active_dims,
            )
            self._model.eval()
        self._cosine = self._model.similarity_fn_name == "cosine"
        for module in self._model.modules():
            if getattr(module, "tokenizer", None) is not None and hasattr(module, "preprocess"):
                _override(module, checkpoint)

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        floats = [p.dtype for p in self._model.parameters() if p.is_floating_point()]
        return floats[0] if floats else torch.float32

    def token_ids(self, text: str, side: Side) -> list[int] | None:
        """See :class:`Witness`."""
        try:
            with _quiet():
                features = self._model.preprocess([text], prompt=self._model.prompts.get(side), task=side)
        except Exception:  # noqa: BLE001 - of any library below it
            return None
        return [int(term) for term in features["input_ids"][0]]

    def encode(self, text: str, side: Side) -> Vector | None:
        """See :class:`Witness`."""
        encode = self._model.encode_query if side == "query" else self._model.encode_document
        try:
            with _quiet(), torch.inference_mode():
                found = encode(text, convert_to_sparse_tensor=False, show_progress_bar=False).float()
        except Exception as error:  # noqa: BLE001 - such as an index error for a text that is too long
            self.failure = one_line(error)
            return None
        if self._cosine:
            found = torch.nn.functional.normalize(found, dim=-1)
        vector = np.zeros(self._vocab_size, np.float32)
        vector[: len(found)] = found.cpu().numpy()[: self._vocab_size]
        return vector


class OwnWitness:
    """The reference encoder: transformers' model, our pooling."""

    def __init__(self, checkpoint: Checkpoint, reason: str) -> None:
        self.name, self.reason = _OURS, reason
        self._checkpoint, self._encoder = checkpoint, ReferenceEncoder(checkpoint)

    def token_ids(self, text: str, side: Side) -> list[int] | None:
        """See :class:`Witness`."""
        return self._checkpoint.token_ids(text, side)

    def encode(self, text: str, side: Side) -> Vector | None:
        """See :class:`Witness`."""
        vector: Vector = self._encoder.encode([text], side)[0]
        return vector


def open_witness(checkpoint: Checkpoint) -> Witness:
    """Open the witness of a checkpoint: sentence-transformers where it can load it, else the reference in PyTorch.

    Parameters
    ----------
    checkpoint : Checkpoint
        The checkpoint.

    Returns
    -------
    Witness
        The witness; it says why it is not the library, if it is not.

    Raises
    ------
    MissingExtraError
        If sentence-transformers is not installed.
    """
    if checkpoint.deviation:
        return OwnWitness(checkpoint, checkpoint.deviation)
    try:
        import sentence_transformers  # noqa: F401
    except ImportError:  # the environment is broken, and that must not weaken what is promised
        raise MissingExtraError("comparing with sentence-transformers", "export") from None
    try:
        witness = LibraryWitness(checkpoint)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the library says of it
        return OwnWitness(checkpoint, f"sentence-transformers cannot load it ({one_line(error)})")
    for side in checkpoint.sides:
        if witness.encode("a", side) is None:
            reason = f"sentence-transformers cannot encode a {side} with it ({witness.failure})"
            return OwnWitness(checkpoint, reason)
    return witness


def half_precision_gap(checkpoint: Checkpoint, vectors: Vector, texts: Sequence[tuple[Side, str]]) -> float | None:
    """Measure how far the library's own vectors are from float32, where a checkpoint is stored in half precision.

    Parameters
    ----------
    checkpoint : Checkpoint
        The checkpoint. The library keeps its half precision.
    vectors : float32 array ``[texts, vocab]``
        The vectors of ``texts`` in float32.
    texts : sequence of (side, str)
        What was encoded.

    Returns
    -------
    float or None
        The largest difference relative to the largest weight; None where it is stored in float32.
    """
    witness = LibraryWitness(checkpoint, dtype=None)
    if witness.dtype not in (torch.float16, torch.bfloat16):
        return None
    found = [witness.encode(text, side) for side, text in texts]
    gaps = [np.abs(a - b).max(initial=0) for a, b in zip(found, vectors, strict=True) if a is not None]
    return float(max(gaps, default=0) / max(vectors.max(initial=0), np.finfo(np.float32).tiny))


def one_line(error: BaseException, length: int = 200) -> str:
    """Describe an error on one line.

    Parameters
    ----------
    error : BaseException
        The error.
    length : int
        The most characters.

    Returns
    -------
    str
        What it says.
    """
    return " ".join(str(error).split())[:length] or type(error).__name__


def _override(module: Any, checkpoint: Checkpoint) -> None:
    """Give a module of the library what the user asked for in place of what the files say."""
    options = checkpoint.options
    if options.max_length is not None:
        module.tokenizer.model_max_length = options.max_length
        for name in ("query_length", "document_length"):
            if hasattr(module, name):
                setattr(module, name, None)
        for part in getattr(module, "processing_kwargs", {}).values():
            part.pop("max_length", None)
    if options.tokenizer == "file":
        module.tokenizer._tokenizer = read_backend(checkpoint.tokenizer)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the libraries print and warn off the terminal: what they would say is compared, raised or noted."""
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers", "torch")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
