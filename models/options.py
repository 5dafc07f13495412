"""How a checkpoint may be opened. Without PyTorch, so that wrong options are found before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .families import Family


@dataclass(frozen=True)
class OpenOptions:
    """How a checkpoint may be opened.

    ``family`` (a name, the path of a family file, or a family) overrides detection. What follows overrides what the
    files state: ``max_length`` (tokens), ``licence``, ``query_idf``, the prompts, ``max_active_dims``. ``tokenizer``:
    see :class:`~splade_edge.models.tokenizing.LoadedTokenizer`. ``ignore``: keys that are not known and may be ignored,
    ``KEY`` or ``FILE: KEY``.
    """

    revision: str | None = None
    offline: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False
    family: str | Family | None = None
    max_length: int | None = None
    licence: str | None = None
    query_idf: float | None = None
    prompt_query: str | None = None
    prompt_document: str | None = None
    max_active_dims: int | None = None
    tokenizer: Literal["class", "file"] | None = None
    ignore: tuple[str, ...] = ()

    def prompt(self, side: Literal["query", "document"]) -> str | None:
        """The prompt that was asked for a side, None if none was."""
        return self.prompt_query if side == "query" else self.prompt_document

    def asked(self) -> dict[str, str]:
        """What overrides the checkpoint's own files, by the name of the command's option, for the model card."""
        found = {
            "--family": self.family.name if isinstance(self.family, Family) else self.family,
            "--max-length": self.max_length,
            "--query-idf": self.query_idf,
            "--prompt-query": self.prompt_query,
            "--prompt-document": self.prompt_document,
            "--max-active-dims": self.max_active_dims,
            "--tokenizer": self.tokenizer,
            "--ignore": ", ".join(self.ignore) or None,
        }
        return {name: str(value) for name, value in found.items() if value is not None}
