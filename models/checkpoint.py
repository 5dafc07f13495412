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

    ``model``: a transformers masked-language model, float32, evaluation mode; None where a text's weights come from
    ``table``, float32 ``[vocab_size]``. ``loaded``: its fast tokenizer. ``role``: the side it serves, "both" if one
    encoder serves both; ``sides``: what is done to their texts. ``adds_special_tokens`` is false for a table.
    ``own_terms``: whether only the terms of the text itself keep their weight (a mask by bag of words; always so with a
    table). ``dropped_terms``: term ids whose weight is zero. ``max_active_dims``: only so many of the largest weights
    are kept; ``normalization``: L2, of all terms or of those that are kept. ``max_positions`` is the longest input the
    model can take. ``query_idf`` is what a search does to the query weights (see
    :func:`splade_edge.runtime.idf.idf_factors`): the key of that name in ``config.json``, 0 without it and for
    documents.

    ``stored_dtype``: of its weights on disk. ``library_root`` is what sentence-transformers opens for this side;
    ``deviation`` says why its vectors are not to be compared with, "" where they are. ``unknown``: keys that stand
    in no row of :mod:`keys`; ``ignored``: those of them that were to be ignored.
    ``options``: what it was opened with. ``notes`` say what was unusual about the files.
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
    own_terms: bool
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
