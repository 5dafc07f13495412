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
    """One line: its ``data`` without the line end, and ``location`` as ``file:number``."""

    location: str
    data: bytes


class ReadMeter:
    """``bytes_read`` of all sources so far, as they lie on disk (compressed, if they are)."""

    def __init__(self) -> None:
        self.bytes_read = 0


class BadLines:
    """What happens to a line that cannot be used: under ``fail`` it ends the run, under ``skip`` it is counted.

    ``count``: lines skipped; ``messages``: the first ``shown`` of them as ``file:line: reason``.
    """

    def __init__(self, policy: Literal["fail", "skip"] = "fail", shown: int = 10) -> None:
        self.policy = policy
        self.shown = shown
        self.count = 0
        self.messages: list[str] = []

    def report(self, location: str, reason: str) -> None:
        """Count a bad line. Raises CorpusError under ``fail``."""
        if self.policy == "fail":
            raise CorpusError(f"{location}: {reason}")
        self.count += 1
        if len(self.messages) < self.shown:
            self.messages.append(f"{location}: {reason}")


def source_name(source: str) -> str:
    """``source`` as it is shown to people: ``-`` is ``<stdin>``."""
    return "<stdin>" if source == "-" else source


def format_of(source: str) -> Literal["jsonl", "tsv"] | None:
    """The format a file's name promises; None for stdin. Raises InputError for a name that promises neither."""
    if source == "-":
        return None
    name = source.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    if name.endswith((".tsv", ".txt", ".tab")):
        return "tsv"
    raise InputError(f"{source}: cannot tell its format; name it .jsonl or .tsv (.gz may follow), or pipe it in as -")


def names_a_corpus(source: str) -> bool:
    """Whether :func:`format_of` takes it."""
    try:
        format_of(source)
    except InputError:
        return False
    return True


def size_of(source: str) -> int | None:
    """Bytes on disk, None for stdin. Raises InputError if it cannot be read."""
    if source == "-":
        return None
    with _readable(source):
        return Path(source).stat().st_size


def read_lines(source: str, bad_lines: BadLines, meter: ReadMeter | None = None) -> Iterator[Line]:
    """The lines of a file, or of stdin for ``-``; gzip is recognised by its first bytes.

    ``meter`` is kept up to date (files only). A line over 64 MiB is reported to ``bad_lines``. Raises InputError if the
    file cannot be opened, CorpusError if it is damaged gzip (whatever the policy: the rest cannot be counted).
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
            # A line may have 64 MB: it is not held here while it is used.
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
    """UTF-8 text of a line. Raises ValueError whose message is a reason for :meth:`BadLines.report`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(invalid_utf8(error)) from None
    if "\x00" in text:
        raise ValueError("it holds a NUL byte; is this a text file?")
    return text


def invalid_utf8(error: UnicodeDecodeError) -> str:
    """The reason, for a reader who has to find the byte."""
    return f"invalid UTF-8 (byte 0x{error.object[error.start]:02x}); convert the file, e.g. with iconv"


@contextmanager
def _readable(source: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{source} does not exist") from None
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror or error})") from None
