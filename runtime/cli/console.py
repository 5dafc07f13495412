"""Printing. Stored text is made harmless before it reaches a terminal, and nothing in it is interpreted as markup."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# Joiners are format characters too. Scripts and emoji need them, and they do not move the cursor.
_HARMLESS = {"\u200c", "\u200d", "\u00ad"}
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_NARROWEST = 20  # columns of a table
_LONGEST = 1000  # characters of a message
_ASCII = re.compile(r"[\x20-\x7e]*")
_TRAILING = re.compile(" +\n")
_NOT_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Collapse white space, and write control, bidi and surrogate characters as escapes (``\\x1b``).

    Parameters
    ----------
    text
        Any text.

    Returns
    -------
    str
        One line that is safe to print.
    """
    text = " ".join(text.split())
    if _ASCII.fullmatch(text):
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _UNPRINTABLE and c not in _HARMLESS else c for c in text)


def json_line(value: Any) -> str:
    """Format a value as JSON on one line. Characters that could control a terminal are escaped, as JSON allows.

    Parameters
    ----------
    value
        JSON values.

    Returns
    -------
    str
        The line, without a line end.
    """
    return _NOT_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


def write_out(line: str) -> None:
    """Write a line to standard output.

    Parameters
    ----------
    line
        The line, without a line end.

    Raises
    ------
    OSError
        If standard output is closed or does not take it.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    sys.stdout.write(line + "\n")


def write_err(text: str) -> None:
    """Write text to standard error. Errors are ignored: that nobody can read it is no reason to end the work.

    Parameters
    ----------
    text
        The text, with its line ends.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # the stream is full or gone, closed, absent
        sys.stderr.write(text)
        sys.stderr.flush()


def warn(kind: str, message: str) -> None:
    """Write ``splade-edge: kind: message`` to standard error, on one line.

    Of a very long message the beginning and the end are written, because the end names the fix.

    Parameters
    ----------
    kind
        ``error``, ``warning``, ``note`` or ``skipped``.
    message
        The message.
    """
    write_err(f"splade-edge: {kind}: {printable(shortened(message))}\n")


def shortened(message: str) -> str:
    """Leave out the middle of a message that is longer than anyone reads.

    Parameters
    ----------
    message
        The message.

    Returns
    -------
    str
        At most about 700 characters, or the message if it has at most 1,000.
    """
    return message if len(message) <= _LONGEST else f"{message[: _LONGEST - 400]} … {message[-300:]}"


@contextlib.contextmanager
def finished(what: str | None) -> Iterator[None]:
    """Print about work that is done. If standard output does not take it, a warning says that the work is done.

    Parameters
    ----------
    what
        What is done, for the warning, and the exit code stays 0. None: what is printed is the work itself, so errors
        pass through.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, KeyboardInterrupt) as error:
        if what is None:
            raise
        drop_output()
        if not isinstance(error, BrokenPipeError):  # the reader of a pipe has gone, as after | head
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else "interrupted"
            warn("warning", f"{what}, but standard output does not take the summary: {reason}")


def drop_output(stream: TextIO | None = None) -> None:
    """Discard what is in the buffer of a stream and what comes later, which Python would write at exit.

    Parameters
    ----------
    stream
        The stream; None: standard output.
    """
    stream = stream or sys.stdout
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def drop_what_is_left() -> None:
    """Discard what the standard streams do not take at the end. Python would end with another exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # reported already, closed, absent
            drop_output(stream)


def prepare_streams() -> None:
    """Make the standard streams safe to write to.

    A character that the terminal cannot show is no error. Pipes and files get UTF-8 on every system. Streams that the
    caller has closed get descriptors that refuse to be used, so that none of our files gets their numbers.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _refuse(number, name)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # absent where a test or a GUI replaced the stream
        if reconfigure is not None:
            if stream.isatty():
                reconfigure(errors="backslashreplace")
            else:
                reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")


def _refuse(number: int, name: str) -> None:
    with contextlib.suppress(OSError):
        os.fstat(number)
        return  # the number is in use
    with contextlib.suppress(OSError):
        # Opened in the wrong mode, so that using it is an error, as on a closed descriptor.
        opened = os.open(os.devnull, os.O_WRONLY if name == "stdin" else os.O_RDONLY)
        if opened != number:
            os.close(opened)
            return
        mode = "r" if name == "stdin" else "w"
        setattr(sys, name, open(number, mode, encoding="utf-8", errors="backslashreplace", closefd=False))  # noqa: SIM115


def cell(text: str, style: str = "") -> Text:
    """Stored text for a cell of a table.

    Parameters
    ----------
    text
        Any text.
    style
        A style of rich.

    Returns
    -------
    rich.text.Text
        The text, safe to print.
    """
    from rich.text import Text

    return Text(printable(text), style=style)


def new_table(*columns: str) -> Table:
    """A table without a frame.

    Parameters
    ----------
    columns
        Names of columns. A column whose name begins with ``>`` is right-aligned.

    Returns
    -------
    rich.table.Table
        The table, without rows.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return table


class _Trimmed:
    """A stream that drops the blanks at the end of lines, with which rich fills tables."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(_TRAILING.sub("\n", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def new_console(*, stderr: bool = False) -> Console:
    """A console that interprets nothing in the text it is given. It has 120 columns if the output is not a terminal.

    Parameters
    ----------
    stderr
        Whether it writes to standard error; if not, to standard output.

    Returns
    -------
    rich.console.Console
        The console.
    """
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with 1; main handles errors of all output
            raise

    stream = sys.stderr if stderr else sys.stdout
    width = _columns() or (None if stream.isatty() and "COLUMNS" not in os.environ else 120)
    file = stream if stream.isatty() else cast(TextIO, _Trimmed(stream))
    return PlainConsole(file=file, width=width, markup=False, highlight=False, emoji=False, soft_wrap=False)


def _columns() -> int | None:
    """The width that the environment states, if it is one."""
    stated = os.environ.get("COLUMNS", "")
    width = int(stated) if re.fullmatch("[0-9]{1,5}", stated) else 0
    return max(width, _NARROWEST) if width else None


def key_values(pairs: list[tuple[str, str]]) -> Table:
    """A table of names and values.

    Parameters
    ----------
    pairs
        Names and values.

    Returns
    -------
    rich.table.Table
        The table.
    """
    table = new_table("", "")
    table.show_header = False
    for key, value in pairs:
        table.add_row(cell(key, "bold"), cell(value))
    return table


def plural(count: int, what: str) -> str:
    """A number with its noun.

    Parameters
    ----------
    count
        The number.
    what
        The noun, in the singular.

    Returns
    -------
    str
        Such as ``1 document`` or ``2,000 queries``.
    """
    many = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{count:,} {what if count == 1 else many}"


def human_bytes(size: float) -> str:
    """A size for people.

    Parameters
    ----------
    size
        Bytes.

    Returns
    -------
    str
        In binary units.
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def human_seconds(seconds: float) -> str:
    """A time for people.

    Parameters
    ----------
    seconds
        Seconds.

    Returns
    -------
    str
        In seconds, minutes or hours.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
