"""The interface of all encoder backends: a loaded session turns token ids into weights over the vocabulary.

Inputs are validated here, before a backend sees them. ONNX Runtime accepts a token id of -1 and a length of 0 without
an error, and a graph that builds its mask from rows is wrong when position 0 is masked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import ArtifactError, InputError, export_again
from ..vectors import SparseVector, from_dense

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


class Session(ABC):
    """One backend with one graph (or table), loaded. Safe to call from several threads.

    Parameters
    ----------
    path : Path
        The file that was loaded. Error messages name it.
    vocab_size : int
        Terms of the vocabulary: the bound on token ids, and the width of the output.
    max_length : int
        The longest text, in tokens.
    threads : int
        CPU threads that one call may use.
    """

    def __init__(self, path: Path, vocab_size: int, max_length: int, threads: int) -> None:
        self.path = path
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.threads = threads

    def run(self, input_ids: Ids, attention_mask: Ids) -> Weights:
        """Encode a batch to dense weights.

        Parameters
        ----------
        input_ids : int64 [batch, length]
            Token ids, padded on the right.
        attention_mask : int64 [batch, length]
            1 for a token, 0 for padding.

        Returns
        -------
        float32 [batch, vocab_size]
            Finite, non-negative weights.

        Raises
        ------
        InputError
            For ids or a mask that graphs are not defined on.
        ArtifactError
            If the graph fails, or gives anything but finite, non-negative weights.
        """
        check_inputs(input_ids, attention_mask, self.vocab_size, self.max_length)
        weights = self._run(np.ascontiguousarray(input_ids), np.ascontiguousarray(attention_mask))
        if weights.shape != (input_ids.shape[0], self.vocab_size) or weights.dtype != np.float32:
            raise ArtifactError(
                f"{self.path} gives {weights.dtype} {list(weights.shape)} where its manifest promises float32 "
                f"[{input_ids.shape[0]}, {self.vocab_size}]; {export_again()}"
            )
        # A NaN makes min() NaN and an infinity shows in max(): two passes, no temporary.
        if not (weights.min() >= 0 and weights.max() < np.inf):
            raise ArtifactError(f"{self.path} gives weights that are negative or not finite; use another precision")
        return weights

    def vectors(self, input_ids: Ids, attention_mask: Ids) -> list[SparseVector]:
        """Encode a batch to sparse vectors, one a text. Parameters and errors are those of :meth:`run`."""
        return [from_dense(row) for row in self.run(input_ids, attention_mask)]

    def vector(self, ids: list[int]) -> SparseVector:
        """Encode one text, given as its token ids. Errors are those of :meth:`run`."""
        input_ids = np.array([ids], np.int64)
        return self.vectors(input_ids, np.ones_like(input_ids))[0]

    def restricted(self, terms: npt.NDArray[np.int32]) -> Session:
        """A session for some terms only, if this backend saves work that way; otherwise this session.

        Parameters
        ----------
        terms : int32 [n]
            Term ids, ascending.

        Returns
        -------
        Session
            It gives these terms the same weights, to the last bit. A new session gives no weight to other terms.
        """
        return self

    @abstractmethod
    def _run(self, input_ids: Ids, attention_mask: Ids) -> Weights:
        """:meth:`run` of validated, contiguous inputs. The result is validated by the caller."""


def check_inputs(input_ids: Ids, attention_mask: Ids, vocab_size: int, max_length: int) -> None:
    """Check the inputs of :meth:`Session.run`.

    Parameters
    ----------
    input_ids, attention_mask : int64 [batch, length]
        See :meth:`Session.run`.
    vocab_size : int
        Token ids must be below it.
    max_length : int
        The longest text, in tokens.

    Raises
    ------
    InputError
        If a shape, a dtype, a token id or a row of the mask is not what graphs are defined on.
    """
    if input_ids.ndim != 2 or 0 in input_ids.shape or input_ids.dtype != np.int64:
        raise InputError(f"token ids are {input_ids.dtype} {list(input_ids.shape)}; give int64 [batch, length], none 0")
    if input_ids.shape[1] > max_length:
        raise InputError(f"a text of {input_ids.shape[1]} tokens is longer than the {max_length} the encoder takes")
    if attention_mask.shape != input_ids.shape or attention_mask.dtype != np.int64:
        raise InputError(
            f"the mask is {attention_mask.dtype} {list(attention_mask.shape)}; give int64 {list(input_ids.shape)}"
        )
    if input_ids.view(np.uint64).max() >= vocab_size:  # a negative one too
        low, high = int(input_ids.min()), int(input_ids.max())
        raise InputError(f"token id {low if low < 0 else high} is outside the vocabulary of {vocab_size} terms")
    if attention_mask.min() == 1 == attention_mask.max():  # nothing is padded, as with every text alone
        return
    # Ones, then zeros: starts with 1, never rises, and holds nothing else.
    if not (
        (attention_mask[:, 0] == 1).all()
        and (attention_mask.min() >= 0)
        and (attention_mask[:, 1:] <= attention_mask[:, :-1]).all()
    ):
        raise InputError("a mask row is empty or padded on the left; pad on the right, with at least one token")
