"""Numbered lines of text files: gzip, stdin, byte-order marks, and what to do with lines that cannot be used."""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple

from ..errors import CorpusError, InputError

MAX_LINE_BYTES = 64 << 20
_CHUNK = 1 << 20


class Line(NamedTuple):
    """One line of a file.

    Attributes
    ----------
    location
        Where it is, as ``file:number``.
    data
        Its bytes without the line end.
    """

    location: str
    data: bytes


class ReadMeter:
    """Counts in ``bytes_read`` the bytes of all sources so far, as they are on disk (compressed, if they are)."""

    def __init__(self) -> None:
        self.bytes_read = 0


class BadLines:
    """What happens to a line that cannot be used.

    Attributes
    ----------
    count
        Lines that were skipped.
    messages
        The first of them, as ``file:line: reason``.

    Parameters
    ----------
    policy
        ``fail``: it ends the run. ``skip``: it is counted.
    shown
        At most this many messages are kept.
    """

    def __init__(self, policy: Literal["fail", "skip"] = "fail", shown: int = 10) -> None:
        self.policy = policy
        self.shown = shown
        self.count = 0
        self.messages: list[str] = []

    def report(self, location: str, reason: str) -> None:
        """Count a bad line.

        Parameters
        ----------
        location
            Where it is, as ``file:number``.
        reason
            Why it cannot be used.

        Raises
        ------
        CorpusError
            If the policy is ``fail``.
        """
        if self.policy == "fail":
            raise CorpusError(f"{location}: {reason}")
        self.count += 1
        if len(self.messages) < self.shown:
            self.messages.append(f"{location}: {reason}")


def source_name(source: str) -> str:
    """The name of a source for people.

    Parameters
    ----------
    source
        The name of a file; ``-`` is standard input.

    Returns
    -------
    str
        The same name, or ``<stdin>``.
    """
    return "<stdin>" if source == "-" else source


def format_of(source: str) -> Literal["jsonl", "tsv"] | None:
    """The format that a file's name promises.

    Parameters
    ----------
    source
        The name of a file; ``-`` is standard input.

    Returns
    -------
    str or None
        ``jsonl`` or ``tsv``; None for standard input.

    Raises
    ------
    InputError
        If the name promises neither.
    """
    if source == "-":
        return None
    name = source.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    if name.endswith((".tsv", ".txt", ".tab")):
        return "tsv"
    raise InputError(f"{source}: cannot tell its format; name it .jsonl or .tsv (.gz may follow), or pipe it in as -")


def names_a_corpus(source: str) -> bool:
    """Whether :func:`format_of` accepts a name.

    Parameters
    ----------
    source
        The name of a file; ``-`` is standard input.

    Returns
    -------
    bool
        False if the name promises no format that we read.
    """
    try:
        format_of(source)
    except InputError:
        return False
    return True


def size_of(source: str) -> int | None:
    """The size of a file.

    Parameters
    ----------
    source
        The name of a file; ``-`` is standard input.

    Returns
    -------
    int or None
        Bytes on disk; None for standard input.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    if source == "-":
        return None
    with _readable(source):
        return Path(source).stat().st_size


def read_lines(source: str, bad_lines: BadLines, meter: ReadMeter | None = None) -> Iterator[Line]:
    """Read the lines of a file. Gzip is recognised by its first bytes.

    A line over 64 MiB is reported to ``bad_lines``.

    Parameters
    ----------
    source
        The name of a file; ``-`` is standard input.
    bad_lines
        Receives lines that are too long.
    meter
        Counts the bytes that were read, of files only.

    Yields
    ------
    Line
        The lines, without a byte-order mark.

    Raises
    ------
    InputError
        If the file cannot be opened or read.
    CorpusError
        If it is damaged gzip, whatever the policy of ``bad_lines``: the lines that are lost cannot be counted.
    """
    name = source_name(source)
    with _readable(source):
        raw: IO[bytes] = sys.stdin.buffer if source == "-" else Path(source).open("rb")  # noqa: SIM115 - closed below
    number = 0
    before = meter.bytes_read if meter else 0
    try:
        buffered = io.BufferedReader(raw) if isinstance(raw, io.RawIOBase) else raw
        is_gzip = buffered.peek(2)[:2] == b"\x1f\x8b" if isinstance(buffered, io.BufferedReader) else False
        stream: IO[bytes] | gzip.GzipFile = gzip.open(buffered) if is_gzip else buffered  # noqa: SIM115 - raw is closed below
        while data := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if meter and source != "-":
                meter.bytes_read = before + buffered.tell()
            location = f"{name}:{number}"
            if len(data) > MAX_LINE_BYTES and not data.endswith(b"\n"):
                while (rest := stream.readline(_CHUNK)) and not rest.endswith(b"\n"):
                    pass
                bad_lines.report(location, f"the line is longer than {MAX_LINE_BYTES >> 20} MiB; is this a text file?")
                continue
            if number == 1:
                data = data.removeprefix(b"\xef\xbb\xbf")
            # A line may have 64 MB, so no reference is kept here while the caller uses it.
            line = [Line(location, data.rstrip(b"\r\n"))]
            del data
            yield line.pop()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(f"{name}: damaged gzip after line {number} ({error}); copy the file again") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read after line {number} ({error.strerror or error})") from None
    finally:
        if source != "-":
            raw.close()


def decode_line(data: bytes) -> str:
    """Decode a line.

    Parameters
    ----------
    data
        The line.

    Returns
    -------
    str
        Its text.

    Raises
    ------
    ValueError
        If the line is not UTF-8, or holds a NUL byte. The message is a reason for :meth:`BadLines.report`.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(invalid_utf8(error)) from None
    if "\x00" in text:
        raise ValueError("it holds a NUL byte; is this a text file?")
    return text


def invalid_utf8(error: UnicodeDecodeError) -> str:
    """The reason for a line that is not UTF-8, with the byte to look for.

    Parameters
    ----------
    error
        What decoding has raised.

    Returns
    -------
    str
        The reason.
    """
    return f"invalid UTF-8 (byte 0x{error.object[error.start]:02x}); convert the file, e.g. with iconv"


@contextmanager
def _readable(source: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{source} does not exist") from None
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror or error})") from None
