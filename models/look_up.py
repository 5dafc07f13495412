"""Query sides without an encoder: one weight a term, from a checkpoint's table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..runtime.errors import CheckpointError

Table = npt.NDArray[np.float32]
_LARGEST = float(np.finfo(np.float32).max)


def read_table(path: Path, vocabulary: Mapping[str, int], vocab_size: int) -> tuple[Table, tuple[str, ...]]:
    """Read the weight of each term.

    Parameters
    ----------
    path : Path
        JSON of token -> weight (OpenSearch's ``idf.json``; a token that it leaves out weighs nothing), or the one
        tensor of a safetensors file (sentence-transformers; it may be shorter than the vocabulary).
    vocabulary : mapping of str to int
        The term id of each token.
    vocab_size : int
        How many terms there are.

    Returns
    -------
    tuple of float32 array ``[vocab_size]`` and tuple of str
        The weights, and notes on what was unusual.

    Raises
    ------
    CheckpointError
        If the file is absent, damaged, for another vocabulary, or has weights that are negative or not finite.
    """
    notes: tuple[str, ...] = ()
    if path.suffix == ".json":
        table, notes = _from_json(path, vocabulary, vocab_size)
    else:
        stored = read_tensor(path)
        if stored.size > vocab_size:
            raise CheckpointError(
                f"{path} has {stored.size:,} weights, the vocabulary {vocab_size:,} terms; they do not belong together"
            )
        table = np.zeros(vocab_size, np.float32)
        table[: stored.size] = stored
    wrong = np.flatnonzero(~((table >= 0) & (table < np.inf)))
    if wrong.size:
        raise CheckpointError(
            f"{path} has the weight {table[wrong[0]]} for term {wrong[0]}; weights must be finite and not negative"
        )
    if not table.any():
        raise CheckpointError(f"{path} gives no term any weight; get it again")
    return table, notes


def read_tensor(path: Path) -> npt.NDArray[Any]:
    """Read the one-dimensional tensor of a safetensors file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    array ``[n]``
        The tensor in its own dtype.

    Raises
    ------
    CheckpointError
        If the file is damaged or holds something else.
    """
    import torch  # NumPy has no bfloat16
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = list(load_file(path).values())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; download the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {path} ({error}); download the checkpoint again") from None
    if len(tensors) != 1 or tensors[0].dim() != 1:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors)
        raise CheckpointError(f"{path} has tensors of {shapes or 'nothing'}; a look-up is one weight a term")
    return np.asarray(tensors[0].to(torch.float32).numpy())


def _from_json(path: Path, vocabulary: Mapping[str, int], vocab_size: int) -> tuple[Table, tuple[str, ...]]:
    try:
        weights = msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}; download the checkpoint again") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not an object of token -> weight ({error}); get it again") from None
    table = np.zeros(vocab_size, np.float32)
    unknown = 0
    for token, weight in weights.items():
        term = vocabulary.get(token)
        if term is None:
            unknown += 1
        else:
            table[term] = weight if weight <= _LARGEST else np.inf
    if unknown == len(weights):
        raise CheckpointError(f"{path} has no token of the vocabulary; they do not belong together")
    return table, (f"{unknown:,} tokens of {path.name} are not in the vocabulary",) if unknown else ()
