"""How a checkpoint may be opened. Without PyTorch, so that wrong options are found before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from .families import FAMILIES, Family


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
        """The prompt that the user asked for.

        Parameters
        ----------
        side : {"query", "document"}
            The side.

        Returns
        -------
        str or None
            The prompt, None if none was asked for.
        """
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

    def asking(self, asked: Mapping[str, str]) -> OpenOptions:
        """These options with what :meth:`asked` told of others.

        A family of a user's own file is not known by its name alone, and is left out.

        Parameters
        ----------
        asked : mapping of str to str
            What :meth:`asked` returned.

        Returns
        -------
        OpenOptions
            The options.
        """
        length, dims, idf = (asked.get(name) for name in ("--max-length", "--max-active-dims", "--query-idf"))
        family, tokenizer = asked.get("--family"), asked.get("--tokenizer")
        return replace(
            self,
            family=family if any(known.name == family for known in FAMILIES) else self.family,
            max_length=int(length) if length else None,
            query_idf=float(idf) if idf else None,
            prompt_query=asked.get("--prompt-query"),
            prompt_document=asked.get("--prompt-document"),
            max_active_dims=int(dims) if dims else None,
            tokenizer="file" if tokenizer == "file" else "class" if tokenizer == "class" else None,
            ignore=tuple(asked["--ignore"].split(", ")) if "--ignore" in asked else (),
        )
