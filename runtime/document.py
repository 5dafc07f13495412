"""What is stored and found: a document."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Document:
    """A document as it is stored: a unique ``id``, ``title`` and ``text`` (either may be empty), JSON ``metadata``."""

    id: str
    title: str = ""
    text: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
