"""Reading documents from BEIR JSON lines or TSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from ..document import Document
from .lines import BadLines, Line, ReadMeter, decode_line, format_of, invalid_utf8, read_lines

__all__ = ["BadLines", "Document", "Record", "read_corpus"]

_FIELDS = ("_id", "title", "text")


class Record(NamedTuple):
    """A document with its location.

    Attributes
    ----------
    document
        The document.
    location
        Where it was read, as ``file:line``.
    """

    document: Document
    location: str


def read_corpus(sources: Sequence[str], bad_lines: BadLines, meter: ReadMeter | None = None) -> Iterator[Record]:
    """Read documents lazily from files, in order.

    ``.jsonl`` holds one BEIR object a line: ``_id`` (string), ``title`` (optional) and ``text``; all other keys become
    metadata. ``.tsv`` holds ``id<TAB>text`` or ``id<TAB>title<TAB>text`` without quoting, or the columns that a header
    names (see :func:`tsv_header`). ``.gz`` may be added to any name. Blank lines are ignored. A document whose title
    and text are empty is kept. Whether ids are unique is not checked here.

    Parameters
    ----------
    sources
        Names of files; ``-`` is standard input, in either format.
    bad_lines
        Receives the lines that cannot be used.
    meter
        Counts the bytes that were read.

    Yields
    ------
    Record
        A document and its location.

    Raises
    ------
    InputError
        If a file cannot be opened, or its format is unknown.
    CorpusError
        If a line cannot be used and ``bad_lines`` does not skip it, or a gzip file is damaged.
    """
    formats = [format_of(source) for source in sources]
    for source, expected in zip(sources, formats, strict=True):
        parse: Callable[[Line], Document] | None = {"jsonl": _from_json, "tsv": None, None: None}[expected]
        for line in read_lines(source, bad_lines, meter):
            if not line.data.strip():
                continue
            if parse is None:  # this is the first line
                if expected is None and looks_like_json(line.data):
                    parse = _from_json
                elif header := tsv_header(line.data):
                    parse = partial(_from_tsv_with_header, header)
                    continue
                else:
                    parse = _from_tsv
            location = line.location
            try:
                document = parse(line)
            except ValueError as error:
                bad_lines.report(location, str(error))
                continue
            finally:
                del line  # a line may be large, and so may its document
            yield Record(document, location)
            del document


def looks_like_json(first_line: bytes) -> bool:
    """Whether a stream without a name is JSON lines. A broken first line counts as JSON, unless it has a tab.

    Parameters
    ----------
    first_line
        The first line that is not blank.

    Returns
    -------
    bool
        True for JSON lines, False for TSV.
    """
    return first_line.lstrip()[:1] == b"{" or b"\t" not in first_line


class TsvHeader(NamedTuple):
    """The columns of a TSV file by name.

    Attributes
    ----------
    columns
        The number of columns.
    id, title, text
        The positions of these columns, from 0; None for a title that is not there.
    others
        Name and position of each other column.
    """

    columns: int
    id: int
    title: int | None
    text: int
    others: list[tuple[str, int]]


_ID_NAMES = {"id", "_id", "docid", "doc_id", "pid", "qid", "query_id", "query-id"}
_TEXT_NAMES = {"text", "passage", "contents", "body", "query"}


def tsv_header(first_line: bytes) -> TsvHeader | None:
    """Read a header, if the first line is one.

    It is one if exactly one column has a usual name of the id, exactly one a usual name of the text (in any case), and
    no two columns have the same name.

    Parameters
    ----------
    first_line
        The first line of a TSV file.

    Returns
    -------
    TsvHeader or None
        None if the line is not a header.
    """
    names = [name.strip() for name in first_line.decode("utf-8", "replace").split("\t")]
    known = [name.lower() for name in names]
    ids = [position for position, name in enumerate(known) if name in _ID_NAMES]
    texts = [position for position, name in enumerate(known) if name in _TEXT_NAMES]
    if len(ids) != 1 or len(texts) != 1 or len(set(known)) < len(known) or "" in known:
        return None
    title = known.index("title") if "title" in known else None
    others = [(name, position) for position, name in enumerate(names) if position not in (ids[0], texts[0], title)]
    return TsvHeader(len(names), ids[0], title, texts[0], others)


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse the JSON object of a line.

    Parameters
    ----------
    data
        The line, UTF-8.

    Returns
    -------
    dict
        The object.

    Raises
    ------
    ValueError
        If the line is not a JSON object; the message is the reason.
    """
    try:
        value = msgspec.json.decode(data)
    except UnicodeDecodeError as error:
        raise ValueError(invalid_utf8(error)) from None
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    except msgspec.MsgspecError as error:
        if b"\x00" in data:
            raise ValueError("it holds a NUL byte; is this a text file?") from None
        raise ValueError(f"not a line of JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {_json_type(value)} where an object with _id and text is expected")
    return value


def text_field(value: dict[str, Any], name: str, default: str | None = None) -> str:
    """A string field of a parsed line. Null counts as absent.

    Parameters
    ----------
    value
        The object of the line.
    name
        The key.
    default
        The value of a field that is absent; None: the field is required.

    Returns
    -------
    str
        The field.

    Raises
    ------
    ValueError
        If the field is absent and required, is not a string, or holds a NUL character.
    """
    found = value.get(name)
    if found is None:
        found = default
    if found is None and name in value:
        raise ValueError(f'"{name}" is null; it must be a string')
    if found is None:
        keys = ", ".join(map(repr, list(value)[:8])) or "none"
        raise ValueError(f'no "{name}": each line needs one, a string (its keys are: {keys})')
    if not isinstance(found, str):
        raise ValueError(f'"{name}" is a {_json_type(found)}; it must be a string')
    if "\x00" in found:
        raise ValueError(f'"{name}" holds a NUL character; remove it')
    return found


def checked_id(found: str) -> str:
    """Check that an id is not empty.

    Parameters
    ----------
    found
        The id.

    Returns
    -------
    str
        The same id.

    Raises
    ------
    ValueError
        If the id is empty or white space.
    """
    if not found.strip():
        raise ValueError("the id is empty")
    return found


def _from_json(line: Line) -> Document:
    value = parse_object(line.data)
    metadata = {key: item for key, item in value.items() if key not in _FIELDS}
    return Document(
        checked_id(text_field(value, "_id")), text_field(value, "title", ""), text_field(value, "text"), metadata
    )


def _from_tsv(line: Line) -> Document:
    columns = decode_line(line.data).split("\t")
    if len(columns) not in (2, 3):
        raise ValueError(
            f"{len(columns)} column{'s' * (len(columns) != 1)} where id<TAB>text or id<TAB>title<TAB>text is expected"
        )
    return Document(checked_id(columns[0]), columns[1] if len(columns) == 3 else "", columns[-1])


def _from_tsv_with_header(header: TsvHeader, line: Line) -> Document:
    columns = decode_line(line.data).split("\t")
    if len(columns) != header.columns:
        raise ValueError(f"{len(columns)} column{'s' * (len(columns) != 1)} where the header has {header.columns}")
    title = "" if header.title is None else columns[header.title]
    return Document(
        checked_id(columns[header.id]), title, columns[header.text], {name: columns[at] for name, at in header.others}
    )


def _json_type(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
