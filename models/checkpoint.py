"""What a checkpoint is once it is open: one side's model, tokenizer and everything the export has to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .families import Family, QuerySide
from .hub import Located
from .layout import Side
from .look_up import Table
from .options import OpenOptions
from .side_text import Normalization, SideText
from .tokenizing import LoadedTokenizer

Role = Literal["query", "document", "both"]


@dataclass(frozen=True)
class Checkpoint:
    """One side of a checkpoint, loaded.

    Attributes
    ----------
    located : Located
        Where the checkpoint is, and the name and revision to record.
    directory : Path
        The directory of this side.
    role : {"query", "document", "both"}
        The side it serves; "both" if one encoder serves both.
    family : Family
        The family of the encoder.
    pooling, activation : str
        How logits become weights; "" for a table.
    query_side : str
        What turns a query into weights.
    model : transformers.PreTrainedModel or None
        A masked-language model, float32, evaluation mode. None where weights come from ``table``.
    table : float32 array ``[vocab_size]`` or None
        The weight of each term.
    lexical_only : bool
        Whether only the terms of the text itself keep their weight. Always so with a table.
    loaded : LoadedTokenizer
        The fast tokenizer.
    sides : mapping of side to SideText
        What is done to the texts of each side.
    adds_special_tokens : bool
        Whether texts get special tokens; false for a table.
    vocab_size : int
        The number of terms.
    max_positions : int
        The longest input that the model takes, in tokens.
    special_tokens : dict of str to int
        The term ids of the special tokens, by name.
    dropped_terms : tuple of int
        Term ids whose weight is zero.
    max_active_dims : int or None
        Only so many of the largest weights are kept.
    normalization : {"none", "all terms", "kept terms"}
        L2, of all terms or of those that are kept.
    licence : str
        The licence, or "unknown".
    weights_sha256 : str
        See :func:`weights_sha256`.
    stored_dtype : str
        The dtype of its weights on disk.
    library_root : Path
        What sentence-transformers opens for this side.
    deviation : str
        Why its vectors are not to be compared with those of the library; "" where they are.
    unknown : tuple of str
        Keys of its files that stand in no row of :mod:`keys`.
    ignored : tuple of str
        Keys that are not known and that the user said to ignore.
    options : OpenOptions
        What it was opened with.
    notes : tuple of str
        What was unusual about the files.
    query_idf : float
        The exponent that a search applies to the inverse document frequency of query terms (see
        :func:`splade_edge.runtime.idf.idf_factors`): the key of that name in ``config.json``; 0 without it and for
        documents.
    depends_on_padding : bool
        Whether a text gets other weights in a padded batch.
    """

    located: Located
    directory: Path
    role: Role
    family: Family
    pooling: str
    activation: str
    query_side: QuerySide
    model: Any
    table: Table | None
    lexical_only: bool
    loaded: LoadedTokenizer
    sides: Mapping[Side, SideText]
    adds_special_tokens: bool
    vocab_size: int
    max_positions: int
    special_tokens: dict[str, int]
    dropped_terms: tuple[int, ...]
    max_active_dims: int | None
    normalization: Normalization
    licence: str
    weights_sha256: str
    stored_dtype: str
    library_root: Path
    deviation: str
    unknown: tuple[str, ...]
    ignored: tuple[str, ...]
    options: OpenOptions
    notes: tuple[str, ...]
    query_idf: float = 0.0
    depends_on_padding: bool = False

    @property
    def root(self) -> Path:
        """The directory the user named, or the snapshot of the hub repository."""
        return self.located.path

    @property
    def tokenizer(self) -> Any:
        """The fast tokenizer of transformers."""
        return self.loaded.tokenizer

    @property
    def max_length(self) -> int:
        """Tokens of the longest text of any side, special ones and the prompt included."""
        return max(side.max_length for side in self.sides.values())

    @property
    def half_precision(self) -> bool:
        """Whether its weights are stored in float16 or bfloat16."""
        return self.stored_dtype in ("float16", "bfloat16")

    def token_ids(self, text: str, side: Side) -> list[int]:
        """The token ids that the encoder gets for a text.

        Parameters
        ----------
        text : str
            The text; the side's prompt is put before it.
        side : {"query", "document"}
            The side it is encoded as.

        Returns
        -------
        list of int
            The ids, special tokens included, cut at the side's maximum length.
        """
        return [int(term) for term in self._tokenized(text, side)["input_ids"]]

    def uses_token_types(self, text: str) -> bool:
        """Tell whether the tokenizer gives some token another type than 0, which an exported graph cannot take.

        Parameters
        ----------
        text : str
            The text to look at.

        Returns
        -------
        bool
            Whether any side does so.
        """
        return any(any(self._tokenized(text, side).get("token_type_ids", ())) for side in self.sides)

    def _tokenized(self, text: str, side: Side) -> Mapping[str, Any]:
        settings = self.sides[side]
        tokenized: Mapping[str, Any] = self.tokenizer(
            settings.prompt + text,
            truncation=True,
            max_length=settings.max_length,
            add_special_tokens=self.adds_special_tokens,
        )
        return tokenized
