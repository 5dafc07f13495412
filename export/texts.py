"""Text for parity and calibration: bundled with the package, or a file of the user's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from ..models.layout import Side
from ..runtime.build.corpus import BadLines, read_corpus
from ..runtime.document import Document
from ..runtime.errors import InputError

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint

_HERE = Path(__file__).parent / "samples"
_FROM_CORPUS, _QUERY_WORDS = 128, 12
# Longer limits are reached by no text that is worth the time.
_LONGEST = 20_000
_WORDS = ("When", "DID", "the", "first", "King", "of", "Kenya,", "in", "1973,", "ask", "for", "a", "steam-engine?")
_CORNERS = (
    "  white space at both ends \t\n",
    "\u00a0\u3000no-break and ideographic spaces\u2028",
    "UPPER CASE Élan ÜBER İSTANBUL ΣΊΣΥΦΟΣ",
    "a NUL \x00 in the middle",
    "\x00",
    "e\u0301 e\u0300 decomposed, ﬃ ligature, ſ long s, K kelvin",
    "3.14159 1,000,000 ½ ² 12345678901234567890",
    "ᚠᛇᚻ 𓀀 \U0010fffd \ufffd unknown scripts",
)


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


def corner_texts(checkpoint: Checkpoint, side: Side) -> tuple[str, ...]:
    """Texts that reach the corners of one checkpoint.

    They are: its special tokens written out, a text beyond the side's limit, white space at the ends, upper case, a
    NUL.

    Parameters
    ----------
    checkpoint : Checkpoint
        The checkpoint.
    side : {"query", "document"}
        The side whose limit counts.

    Returns
    -------
    tuple of str
        The texts.
    """
    special = " ".join(f"{token} oil" for token in checkpoint.tokenizer.all_special_tokens)
    limit = checkpoint.sides[side].max_length
    # A word is a token or more, so this is beyond the limit; what has no limit has no text beyond it.
    count = limit + 8 if limit < _LONGEST else 0
    beyond = " ".join(_WORDS[i % len(_WORDS)] for i in range(count))
    return (special, special.upper(), *((beyond,) if beyond else ()), *_CORNERS)


def calibration_texts(path: Path | None = None) -> SampleTexts:
    """The bundled calibration text, or that of a file.

    Of a corpus 128 documents are taken, evenly spread. Their titles stand for queries, or their first words where there
    is no title.

    Parameters
    ----------
    path : Path, optional
        JSON lines with ``kind`` and ``text``, or a corpus as ``splade-edge index`` reads it.

    Returns
    -------
    SampleTexts
        Queries and documents.

    Raises
    ------
    InputError
        If the file cannot be read; the message names file and line.
    """
    if path is None:
        return _read(_HERE / "calibration.jsonl")
    return _read(path) if _has_kinds(path) else _from_corpus(path)


def _has_kinds(path: Path) -> bool:
    """Whether the first line of a file is one of ours, rather than a document."""
    try:
        with path.open("rb") as lines:
            first = msgspec.json.decode(next((line for line in lines if line.strip()), b"{}"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return isinstance(first, dict) and "_id" not in first


def _from_corpus(path: Path) -> SampleTexts:
    kept: list[Document] = []
    step = 1
    for place, record in enumerate(read_corpus([str(path)], BadLines("fail"))):
        if place % step == 0 and (record.document.text or record.document.title):
            kept.append(record.document)
        if len(kept) == 2 * _FROM_CORPUS:
            kept, step = kept[::2], 2 * step
    count = min(len(kept), _FROM_CORPUS)
    documents = [kept[i * len(kept) // count] for i in range(count)]
    if not documents:
        raise InputError(f"{path} has no documents to calibrate on")
    queries = tuple(d.title or " ".join(d.text.split()[:_QUERY_WORDS]) for d in documents)
    return SampleTexts(queries, tuple(f"{d.title} {d.text}".strip() for d in documents))


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
