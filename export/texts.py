"""Text for parity and calibration: bundled with the package, or a file of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from ..runtime.errors import InputError

_HERE = Path(__file__).parent / "samples"


class _Line(msgspec.Struct, frozen=True):
    kind: Literal["query", "document", "odd"]
    text: str


@dataclass(frozen=True)
class SampleTexts:
    """``queries`` and ``documents`` rank each other; ``odd`` texts (empty, other scripts, too long) rank nothing."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    odd: tuple[str, ...] = ()


def parity_texts() -> SampleTexts:
    """The bundled text that graphs are compared on. No text of it is in :func:`calibration_texts`."""
    return _read(_HERE / "parity.jsonl")


def calibration_texts(path: Path | None = None) -> SampleTexts:
    """The bundled calibration text, or that of ``path`` (JSON lines with ``kind`` and ``text``).

    Raises InputError naming file and line.
    """
    return _read(path or _HERE / "calibration.jsonl")


def _read(path: Path) -> SampleTexts:
    texts: dict[str, list[str]] = {"query": [], "document": [], "odd": []}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            sample = msgspec.json.decode(line, type=_Line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InputError(
                f'{path}:{number}: {error}; each line is {{"kind": "query" or "document", "text": ...}}'
            ) from None
        texts[sample.kind].append(sample.text)
    if not texts["query"] or not texts["document"]:
        raise InputError(f"{path} needs at least one query and one document")
    return SampleTexts(tuple(texts["query"]), tuple(texts["document"]), tuple(texts["odd"]))
