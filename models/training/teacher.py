"""Teachers: what a document is worth for a query according to a dense encoder and BM25 together.

Neither alone is a good teacher for both prose and commands; their sum beat both on every set we tried (the README of
this folder has the figures). Embeddings are computed when they are first asked for and kept in a file beside the run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...runtime.errors import CheckpointError
from ...runtime.files import sha256_file, storage_errors
from ..quiet import quiet_transformers
from ..weights import weights_sha256
from .bm25 import Bm25
from .collections import Collection
from .encoder import padded
from .sampling import Batch
from .settings import TeacherSettings
from .side import training_device
from .vocabulary import Texts

F32 = npt.NDArray[np.float32]
# Documents embedded between two writes to the cache.
_AT_ONCE = 256


class DenseEncoder:
    """A sentence encoder: mean over tokens, or the first token's state, at unit length. Raises CheckpointError.

    Which of the two, sentence-transformers' ``1_Pooling/config.json`` says; without one it is the mean.
    """

    def __init__(self, base: str, max_length: int) -> None:
        from safetensors import SafetensorError
        from transformers import AutoModel

        try:
            with quiet_transformers():
                self.model = AutoModel.from_pretrained(
                    base, local_files_only=True, use_safetensors=True, dtype=torch.float32
                ).eval()
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"the teacher {base} does not load: {' '.join(str(error).split())[:200]}") from error
        self._first_token = _pools_first_token(Path(base), self.model.config.architectures or [])
        self.model.to(training_device())
        self.texts = Texts(base)
        self.max_length = min(max_length, int(self.model.config.max_position_embeddings))
        # What its vectors depend on besides the text.
        self.key = f"{weights_sha256(Path(base))} {sha256_file(Path(base) / 'tokenizer.json')} {self.max_length}"
        self.key += " cls" if self._first_token else ""
        self.width = int(self.model.config.hidden_size)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch: int = 16) -> F32:
        """Encode texts as unit vectors.

        Parameters
        ----------
        texts : sequence of str
            The texts.
        batch : int
            Texts of a batch.

        Returns
        -------
        float32 array ``[len(texts), width]``
            The vectors.
        """
        ids = self.texts.ids(texts, self.max_length)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        out = np.zeros((len(ids), self.width), np.float32)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            tokens, mask = padded([ids[i] for i in chosen], self.model.device)
            states = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
            pooled = states[:, 0] if self._first_token else (states * mask.unsqueeze(-1)).sum(dim=1)
            out[chosen] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        return out


def _pools_first_token(base: Path, architectures: Sequence[str]) -> bool:
    """Whether a sentence encoder pools by its first token; False: by the mean. Raises CheckpointError for others."""
    path = base / "1_Pooling" / "config.json"
    if not path.is_file():
        if any(name.endswith("ForMaskedLM") for name in architectures):
            raise CheckpointError(
                f"the teacher {base} is a masked-language model without 1_Pooling/config.json; name a sentence "
                "encoder, or take a SPLADE query encoder as query_vectors"
            )
        return False
    if any((base / name).is_dir() for name in ("2_Dense", "3_Dense")):
        raise CheckpointError(f"the teacher {base} has a dense layer after pooling; name one without")
    try:
        config = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"cannot read {path} ({error}); get the teacher again") from None
    flag = "pooling_mode_"
    modes = sorted(key.removeprefix(flag) for key, on in config.items() if key.startswith(flag) and on is True)
    if isinstance(config.get("pooling_mode"), str):  # newer versions name it
        modes = [config["pooling_mode"]]
    if modes in (["mean_tokens"], ["mean"]):
        return False
    if modes in (["cls_token"], ["cls"]):
        return True
    raise CheckpointError(f"the teacher {base} pools by {' and '.join(modes) or 'nothing'}; name one with mean or cls")


class EmbeddingFile:
    """Embeddings of a list of texts, computed on demand and kept as float16.

    ``directory``: where; the files' names hold a hash of the texts and the encoder, so they cannot be those of others.
    A row counts only once it is marked in a second file, after it was flushed.
    """

    def __init__(self, directory: Path, texts: Sequence[str], encoder: DenseEncoder) -> None:
        self._texts = texts
        self._encoder = encoder
        digest = hashlib.sha256(encoder.key.encode())
        for text in texts:
            digest.update(b"\x00" + text.encode("utf-8", "surrogatepass"))
        directory.mkdir(parents=True, exist_ok=True)
        name = f"embeddings-{digest.hexdigest()[:32]}"
        rows, marks = directory / f"{name}.f16", directory / f"{name}.done"
        shape = (len(texts), encoder.width)
        if not _has_size(rows, 2 * math.prod(shape)):  # the marks go first: they would make zeros of rows that are gone
            with storage_errors(marks):
                marks.unlink(missing_ok=True)
        self._rows = _memmap(rows, np.dtype(np.float16), shape)
        self._done = _memmap(marks, np.dtype(np.bool_), shape[:1])

    def __getitem__(self, rows: npt.NDArray[np.int64]) -> F32:
        """Embeddings of texts by number, float32 ``[len(rows), width]``."""
        missing = rows[~self._done[rows]]
        if missing.size:
            self._rows[missing] = self._encoder.encode([self._texts[i] for i in missing])
            self._rows.flush()
            self._done[missing] = True
            self._done.flush()
        return np.asarray(self._rows[rows], np.float32)


def _memmap(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[Any]]:
    size = math.prod(shape) * dtype.itemsize
    if not _has_size(path, size):
        with storage_errors(path), path.open("wb") as file:
            file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def lexical_weight(settings: TeacherSettings, collection: Collection) -> float:
    """The weight of BM25 in the teacher of a collection.

    Parameters
    ----------
    settings : TeacherSettings
        The teacher's table of the run file.
    collection : Collection
        The collection; its own setting counts first.

    Returns
    -------
    float
        The weight.
    """
    own = collection.settings.lexical
    return settings.lexical if own is None else own


class Teacher:
    """Scores the documents of a batch for its queries. ``bm25``: of each collection, where it is asked for."""

    def __init__(
        self,
        settings: TeacherSettings,
        collections: Sequence[Collection],
        bm25: Sequence[Bm25 | None],
        cache: Path,
    ) -> None:
        self._settings = settings
        encoder = self._encoder = DenseEncoder(str(settings.base), settings.max_length)
        self._queries = [EmbeddingFile(cache, c.queries, encoder) for c in collections]
        self._documents = [EmbeddingFile(cache, c.documents, encoder) for c in collections]
        self._lexical = [lexical_weight(settings, c) for c in collections]
        self._collections = collections
        self._bm25 = bm25

    def embed_documents(self) -> None:
        """Embed the documents of the collections that are trained on, but those in the cache; may be stopped."""
        for collection, embeddings in zip(self._collections, self._documents, strict=True):
            # some at a time: what was embedded before a stop is kept
            for start in range(0, len(collection.documents) if collection.settings.weight else 0, _AT_ONCE):
                embeddings[np.arange(start, min(start + _AT_ONCE, len(collection.documents)))]

    def scores(self, batch: Batch) -> Tensor:
        """Score the documents of a batch.

        Parameters
        ----------
        batch : Batch
            The batch.

        Returns
        -------
        float32 tensor ``[batch, columns]``
            The scores.
        """
        number = batch.collection
        known = batch.queries >= 0
        queries = np.empty((len(known), self._encoder.width), np.float32)
        queries[known] = self._queries[number][batch.queries[known]]
        if not known.all():
            queries[~known] = self._encoder.encode([batch.texts[row] for row in np.flatnonzero(~known)])
        scores = self._settings.dense * (queries @ self._documents[number][batch.documents].T)
        bm25 = self._bm25[number]
        if bm25 is not None and self._lexical[number]:
            # all in their order need not be picked out
            everything = np.array_equal(batch.documents, np.arange(len(self._collections[number].documents)))
            found = bm25.all_scores(batch.texts) if everything else bm25.scores(batch.texts, batch.documents)
            scores = scores + self._lexical[number] * found
        return torch.from_numpy(np.asarray(scores, np.float32))
