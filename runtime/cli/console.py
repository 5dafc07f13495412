"""Printing: stored text is made harmless before it reaches a terminal, and nothing in it is taken for markup."""

from __future__ import annotations

import json
import os
import re
import sys
import unicodedata
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# Joiners are format characters too, but scripts and emoji need them, and they move no cursor.
_HARMLESS = {"\u200c", "\u200d", "\u00ad"}
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_ASCII = re.compile(r"[\x20-\x7e]*")
_TRAILING = re.compile(" +\n")
_NOT_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """``text`` with white space collapsed and control, bidi and surrogate characters written as escapes (``\\x1b``)."""
    text = " ".join(text.split())
    if _ASCII.fullmatch(text):
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _UNPRINTABLE and c not in _HARMLESS else c for c in text)


def json_line(value: Any) -> str:
    """JSON on one line; characters that could steer a terminal are escaped, as JSON allows."""
    return _NOT_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


def write_out(line: str) -> None:
    """A line to standard output."""
    sys.stdout.write(line + "\n")


def complain(kind: str, message: str) -> None:
    """``splade-edge: kind: message`` to standard error, on one line."""
    sys.stderr.write(f"splade-edge: {kind}: {printable(message)}\n")


def prepare_streams() -> None:
    """Never fail on a character the terminal cannot show; pipes and files get UTF-8 on every system."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # absent where a test or a GUI replaced the stream
        if reconfigure is not None:
            if stream.isatty():
                reconfigure(errors="backslashreplace")
            else:
                reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")


def cell(text: str, style: str = "") -> Text:
    """Stored text for a table cell."""
    from rich.text import Text

    return Text(printable(text), style=style)


def new_table(*columns: str) -> Table:
    """A table without a frame; columns named with a leading ``>`` are right-aligned."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return table


class _Trimmed:
    """A stream that leaves out blanks at the end of lines, with which tables are filled up."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(_TRAILING.sub("\n", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def new_console(*, stderr: bool = False) -> Console:
    """A console that interprets nothing in the text it is given; 120 columns where the output is not a terminal."""
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with 1; main answers for all output
            raise

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 120
    file = stream if stream.isatty() else cast(TextIO, _Trimmed(stream))
    return PlainConsole(file=file, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def key_values(pairs: list[tuple[str, str]]) -> Table:
    """A two-column table of names and values."""
    table = new_table("", "")
    table.show_header = False
    for key, value in pairs:
        table.add_row(cell(key, "bold"), cell(value))
    return table


def plural(count: int, what: str) -> str:
    """``1 document``, ``2,000 documents``."""
    many = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{count:,} {what if count == 1 else many}"


def human_bytes(size: float) -> str:
    """``1.5 MiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def human_seconds(seconds: float) -> str:
    """``45 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
