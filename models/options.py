"""How a checkpoint may be opened. Without PyTorch, so that wrong options are found before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from .families import Family


@dataclass(frozen=True)
class OpenOptions:
    """How a checkpoint may be opened.

    ``family`` (a name, the path of a family file, or a family) overrides detection, ``max_length`` (tokens) what the
    files state, ``licence`` what the README states, ``query_idf`` what ``config.json`` states.
    """

    revision: str | None = None
    offline: bool = False
    allow_pickle: bool = False
    trust_remote_code: bool = False
    family: str | Family | None = None
    max_length: int | None = None
    licence: str | None = None
    query_idf: float | None = None
